"""The design job from Python: a DataFrame in, a run with its designs and its report out.

The table is that of beams.py, in memory. The true score verifies the designs at the end; neither
the learned score nor the model ever sees it.

    python examples/design_from_dataframe.py
    python examples/design_from_dataframe.py --toy
"""

from __future__ import annotations

import argparse
from pathlib import Path

from beams import oracle, table

import payoff


def main() -> None:
    """Design steel beams of limited width, no shorter and no longer than those in the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--toy", action="store_true", help="a short training, in seconds")
    parser.add_argument("--out", type=Path, default=Path("runs/beams-from-python"))
    options = parser.parse_args()

    run = payoff.design(
        table(),
        score="stiffness",
        identifiers=["name"],
        fixed=["material=steel"],
        bounds=["width=0:60", "length=0.8:3"],
        count=20,
        preset="toy" if options.toy else "default",
        out=options.out,
        overwrite=True,
        quiet=options.toy,
    )
    designs = run.designs
    true = oracle(designs)
    print(designs.head(5))
    inside = designs["predicted_low"].to_numpy() <= true
    inside &= true <= designs["predicted_high"].to_numpy()
    print(f"predicted median {designs['predicted'].median():.4g}, true {sorted(true)[10]:.4g}")
    print(f"{inside.sum()} of {len(designs)} true scores lie in their predicted 90 % interval")
    print(f"report: {run.report}")


if __name__ == "__main__":
    main()
