from __future__ import annotations

import pytest
import torch

from payoff.denoisers import Denoiser
from payoff.guidance import ClassifierFree
from payoff.predictions import Prediction
from payoff.processes import GaussianProcess


class Labelled(Denoiser):
    """x0_hat = label where it is known, 0 where it is not."""

    def __init__(self) -> None:
        super().__init__()
        self.process = GaussianProcess()
        self.calls = 0

    def forward(self, x_t, t, cond=None):
        self.calls += 1
        known = cond.get("label_known", torch.ones(x_t.shape[0]))
        alpha, sigma = self.process.schedule(t)
        return Prediction((cond["label"] * known[:, None]).expand_as(x_t), x_t, alpha, sigma)


@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("t", [torch.tensor(0.4), torch.rand(6)], ids=["one time", "many times"])
def test_extrapolates_from_the_null_label(weight: float, t: torch.Tensor) -> None:
    base, label = Labelled(), torch.randn(6, 1)
    guided = ClassifierFree(base, weight)
    prediction = guided(torch.randn(6, 3), t, {"label": label})
    torch.testing.assert_close(prediction.x0, ((1 + weight) * label).expand(6, 3))
    assert base.calls == 1


def test_errors() -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        ClassifierFree(Labelled(), -1.0)
    with pytest.raises(ValueError, match="label"):
        ClassifierFree(Labelled(), 1.0)(torch.randn(2, 3), torch.tensor(0.5))
