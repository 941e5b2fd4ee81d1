r"""Lift and drag of airfoils, batched and differentiable: the NeuralFoil networks in torch.

NeuralFoil is a set of small multi-layer perceptrons g, trained on millions of XFoil runs, that map
the 18 Kulfan parameters and the flow (angle of attack, Reynolds number, transition) to CL, CD and a
confidence. Turning an airfoil upside down and the angle of attack with it must turn CL round and
leave CD alone, so the prediction is averaged over both views. With :math:`m(z)` the squared
Mahalanobis distance of the 25 inputs to the training data,

.. math::
    \text{confidence} = \sigma\Big(\tfrac12 \sum_{z \in \{z_1, z_2\}} g_0(z) - m(z) / 50\Big), \quad
    C_L = \tfrac14 (g_1(z_1) - g_1(z_2)), \quad
    C_D = \exp\big(g_2(z_1) + g_2(z_2) - 4\big).

Only the weights of the ``neuralfoil`` package are read (plain arrays, no pickles); the result
agrees with the package's own to rounding and has gradients.

Reference: Sharpe, P. and Hansman, R. J., "NeuralFoil: An Airfoil Aerodynamics Analysis Tool Using
Physics-Informed Machine Learning" (2025).
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from payoff.domains.airfoils.data import package_folder
from payoff.errors import UserError
from payoff.rewards.base import Reward

MODELS = ("xxsmall", "xsmall", "small", "medium", "large", "xlarge", "xxlarge", "xxxlarge")


class AirfoilFlow(nn.Module):
    """NeuralFoil at one flow condition.

    Args:
        alpha: angle of attack in degrees.
        re: Reynolds number on the chord.
        model: size of the network, one of :data:`MODELS`.
        n_crit: amplification factor of transition (9 is an average wind tunnel).

    Raises:
        UserError: the ``neuralfoil`` package is missing, or the condition makes no sense.
    """

    def __init__(
        self, alpha: float = 5.0, re: float = 1e6, model: str = "large", n_crit: float = 9.0
    ) -> None:
        super().__init__()
        if model not in MODELS:
            raise UserError(f"unknown NeuralFoil model '{model}'; choose of {', '.join(MODELS)}")
        if not (math.isfinite(alpha) and math.isfinite(re) and re > 0):
            raise UserError(f"alpha={alpha} (degrees) and re={re} must be finite, and re positive")
        self.alpha, self.re, self.model, self.n_crit = alpha, re, model, n_crit
        weights, biases, mean, precision = _weights(model)
        self.weights = nn.ParameterList(nn.Parameter(w, requires_grad=False) for w in weights)
        self.biases = nn.ParameterList(nn.Parameter(b, requires_grad=False) for b in biases)
        angle = math.radians(alpha)
        flow = [
            math.sin(2 * angle),
            math.cos(angle),
            math.sin(angle) ** 2,
            (math.log(re) - 12.5) / 3.5,
            (n_crit - 9) / 4.5,
            1.0,  # transition is left free on both sides
            1.0,
        ]
        self.mean: Tensor
        self.precision: Tensor
        self.flow: Tensor
        self.register_buffer("mean", mean)
        self.register_buffer("precision", precision)
        self.register_buffer("flow", torch.tensor(flow, dtype=torch.float64))

    def forward(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """CL, CD and confidence in [0, 1], each (B,), of Kulfan parameters (B, 18).

        Computed in float64; rows with a number that is not finite give NaN.
        """
        if parameters.ndim != 2 or parameters.shape[1] != 18:
            raise ValueError(f"parameters have shape {tuple(parameters.shape)}; expected (B, 18)")
        p = parameters.to(torch.float64)
        lower, upper, edge, gap = p[:, :8], p[:, 8:16], p[:, 16:17], p[:, 17:18] * 50
        flow = self.flow.expand(len(p), -1)
        turned = torch.cat([-flow[:, :1], flow[:, 1:]], dim=1)
        ahead = self._network(torch.cat([upper, lower, edge, gap, flow], dim=1))
        flipped = self._network(torch.cat([-lower, -upper, -edge, gap, turned], dim=1))
        confidence = torch.sigmoid((ahead[:, 0] + flipped[:, 0]) / 2)
        lift = (ahead[:, 1] - flipped[:, 1]) / 4
        drag = torch.exp(ahead[:, 2] + flipped[:, 2] - 4)
        return lift, drag, confidence

    def _network(self, inputs: Tensor) -> Tensor:
        h = inputs
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = h @ weight.T + bias
            if i + 1 < len(self.weights):
                h = nn.functional.silu(h)
        off = inputs - self.mean
        distance = (off @ self.precision * off).sum(dim=1)
        return torch.cat([h[:, :1] - distance[:, None] / (2 * inputs.shape[1]), h[:, 1:]], dim=1)


class LiftToDrag(Reward):
    """Lift-to-drag ratio CL/CD of Kulfan parameters (B, 18), optionally gated by confidence.

    Args:
        alpha: angle of attack in degrees.
        re: Reynolds number.
        model: size of the network, one of :data:`MODELS`.
        min_confidence: rows that NeuralFoil itself trusts less than this count as failed (NaN);
            0 keeps all.
    """

    differentiable = True

    def __init__(
        self,
        alpha: float = 5.0,
        re: float = 1e6,
        model: str = "large",
        min_confidence: float = 0.0,
    ) -> None:
        self.flow = AirfoilFlow(alpha, re, model)
        self.min_confidence = min_confidence

    def __call__(self, x: Tensor, cond: dict[str, Tensor] | None = None) -> Tensor:
        lift, drag, confidence = self.flow(x)
        ratio = lift / drag
        if self.min_confidence > 0:
            ratio = ratio.masked_fill(confidence < self.min_confidence, float("nan"))
        return ratio


@lru_cache(maxsize=4)
def _weights(model: str) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], Tensor, Tensor]:
    """Layers in order, the last cut to the three outputs used, and the inputs' distribution."""
    folder = package_folder("neuralfoil") / "nn_weights_and_biases"
    try:
        with np.load(folder / f"nn-{model}.npz", allow_pickle=False) as held:
            layers = sorted({int(name.split(".")[1]) for name in held.files})
            weights = [torch.from_numpy(held[f"net.{i}.weight"]).double() for i in layers]
            biases = [torch.from_numpy(held[f"net.{i}.bias"]).double() for i in layers]
        with np.load(folder / "scaled_input_distribution.npz", allow_pickle=False) as held:
            mean = torch.from_numpy(held["mean_inputs_scaled"]).double()
            precision = torch.from_numpy(held["inv_cov_inputs_scaled"]).double()
    except (OSError, KeyError, ValueError) as error:
        raise UserError(
            f"the weights of NeuralFoil's model '{model}' could not be read in {folder} ({error}); "
            "install the version payoff is tested with: pip install payoff[airfoils]"
        ) from error
    weights[-1], biases[-1] = weights[-1][:3].clone(), biases[-1][:3].clone()
    return tuple(weights), tuple(biases), mean, precision
