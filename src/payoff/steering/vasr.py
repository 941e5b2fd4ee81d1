r"""VASR, variance-aware systematic resampling: select at every check, by few random numbers.

Split the variance of a population's estimate at a check into what comes after it and what the
resampling adds. For masses m (the expected share of offspring) and weights w against the base,

.. math::
    V^{cont} \propto \sum_i \frac{w_i^2\,E[e^{2r/\tau}\mid x_i]}{m_i} ,
    \qquad m_i \propto w_i\sqrt{E[e^{2r/\tau}\mid x_i]} \approx w_i\,e^{V_i} ,

the last for values that are sharp; an offspring carries :math:`w_i/(Km_i)`. The variance that
resampling adds is smallest when the numbers of offspring vary least, hence systematic resampling.

In the engine's terms this is the ``difference`` potential with systematic resampling at *every*
check: exact like the others.

``form="max"`` is its biased sister for noisy values: the mass follows the best value a lineage has
seen, :math:`m_i\propto e^{\max_{j\le i}V_j}`, and offspring go on with the weight of an unselected
particle, so that every check and the end select in full. It looks for high rewards, and its draws
do **not** follow p*. The published abstract says that this form selects more strongly and is biased
on purpose; its exact rule was not at hand, and this one is a reconstruction. The mass
:math:`m\propto w\,e^{r}` and systematic resampling are the abstract's; the formula of
:math:`V^{cont}` above is derived.

Reference: VASR: Variance-Aware Systematic Resampling for Reward-Guided Diffusion (Shekhar,
Mukherjee, Zhang, Zhang, 2026).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from payoff.configs import option
from payoff.steering.particles import Particles, one_of
from payoff.steering.potentials import POTENTIALS
from payoff.steering.resampling import SCHEMES, normalised

FORMS = ("exact", "max")


@dataclass(eq=False)
class VASR(Particles):
    """``vasr``: see the module. ``form="max"`` gives up exactness and Ẑ."""

    name: ClassVar[str] = "vasr"

    threshold: float = option(1.0, "resample below this share of effective samples; 1 = always")
    form: str = option("exact", "exact, or max: by the best value seen, biased to high rewards")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.form == "max":
            self.exact = False  # type: ignore[misc]
            self.statistic = POTENTIALS["max"]

    def _select(self, population, mass, log_weights, due, generator):  # type: ignore[no-untyped-def]
        if self.form == "exact":
            super()._select(population, mass, log_weights, due, generator)
            return
        # the potential is the best value seen; an offspring counts as if nothing had been selected
        index = SCHEMES[self.resampling](normalised(population.potential), generator)
        index = torch.where(due, index, population.slots)
        unselected = population.potential.gather(1, index)
        population.take(index, torch.where(due, unselected, log_weights))

    def _note(self, population, watch, index=None):  # type: ignore[no-untyped-def]
        super()._note(population, watch, index)
        if self.form == "max":  # the weights have been dropped, and Ẑ with them
            self.summary = {k: v for k, v in self.summary.items() if not k.startswith("log_z")}

    def _check_options(self) -> None:
        super()._check_options()
        one_of(self.name, "form", self.form, FORMS)
