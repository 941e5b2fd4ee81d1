r"""Rewards learned from labelled rows: the common interface, and ridge regression.

A learned reward predicts a mean and a standard deviation of the *noiseless* score, in the units of
the labels; :math:`m(x) - k\,s(x)` is the pessimistic score that decides how far a design may be
trusted away from the data. Both are differentiable in x.

Ridge regression, with X the centred inputs (n, D) and :math:`\lambda > 0`:

.. math::
    \hat\theta = (X^\top X + \lambda I)^{-1} X^\top y, \qquad
    \hat\Sigma_\lambda = (X^\top X + \lambda I) / n, \qquad
    s^2(x) = \hat\sigma^2 \big(\tfrac1n + x^\top (X^\top X + \lambda I)^{-1} x\big).

Reference: Yuan, Huang, Ni, Chen, Wang, "Reward-Directed Conditional Diffusion: Provable
Distribution Estimation and Reward Improvement" (2023), for the use of
:math:`\hat\Sigma_\lambda` as the measure of distribution shift.
"""

from __future__ import annotations

import json
import math
from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from payoff.errors import UserError
from payoff.rewards.base import Cond, Reward

CHUNK = 4096  # rows predicted at once: keeps memory flat whatever is asked for


class LearnedReward(nn.Module, Reward):
    """A regressor used as a reward; the call returns the predicted mean.

    Attributes:
        noise: sd of one measurement around the score, in the labels' units, scalar.
        calibration: factor on every standard deviation, set on held-out residuals, scalar.
        extrapolation: further factor on intervals beyond the labelled rows, at least 1, scalar.
        location, spread: mean and sd of the labels it was fitted on, scalars.
    """

    differentiable = True
    kind: ClassVar[str]
    kinds: ClassVar[dict[str, type[LearnedReward]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        LearnedReward.kinds[cls.kind] = cls

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.noise: Tensor
        self.calibration: Tensor
        self.extrapolation: Tensor
        self.location: Tensor
        self.spread: Tensor
        for name, value in (
            ("noise", 0.0),
            ("calibration", 1.0),
            ("extrapolation", 1.0),
            ("location", 0.0),
            ("spread", 1.0),
        ):
            self.register_buffer(name, torch.tensor(value, dtype=torch.float64))

    @abstractmethod
    def _moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and uncalibrated variance (B,), (B,) in standardised label units."""

    def _mean(self, x: Tensor) -> Tensor:
        """The mean alone, where that is cheaper."""
        return self._moments(x)[0]

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Plain values that rebuild the object (with its state)."""

    @classmethod
    @abstractmethod
    def from_config(cls, config: dict[str, Any]) -> LearnedReward:
        """An object of the right sizes, before its state is loaded."""

    def forward(self, x: Tensor, cond: Cond | None = None) -> Tensor:
        """Predicted mean score (B,) of encoded rows x (B, D); cheaper than :meth:`predict`."""
        parts = [self._mean(part) for part in self._chunks(x)]
        mean = torch.cat(parts) if parts else x.new_zeros(0).to(self.location)
        return (self.location + self.spread * mean).to(x)

    def predict(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and calibrated sd of the noiseless score, two (B,) tensors, for x (B, D).

        Rows that are not finite give NaN for both. The dtype and device are those of x; inside it
        is float64.

        Raises:
            ValueError: x is not (B, D) with the D of the fit.
        """
        empty = x.new_zeros(0).to(self.location)
        parts = [self._moments(part) for part in self._chunks(x)] or [(empty, empty)]
        mean = torch.cat([m for m, _ in parts])
        variance = torch.cat([v for _, v in parts])
        std = self.calibration * self.spread * variance.clamp(min=1e-18).sqrt()
        return (self.location + self.spread * mean).to(x), std.to(x)

    def _chunks(self, x: Tensor) -> list[Tensor]:
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise ValueError(f"x has shape {tuple(x.shape)}; this reward expects (B, {self.dim})")
        return [part.to(self.location) for part in x.split(CHUNK)] if len(x) else []

    def lower_bound(self, x: Tensor, k: float = 1.0) -> Tensor:
        """The pessimistic score: mean - k sd, (B,)."""
        mean, std = self.predict(x)
        return mean - k * std

    def interval(
        self, x: Tensor, level: float = 0.9, *, beyond: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Central interval of the noiseless score at a level, two (B,) tensors.

        With ``beyond`` it is widened by :attr:`extrapolation`, for rows chosen to be better than
        the labelled ones.
        """
        mean, std = self.predict(x)
        half = self.half_width(std, level, beyond=beyond)
        return mean - half, mean + half

    def half_width(self, std: Tensor, level: float = 0.9, *, beyond: bool = False) -> Tensor:
        """Half the :meth:`interval` of predictions with these sds, in the shape of ``std``."""
        if not 0 < level < 1:
            raise ValueError(f"level={level} must lie between 0 and 1")
        k = math.sqrt(2) * float(torch.erfinv(torch.tensor(level, dtype=torch.float64)))
        return k * (float(self.extrapolation) if beyond else 1.0) * std

    def save(self, folder: Path | str, name: str = "reward") -> None:
        """Write ``name.safetensors`` and ``name.json`` into a folder (made if missing)."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        # Copies, since members may share a tensor, which the format does not allow.
        tensors = {key: value.detach().clone() for key, value in self.state_dict().items()}
        save_file(tensors, folder / f"{name}.safetensors")
        text = json.dumps({"kind": self.kind, **self.config()}, indent=2)
        (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")

    @staticmethod
    def load(folder: Path | str, name: str = "reward") -> LearnedReward:
        """Read what :meth:`save` wrote.

        Raises:
            UserError: a file is missing or does not hold a learned reward.
        """
        folder = Path(folder)
        try:
            config = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
            reward = LearnedReward.kinds[config.pop("kind")].from_config(config)
            reward.load_state_dict(load_file(folder / f"{name}.safetensors"))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise UserError(
                f"no learned reward could be read from {folder} ({type(error).__name__}: {error}); "
                f"expected {name}.json and {name}.safetensors as written by 'save'"
            ) from error
        reward.refresh()
        return reward

    def refresh(self) -> None:
        """Recompute what is derived from the state; called after loading."""


class Ridge(LearnedReward):
    """Ridge regression in closed form; see the module's formulas.

    Make one with :meth:`fit`. ``Sigma`` is the paper's matrix :math:`\\hat\\Sigma_\\lambda`.
    """

    kind = "ridge"

    def __init__(self, dim: int, rows: int = 1, lam: float = 1.0) -> None:
        super().__init__(dim)
        self.rows, self.lam = rows, lam
        self.centre: Tensor
        self.theta: Tensor
        self.gram: Tensor
        self.residual: Tensor
        self.register_buffer("centre", torch.zeros(dim, dtype=torch.float64))
        self.register_buffer("theta", torch.zeros(dim, dtype=torch.float64))
        self.register_buffer("gram", torch.eye(dim, dtype=torch.float64))
        self.register_buffer("residual", torch.tensor(0.0, dtype=torch.float64))
        self.has_intercept = True

    @classmethod
    def fit(
        cls, x: Tensor, y: Tensor, *, lam: float | None = None, intercept: bool = True
    ) -> Ridge:
        """Fit on x (n, D), y (n,).

        Args:
            x: encoded rows.
            y: labels, all finite.
            lam: the ridge :math:`\\lambda`; None picks the value with the least leave-one-out error
                (in closed form) from 1e-5 to 1e4 times the mean squared singular value of X.
            intercept: centre x and y first (off: exactly the paper's estimator).

        Raises:
            ValueError: the shapes do not fit or a value is not finite.
        """
        x, y = check_rows(x, y)
        n, dim = x.shape
        self = cls(dim, rows=n).to(x.device)
        self.has_intercept = intercept
        if intercept:
            self.centre = x.mean(dim=0)
            self.location = y.mean()
        self.spread = y.std(correction=0).clamp(min=1e-12) if intercept else torch.ones_like(y[0])
        design, target = x - self.centre, (y - self.location) / self.spread
        gram = design.T @ design
        self.lam = _least_leave_one_out(design, target, intercept) if lam is None else float(lam)
        if self.lam <= 0:
            raise ValueError(f"lam={self.lam} must be positive")
        self.gram = gram + self.lam * torch.eye(dim).to(gram)
        self.theta = torch.linalg.solve(self.gram, design.T @ target)
        used = torch.linalg.solve(self.gram, gram).diagonal().sum() + float(intercept)
        error = (target - design @ self.theta).square().sum()
        self.residual = (error / (n - used).clamp(min=1.0)).sqrt()
        self.noise = self.residual * self.spread
        return self

    @property
    def Sigma(self) -> Tensor:
        r""":math:`(X^\top X + \lambda I)/n`, shape (D, D)."""
        return self.gram / self.rows

    @property
    def coefficients(self) -> Tensor:
        """Slopes in the labels' units, shape (D,): the paper's theta."""
        return self.theta * self.spread

    def shift(self, x: Tensor) -> Tensor:
        r"""Shift :math:`\mathrm{Tr}(\hat\Sigma_\lambda^{-1}\, E[x x^\top])` of a sample.

        Args:
            x: the sample (n, D); its second moment (about the fit's centre) is taken.
        """
        off = x.to(self.centre) - self.centre
        return (torch.linalg.solve(self.Sigma, off.T @ off / len(x))).diagonal().sum()

    def _moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        off = x - self.centre
        leverage = (off * torch.linalg.solve(self.gram, off.T).T).sum(dim=1)
        if self.has_intercept:
            leverage = leverage + 1.0 / self.rows
        return off @ self.theta, self.residual.square() * leverage

    def config(self) -> dict[str, Any]:
        return {
            "dim": self.dim,
            "rows": self.rows,
            "lam": self.lam,
            "intercept": self.has_intercept,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Ridge:
        self = cls(config["dim"], config["rows"], config["lam"])
        self.has_intercept = config["intercept"]
        return self


def check_rows(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Rows x (n, D) and labels y (n,) in float64, finite, or an error that names both shapes."""
    if x.ndim != 2 or y.ndim != 1 or len(x) != len(y) or len(y) < 2:
        raise ValueError(
            f"x has shape {tuple(x.shape)} and y {tuple(y.shape)}; expected (n, D) and (n,), n > 1"
        )
    if not (x.isfinite().all() and y.isfinite().all()):
        raise ValueError("x and y must be finite; leave unlabelled and failed rows out of the fit")
    # MPS has no float64; everywhere else the linear algebra is done in it.
    work = torch.float32 if x.device.type == "mps" else torch.float64
    return x.detach().to(work), y.detach().to(x.device, work)


def _least_leave_one_out(design: Tensor, target: Tensor, intercept: bool) -> float:
    """The ridge with the least leave-one-out error, from one singular value decomposition."""
    u, s, _ = torch.linalg.svd(design, full_matrices=False)
    projected = u.T @ target
    scale = max(float(s.square().mean()), 1e-12)
    best = (math.inf, 1.0)
    for exponent in torch.linspace(-5, 4, 37).tolist():
        lam = scale * 10.0**exponent
        shrink = s.square() / (s.square() + lam)
        residual = target - u @ (shrink * projected)
        leverage = (u.square() * shrink).sum(dim=1) + (1.0 / len(target) if intercept else 0.0)
        error = float((residual / (1 - leverage).clamp(min=1e-9)).square().mean())
        best = min(best, (error, lam))
    return best[1]
