"""Ways to get at the soft value V_t(x_t) = log E[exp(r(x_0)/τ) | x_t].

=================  =========================  ================================================
`PlugIn`           one denoiser call          biased at every noise level, however much compute
`Posterior`        one denoiser call          biased; draws around the clean estimate; tokens too
`MonteCarlo`       draws × steps calls        converges; the logarithm of a mean is biased down
`Learned`          one call of its network    as good as its fit
`Feasible`         one call of its network    of a reward that some samples do not have
`LabelLikelihood`  one call of its network    of a label; as good as its fit and as a Gaussian
`ExactValue`       closed-form problems only  in :mod:`payoff.problems`
=================  =========================  ================================================
"""

from __future__ import annotations

from payoff.values.base import Value
from payoff.values.feasible import Feasible
from payoff.values.label import LabelLikelihood
from payoff.values.learned import Learned
from payoff.values.monte_carlo import MonteCarlo
from payoff.values.networks import not_learnable, value_network
from payoff.values.plug_in import PlugIn
from payoff.values.posterior import Posterior

__all__ = [
    "Feasible",
    "LabelLikelihood",
    "Learned",
    "MonteCarlo",
    "PlugIn",
    "Posterior",
    "Value",
    "not_learnable",
    "value_network",
]
