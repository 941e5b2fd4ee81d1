r"""The soft value :math:`V_t(x_t) = \log E[e^{r(x_0)/\tau}\mid x_t]`.

Natural logarithm, reward divided by the temperature, so that :math:`e^{V_t}` is the density of the
tilted marginal against the base marginal up to the constant Z:
:math:`p^*_t(x) = p_t(x)\,e^{V_t(x)}/Z`. Guidance adds its gradient to the score, steering
re-weights by it, and at the pure-noise end its average gives Z.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from payoff.spaces import Condition


class Value(ABC):
    """An estimate of the soft value.

    Attributes:
        exact: whether it equals V_t up to rounding; an estimate that only converges is not exact.
        differentiable: whether autograd through ``__call__`` gives its gradient in x_t.
    """

    exact: ClassVar[bool] = False
    differentiable: bool = False

    @abstractmethod
    def __call__(
        self,
        x_t: Tensor,
        t: Tensor,
        cond: Condition | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """V of noisy samples x_t (B, ...) at times t, () or (B,): shape (B,), in nats.

        ``generator`` is for values that draw; the others do not look at it.
        """

    def given(
        self,
        prediction: Any,
        x_t: Tensor,
        t: Tensor,
        cond: Condition | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The same where the base's own prediction at x_t is known: it need not be made twice."""
        return self(x_t, t, cond, generator=generator)
