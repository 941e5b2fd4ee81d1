"""Closed polygons in the plane, wherever they lie: corners (K, 2) with their centre at 0."""

import hashlib
import json
from pathlib import Path

import numpy as np
import polars as pl
import torch

from payoff.denoisers import NetDenoiser
from payoff.domains.base import Data, Domain, Judge, no_bar
from payoff.errors import UserError
from payoff.nets import ResidualMLP
from payoff.processes import GaussianProcess
from payoff.schedules import Cosine
from payoff.spaces import Euclidean


class Polygons(Domain[np.ndarray]):
    """Polygons with a fixed number of corners, in units of the data's spread."""

    space = Euclidean()

    def __init__(self, corners: int, scale: float) -> None:
        self.corners, self.scale, self.shape = corners, scale, (2 * corners,)

    def config(self):
        return {"corners": self.corners, "scale": self.scale}

    @classmethod
    def read(cls, source, options, score=None, *, seed=0, bar=no_bar):
        found, labels = [], []
        try:
            text = Path(source).read_text()
        except OSError as error:
            raise UserError(f"{source}: {error.strerror}; name a file of polygons") from None
        for number, line in enumerate(text.splitlines(), 1):
            try:
                entry = json.loads(line)
                corners = np.array(entry["corners"], dtype=np.float64)
                if corners.ndim != 2 or corners.shape[1] != 2 or not np.isfinite(corners).all():
                    raise ValueError("corners are pairs of finite numbers")
                labels.append(float("nan" if entry.get(score) is None else entry[score]))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise UserError(f"{source}, line {number}: mend it ({error})") from None
            found.append(corners - corners.mean(0))
        numbers = {len(p) for p in found}
        if len(numbers) != 1 or options.corners not in (0, *numbers):
            raise UserError(f"{source}: polygons of {sorted(numbers)} corners; give one --corners")
        y = None if score is None else torch.tensor(labels, dtype=torch.float64)
        if y is not None and not bool(y.isfinite().any()):
            raise UserError(f"--score {score}: no polygon of {source} has one")
        domain, mark = cls(numbers.pop(), float(np.std(found))), hashlib.sha256(text.encode())
        name = Path(source).stem
        return Data(domain, found, y, name, score or "", fingerprint=mark.hexdigest())

    def encode(self, objects):
        return torch.tensor(np.stack(objects) / self.scale).float().flatten(1), {}

    def decode(self, x, cond):
        rows = x.detach().cpu().double().numpy().reshape(-1, self.corners, 2) * self.scale
        return [r - r.mean(0) if np.isfinite(r).all() else None for r in rows]

    def denoiser(self, labels=0, width=None, depth=None):
        net = ResidualMLP(2 * self.corners, width=width or 128, depth=depth or 3, label_dim=labels)
        return NetDenoiser(net, GaussianProcess(self.space, Cosine(-8.0, 10.0)))

    def check(self, objects):
        return [None if p is not None and area(p) > 0 else "inside out" for p in objects]

    def keys(self, objects):
        return [f"polygon {np.round(p, 6).tolist()}" for p in objects]

    def features(self, objects):
        return torch.tensor([[*sides(p), *np.linalg.norm(p, axis=1), area(p)] for p in objects])

    def judge_names(self):
        return tuple(REWARDS)

    def judge(self, name):
        one = REWARDS.get(name)
        return one and Judge(f"polygons:{name}", lambda some: [one(p) for p in some])

    def table(self, objects):
        corners = [None if p is None else json.dumps(np.round(p, 6).tolist()) for p in objects]
        return pl.DataFrame({"corners": pl.Series(corners, dtype=pl.String)})

    def read_back(self, folder, name, table):
        return [None if text is None else np.array(json.loads(text)) for text in table["corners"]]

    def draw(self, objects, notes):
        return "".join(picture(p, note) for p, note in zip(objects, notes, strict=True))


def area(p):
    """Signed area of a polygon; positive counter-clockwise."""
    q = np.roll(p, -1, axis=0)
    return 0.5 * float((p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]).sum())


def roundness(p):
    """4π area / perimeter²: 1 for a circle."""
    return 4 * np.pi * area(p) / float(sides(p).sum()) ** 2


def sides(p):
    """Lengths of the sides."""
    return np.linalg.norm(p - np.roll(p, 1, axis=0), axis=1)


REWARDS = {"area": area, "roundness": roundness}


def picture(p, note):
    """One polygon as a figure with a note under it."""
    size = 1.1 * float(np.abs(p).max())
    points = " ".join(f"{x / size:.4f},{-y / size:.4f}" for x, y in p)
    shape = f'<polygon points="{points}" fill="#9ecae1" stroke="#08519c" stroke-width="0.025"/>'
    drawn = f'<svg viewBox="-1 -1 2 2" width="120">{shape}</svg>'
    return f"<figure>{drawn}<figcaption>{note}</figcaption></figure>"
