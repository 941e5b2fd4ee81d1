r"""Data and designs as points on a plane: principal components of a mixed table.

A numeric column becomes :math:`(x - \bar x)/s`; a category becomes its centred 0/1 indicators,
divided together so that their variances add up to one. Every column then has the same weight. Mean,
spread and axes come from the data alone; the designs are only projected.

Reference: Pearson, K., "On lines and planes of closest fit to systems of points in space" (1901).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from payoff.report.run import Array, DesignRun, Feature

MAX_DIMENSIONS = 2000
MAX_LEVELS = 50


@dataclass(frozen=True)
class Projection:
    """Points on the plane of the two widest directions.

    Attributes:
        data: (n, 2).
        designs: (m, 2).
        shares: the share of the data's variance along each axis.
        drivers: for each axis, the columns with the largest loadings.
        rank: how many directions the data have at all (0, 1, or 2 and more).
    """

    data: Array
    designs: Array
    shares: tuple[float, float]
    drivers: tuple[list[str], list[str]]
    rank: int


def project(run: DesignRun, data: pl.DataFrame, predicted: Array) -> Projection:
    """Fit the plane to ``data`` and project data and designs.

    The sign of an axis is free; it is chosen so that the predicted score improves along it.

    Args:
        run: the run, for its features, its designs and its direction.
        data: (n rows) the rows to fit to and draw.
        predicted: (n,) their predicted scores.
    """
    x, z, owners = _encode(run.features, data, run.designs)
    loadings, variances = _components(x)
    total = float(x.var(axis=0).sum()) or 1.0
    better = np.where(np.isfinite(predicted), run.sign * predicted, np.nan)
    for j in range(2):
        along = x @ loadings[:, j]
        kept = np.isfinite(better)
        if kept.any() and np.dot(along[kept], better[kept] - better[kept].mean()) < 0:
            loadings[:, j] *= -1
    rank = int((variances > 1e-9 * total).sum())
    return Projection(
        data=x @ loadings,
        designs=z @ loadings,
        shares=(float(variances[0] / total), float(variances[1] / total)),
        drivers=(_drivers(loadings[:, 0], owners), _drivers(loadings[:, 1], owners)),
        rank=rank,
    )


def _encode(
    features: tuple[Feature, ...], data: pl.DataFrame, designs: pl.DataFrame
) -> tuple[Array, Array, list[str]]:
    """Data (n, p), designs (m, p) and, for each of the p columns, the column it stems from."""
    left: list[Array] = []
    right: list[Array] = []
    owners: list[str] = []
    for feature in features:
        pair = (_indicators if feature.categorical else _standardised)(
            data[feature.name], designs[feature.name]
        )
        if len(owners) + pair[0].shape[1] > MAX_DIMENSIONS:
            break
        left.append(pair[0])
        right.append(pair[1])
        owners += [feature.name] * pair[0].shape[1]
    empty = [np.zeros((len(data), 0))], [np.zeros((len(designs), 0))]
    return np.hstack(left or empty[0]), np.hstack(right or empty[1]), owners


def _standardised(data: pl.Series, designs: pl.Series) -> tuple[Array, Array]:
    x, z = (
        np.asarray(s.cast(pl.Float64, strict=False).fill_null(float("nan")).to_numpy()).copy()
        for s in (data, designs)
    )
    kept = x[np.isfinite(x)]
    spread = float(kept.std()) if len(kept) else 0.0
    if not np.isfinite(spread) or spread <= 1e-12 * float(np.abs(kept).max(initial=0.0)):
        return np.zeros((len(x), 0)), np.zeros((len(z), 0))
    scaled = [(v - kept.mean()) / spread for v in (x, z)]
    filled = [np.where(np.isfinite(v), v, 0.0)[:, None] for v in scaled]
    return filled[0], filled[1]


def _indicators(data: pl.Series, designs: pl.Series) -> tuple[Array, Array]:
    x, z = (np.array([str(v) for v in s.to_list()], dtype=object) for s in (data, designs))
    levels, counts = np.unique(x.astype(str), return_counts=True)
    levels = levels[np.argsort(-counts, kind="stable")][:MAX_LEVELS]
    hot = (x.astype(str)[:, None] == levels[None, :]).astype(np.float64)
    cold = (z.astype(str)[:, None] == levels[None, :]).astype(np.float64)
    mean, spread = hot.mean(axis=0), float(np.sqrt(hot.var(axis=0).sum()))
    if spread == 0:
        return np.zeros((len(x), 0)), np.zeros((len(z), 0))
    return (hot - mean) / spread, (cold - mean) / spread


def _components(x: Array) -> tuple[Array, Array]:
    """The two leading directions (p, 2) and the variances along them; zeros where there is none."""
    n, p = x.shape
    loadings, variances = np.zeros((p, 2)), np.zeros(2)
    k = min(n, p, 2)
    if k == 0:
        return loadings, variances
    if p <= n:
        values, vectors = np.linalg.eigh(x.T @ x / n)
        directions = vectors[:, ::-1][:, :k]
    else:  # the same directions from the smaller (n, n) matrix
        values, vectors = np.linalg.eigh(x @ x.T / n)
        directions = x.T @ vectors[:, ::-1][:, :k]
        directions /= np.maximum(np.linalg.norm(directions, axis=0), 1e-300)
    loadings[:, :k] = directions
    variances[:k] = np.maximum(values[::-1][:k], 0.0)
    return loadings, variances


def _drivers(loading: Array, owners: list[str], n: int = 2) -> list[str]:
    weight: dict[str, float] = {}
    for owner, value in zip(owners, loading, strict=True):
        weight[owner] = weight.get(owner, 0.0) + float(value) ** 2
    ranked = sorted(weight, key=lambda name: -weight[name])
    return [name for name in ranked[:n] if weight[name] > 0]
