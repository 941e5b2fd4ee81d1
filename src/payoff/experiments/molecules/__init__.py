"""Molecules end to end: drawn from a saved model, and a model tuned towards a reward."""
