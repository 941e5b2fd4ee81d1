"""A table of cantilever beams, a few of them measured, and the true score as an oracle.

A beam of width b, height h and length L with a tip load F deflects by F L³ / (3 E I), with
I = b h³ / 12.
``python examples/beams.py`` writes beams.csv: 900 beams of usual proportions, 120 of which have a
measured stiffness per mass (kN/m per kg) with 5 % measurement noise.

    payoff design examples/beams.csv --score stiffness --id name --oracle examples.beams:oracle
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

# Young's modulus (GPa), density (kg/m³): textbook values
MATERIALS = {"steel": (210.0, 7850.0), "aluminium": (70.0, 2700.0), "oak": (11.0, 720.0)}


def oracle(designs: pl.DataFrame) -> np.ndarray:
    """Stiffness per mass, kN/m per kg, of beams with width, height (mm), length (m), holes."""
    modulus, density = np.array([MATERIALS[m] for m in designs["material"]]).T
    b, h = designs["width"].to_numpy() / 1000, designs["height"].to_numpy() / 1000
    length, holes = designs["length"].to_numpy(), designs["holes"].to_numpy()
    hole = np.minimum(0.012, 0.4 * h)  # drilled through the web, on the neutral axis
    inertia = b * h**3 / 12 - b * hole**3 / 12 * holes * hole / length
    volume = b * h * length - holes * b * np.pi * hole**2 / 4
    return 3 * modulus * 1e6 * inertia / length**3 / (density * volume)


def table(rows: int = 900, measured: int = 120, seed: int = 0) -> pl.DataFrame:
    """Beams whose height follows their length, and width their height, as in practice."""
    rng = np.random.default_rng(seed)
    length = rng.uniform(0.8, 3.0, rows)
    height = 1000 * length / rng.normal(18, 3, rows).clip(10, 28)
    width = height / rng.normal(2.2, 0.4, rows).clip(1.2, 3.5)
    designs = pl.DataFrame(
        {
            "name": [f"beam-{i:03d}" for i in range(rows)],
            "width": width.round(2),
            "height": height.round(2),
            "length": length.round(3),
            "holes": rng.integers(0, 7, rows),
            "material": rng.choice(list(MATERIALS), rows, p=[0.5, 0.3, 0.2]),
        }
    )
    score = oracle(designs)
    noisy = score + 0.05 * score.std() * rng.standard_normal(rows)
    known = np.zeros(rows, dtype=bool)
    known[rng.choice(rows, measured, replace=False)] = True
    label = [round(float(v), 3) if k else None for v, k in zip(noisy, known, strict=True)]
    return designs.with_columns(pl.Series("stiffness", label, dtype=pl.Float64))


if __name__ == "__main__":
    target = Path(__file__).with_name("beams.csv")
    table().write_csv(target)
    print(f"wrote {target}")
