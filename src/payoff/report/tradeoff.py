"""One paragraph on how far the designs could be pushed, with this run's own numbers.

Reference: Yuan, H., Huang, K., Ni, C., Chen, M. and Wang, M., "Reward-Directed Conditional
Diffusion: Provable Distribution Estimation and Reward Improvement" (2023), arXiv 2307.07055.
"""

from __future__ import annotations

import numpy as np

from payoff.report.formatting import number, percent, text
from payoff.report.prose import with_unit
from payoff.report.run import DesignRun

PAPER = "https://arxiv.org/abs/2307.07055"


def paragraph(run: DesignRun) -> str:
    """The paragraph, as HTML."""
    return f"<p>{_theory(run)} {_measured(run)}</p>"


def reason(run: DesignRun) -> str:
    """How the aim was chosen, in the run's own words."""
    given = run.get("aim", "reason")
    how = "chosen automatically" if run.get("aim", "mode") == "auto" else "given by the user"
    because = f": {text(given)}" if given else "."
    return (
        f"<p><b>The aim, {with_unit(run, run.number('aim', 'chosen'))}, was {how}</b>{because}</p>"
    )


def _theory(run: DesignRun) -> str:
    way = "higher" if run.sign > 0 else "lower"
    return (
        f"A more ambitious aim is a stronger signal: the generator is asked for a {way} score and "
        "its designs move that way. Two costs grow with it. The first is <b>distribution shift</b>:"
        " the further the designs leave the bulk of the data, the fewer measured rows stand behind "
        "each prediction, so the learned reward and the generator itself err more. The second is "
        "<b>extrapolation off the support</b>: past some point designs no longer lie where real "
        "ones lie at all, and nothing in the data says what they are worth. Yuan et al. (2023) "
        "bound the shortfall between what is asked and what is truly got by terms of these two "
        "kinds (<cite>Reward-Directed Conditional Diffusion</cite>, "
        f'<a href="{PAPER}" rel="noreferrer">arXiv 2307.07055</a>), and in their experiments '
        "pushing harder first gains and then loses."
    )


def _measured(run: DesignRun) -> str:
    bound = run.sweep["pessimistic"]
    at = run.argbest(bound)
    if at is None or np.isfinite(bound).sum() < 2:
        return "Only one aim was measured here, so this run cannot show where that point lies."
    steps = np.flatnonzero(np.isfinite(bound))
    order = steps if run.sign > 0 else steps[::-1]  # from modest to ambitious
    first, last = int(order[0]), int(order[-1])
    aim = run.sweep["aim"]
    told = [
        f"Here the pessimistic bound goes from {with_unit(run, bound[first])} at aim "
        f"{number(aim[first])} to its best, {with_unit(run, bound[at])}, at aim {number(aim[at])}"
    ]
    if at == last:
        told.append(
            ", the most ambitious aim tried: the turning point was not reached, and a still more "
            "ambitious aim may be worth a try."
        )
    else:
        told.append(
            f", and gets worse again to {with_unit(run, bound[last])} at aim {number(aim[last])}."
        )
    told += [_growth(run, first, at), _chosen(run, at), _hindsight(run)]
    return "".join(told)


def _growth(run: DesignRun, first: int, at: int) -> str:
    if first == at:
        return ""
    parts = []
    for key, name in (("shift", "shift"), ("off_support", "off-support distance")):
        values = run.sweep.get(key)
        if values is not None and np.isfinite(values[[first, at]]).all():
            before, after = float(values[first]), float(values[at])
            times = f" ({number(after / before, 2)} times)" if before > 0 else ""
            parts.append(f"the {name} goes from {number(before, 3)} to {number(after, 3)}{times}")
    return f" Between these two, {' and '.join(parts)}." if parts else ""


def _chosen(run: DesignRun, at: int) -> str:
    chosen, aim = run.number("aim", "chosen"), run.sweep["aim"]
    if chosen is None:
        return ""
    here = int(np.nanargmin(np.abs(aim - chosen)))
    got = run.sweep["predicted_mean"][here]
    told = ""
    if np.isfinite(got):
        told = (
            f" At aim {number(aim[here])} the designs are predicted to reach "
            f"{with_unit(run, got)} on average."
        )
    lost = run.sign * (run.sweep["pessimistic"][at] - run.sweep["pessimistic"][here])
    if here != at and np.isfinite(lost) and lost > 0:
        told += (
            f" The aim used, {number(chosen)}, is not where the bound is best; by that measure it "
            f"gives up {with_unit(run, lost)}."
        )
    return told


def _hindsight(run: DesignRun) -> str:
    """What the oracle, unseen when the aim was chosen, says about the choice."""
    true, chosen = run.sweep.get("oracle_median"), run.number("aim", "chosen")
    best = None if true is None else run.argbest(true)
    if true is None or best is None or chosen is None:
        return ""
    here = int(np.nanargmin(np.abs(run.sweep["aim"] - chosen)))
    if not np.isfinite(true[here]):
        return ""
    lost = run.sign * (true[best] - true[here])
    if lost <= 0:
        return " By the true scores, no other aim of the sweep would have been better."
    share = percent(lost / abs(true[best])) if true[best] else ""
    return (
        f" By the true scores, which played no part in the choice, the best aim in hindsight was "
        f"{number(run.sweep['aim'][best])}, {with_unit(run, lost)}"
        f"{f' ({share})' if share else ''} better in the median."
    )
