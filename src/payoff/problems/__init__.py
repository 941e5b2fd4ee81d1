"""Targets with closed-form answers: the right answer that every method is measured against.

========================  ====================================  =============================
`GaussianSubspace`        Gaussian on a random subspace         linear reward, labels
`MixtureProblem`          Gaussian mixture                      linear or quadratic reward
`CloudProblem`            ragged, centred, E(3)-invariant cloud  radius of gyration
`TokenChain`              Markov chain of tokens, enumerated    any reward
========================  ====================================  =============================
"""

from __future__ import annotations

from payoff.problems.base import ExactValue, Law, Problem, Tiltable
from payoff.problems.cloud import CloudProblem, ScaleMixture
from payoff.problems.gaussian import GaussianSubspace, LabelledGaussian
from payoff.problems.mixture import GaussianMixture, MixtureProblem
from payoff.problems.quadratic import Quadratic, Radius
from payoff.problems.sequence import AdditiveReward, EnumeratedTokens, TableReward, TokenChain

__all__ = [
    "AdditiveReward",
    "CloudProblem",
    "EnumeratedTokens",
    "ExactValue",
    "GaussianMixture",
    "GaussianSubspace",
    "LabelledGaussian",
    "Law",
    "MixtureProblem",
    "Problem",
    "Quadratic",
    "Radius",
    "ScaleMixture",
    "TableReward",
    "Tiltable",
    "TokenChain",
]
