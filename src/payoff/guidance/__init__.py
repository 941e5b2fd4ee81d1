"""Guidance: Denoiser -> Denoiser, a change of drift at sampling time."""

from payoff.guidance.classifier_free import ClassifierFree

__all__ = ["ClassifierFree"]
