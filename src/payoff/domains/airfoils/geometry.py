r"""Airfoil shapes from 18 Kulfan (class/shape transformation, CST) parameters.

With :math:`\psi = x/c \in [0, 1]`, the Bernstein polynomials
:math:`S_i(\psi) = \binom{7}{i} \psi^i (1 - \psi)^{7 - i}` and the class function
:math:`C(\psi) = \psi^{1/2} (1 - \psi)`, the two surfaces are

.. math::
    y_u(\psi) &= C(\psi) \sum_i u_i S_i(\psi) + w\,\psi (1 - \psi)^{8.5} + \tfrac12 \psi\, t_{TE} \\
    y_l(\psi) &= C(\psi) \sum_i l_i S_i(\psi) + w\,\psi (1 - \psi)^{8.5} - \tfrac12 \psi\, t_{TE}

so the shape is linear in its 18 numbers (l_0..l_7, u_0..u_7, w, t_TE), and fitting a point set is
one least-squares problem.

Reference: Kulfan, B. M., "Universal Parametric Geometry Representation Method", Journal of
Aircraft 45 (2008), and the leading-edge modification w of "Modification of CST Airfoil
Representation Methodology" (Kulfan 2020).
"""

from __future__ import annotations

from math import comb

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

N_WEIGHTS = 8
COLUMNS: tuple[str, ...] = (
    *(f"lower_{i}" for i in range(N_WEIGHTS)),
    *(f"upper_{i}" for i in range(N_WEIGHTS)),
    "leading_edge_weight",
    "TE_thickness",
)


def stations(n: int = 201) -> Array:
    """``n`` chordwise stations in [0, 1], cosine-spaced: dense at both edges, where shapes bend."""
    return np.asarray(0.5 - 0.5 * np.cos(np.linspace(0.0, np.pi, n)))


def shape_functions(psi: npt.ArrayLike) -> Array:
    r"""Class times Bernstein functions :math:`C(\psi) S_i(\psi)`, shape (..., 8)."""
    x = np.asarray(psi, dtype=np.float64)[..., None]
    i = np.arange(N_WEIGHTS)
    binomials = np.array([comb(N_WEIGHTS - 1, int(j)) for j in i], dtype=np.float64)
    bernstein = binomials * x**i * (1 - x) ** (N_WEIGHTS - 1 - i)
    return np.asarray(np.sqrt(x) * (1 - x) * bernstein)


def _leading_edge_mode(psi: Array) -> Array:
    return np.asarray(psi * np.maximum(1 - psi, 0.0) ** (N_WEIGHTS + 0.5))


def surfaces(parameters: npt.ArrayLike, psi: npt.ArrayLike) -> tuple[Array, Array]:
    """Lower and upper surface heights y/c at the stations.

    Args:
        parameters: (B, 18) in the order of :data:`COLUMNS`.
        psi: (M,) stations x/c in [0, 1].

    Returns:
        two (B, M) arrays, in chord lengths.
    """
    p = _checked(parameters)
    x = np.asarray(psi, dtype=np.float64)
    basis = shape_functions(x).T
    common = p[:, 16:17] * _leading_edge_mode(x)
    half_gap = 0.5 * p[:, 17:18] * x
    lower = p[:, :8] @ basis + common - half_gap
    upper = p[:, 8:16] @ basis + common + half_gap
    return lower, upper


def thickness(parameters: npt.ArrayLike, psi: npt.ArrayLike | None = None) -> Array:
    """Thickness (y_u - y_l)/c at the stations, shape (B, M); 201 cosine stations by default."""
    lower, upper = surfaces(parameters, stations() if psi is None else psi)
    return upper - lower


def positive_thickness(parameters: npt.ArrayLike, n: int = 257) -> npt.NDArray[np.bool_]:
    """True where the upper surface lies above the lower one over the whole open chord, shape (B,).

    At the leading edge every CST shape has zero thickness, and at the trailing edge it has exactly
    ``TE_thickness``, which may be zero (a sharp edge) but not negative (crossed surfaces). Rows
    with a number that is not finite are False.
    """
    p = _checked(parameters)
    finite = np.isfinite(p).all(axis=1)
    inner = thickness(np.where(np.isfinite(p), p, 0.0), stations(n)[1:-1])
    return np.asarray(finite & (inner > 0).all(axis=1) & (p[:, 17] >= 0))


def coordinates(parameters: npt.ArrayLike, n: int = 101) -> Array:
    """Closed outlines for drawing, shape (B, 2n - 1, 2).

    The order is the usual one of airfoil files: trailing edge, upper surface, leading edge, lower
    surface, trailing edge; ``n`` stations a side, in chord lengths.
    """
    psi = stations(n)
    lower, upper = surfaces(parameters, psi)
    x = np.concatenate([psi[::-1], psi[1:]])
    y = np.concatenate([upper[:, ::-1], lower[:, 1:]], axis=1)
    return np.stack([np.broadcast_to(x, y.shape), y], axis=-1)


def normalised(points: npt.ArrayLike) -> Array:
    """Move, turn and scale an outline (M, 2) so that the chord runs from (0, 0) to (1, 0).

    The trailing edge is the midpoint of the first and last point, the leading edge the point
    farthest from it.
    """
    xy = np.asarray(points, dtype=np.float64)
    trailing = 0.5 * (xy[0] + xy[-1])
    distance = np.hypot(*(xy - trailing).T)
    leading = xy[int(np.argmax(distance))]
    chord = (trailing - leading) / np.max(distance)
    turn = np.array([[chord[0], chord[1]], [-chord[1], chord[0]]])
    return np.asarray((xy - leading) @ turn.T / np.max(distance))


def fit(points: npt.ArrayLike) -> Array:
    """The 18 Kulfan parameters of an outline (M, 2), by linear least squares, shape (18,).

    A fit whose trailing-edge thickness comes out negative is repeated with it held at zero.
    """
    xy = normalised(points)
    x, y = xy.T
    upper = np.arange(len(x)) <= np.argmin(x)
    # A normalised outline may stick out of [0, 1] by a rounding error, where the square root ends.
    basis = shape_functions(np.clip(x, 0.0, None))
    design = np.concatenate(
        [
            np.where(upper[:, None], 0.0, basis),
            np.where(upper[:, None], basis, 0.0),
            _leading_edge_mode(x)[:, None],
            np.where(upper, x / 2, -x / 2)[:, None],
        ],
        axis=1,
    )
    solution = np.linalg.lstsq(design, y, rcond=None)[0]
    if solution[-1] < 0:
        solution = np.append(np.linalg.lstsq(design[:, :-1], y, rcond=None)[0], 0.0)
    return np.asarray(solution)


def _checked(parameters: npt.ArrayLike) -> Array:
    p = np.atleast_2d(np.asarray(parameters, dtype=np.float64))
    if p.ndim != 2 or p.shape[1] != len(COLUMNS):
        raise ValueError(
            f"airfoil parameters have shape {np.shape(parameters)}; expected (B, 18) in the order "
            "lower_0..lower_7, upper_0..upper_7, leading_edge_weight, TE_thickness"
        )
    return p
