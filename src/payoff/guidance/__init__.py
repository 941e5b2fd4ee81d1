r"""Guidance: Denoiser -> Denoiser, a change of drift at sampling time.

================ ============================================== ================================
`Guided`         along the gradient of any differentiable value exact if the value is
`TrainingFree`   DPS, LGD, MPGD, UGD, FreeDoM, TFG by switches  biased
`LookAhead`      towards a linearised reward, on the subspace   exact for a label on a Gaussian
`ClassifierFree` away from the unconditional model              biased
`Recurrent`      a Sampler that takes its steps several times   exact if the denoiser is
================ ============================================== ================================
"""

from payoff.guidance.base import Guided
from payoff.guidance.classifier_free import ClassifierFree
from payoff.guidance.gradient import LookAhead
from payoff.guidance.recurrent import Recurrent
from payoff.guidance.training_free import PRESETS, TrainingFree

__all__ = ["PRESETS", "ClassifierFree", "Guided", "LookAhead", "Recurrent", "TrainingFree"]
