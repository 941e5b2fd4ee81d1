"""A reward with a memory: what was evaluated once is looked up, not evaluated again."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Sequence
from functools import reduce
from typing import TypeVar

import torch
from torch import Tensor

from payoff.rewards.base import Cond, Reward, checked_rows
from payoff.rewards.ledger import Entry, Ledger, check_name
from payoff.rewards.metered import BudgetSpent, Metered

T = TypeVar("T")

DTYPES = {str(d).removeprefix("torch."): d for d in (torch.float16, torch.bfloat16, torch.float32)}


def design_keys(x: Tensor, cond: Cond | None = None) -> list[str]:
    r"""One key a row: :math:`k_b = \mathrm{SHA256}(x_b, (\text{name}, c_b)_{c \in \text{cond}})`.

    Every tensor enters with its name, dtype, shape without the batch axis, and its bytes in row
    order. So keys differ when any element, shape, dtype or condition differs, and do not depend on
    the rest of the batch, the memory layout, the device or the order of the conditions. No
    conditions and empty ones are the same. Bytes are compared, not numbers: 0.0 and -0.0 are two
    designs, and so is a design in single and in double precision.

    Args:
        x: designs (B, ...).
        cond: conditions, every one with B rows.

    Returns:
        B keys of 64 hexadecimal digits.

    Raises:
        ValueError: there is no batch axis, or a condition has another number of rows.
    """
    parts = [("x", x), *((f"cond {name}", c) for name, c in sorted((cond or {}).items()))]
    for name, tensor in parts:
        if tensor.dim() == 0 or len(tensor) != len(x):
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}, x has {tuple(x.shape)}; expected the "
                "batch axis first in both, of the same length"
            )
    start = hashlib.sha256(b"payoff design 1")
    rows = []
    for name, tensor in parts:
        # the heading fixes how many bytes follow, and its own length is given: no two sequences
        # of tensors make the same sequence of bytes
        heading = f"{name}\0{tensor.dtype}\0{tuple(tensor.shape[1:])}".encode()
        prefix = len(heading).to_bytes(4, "little") + heading
        rows.append((prefix, _bytes(tensor)))
    keys = []
    for b in range(len(x)):
        digest = start.copy()
        for prefix, data in rows:
            digest.update(prefix)
            digest.update(data[b])
        keys.append(digest.hexdigest())
    return keys


def _bytes(tensor: Tensor) -> list[bytes]:
    """The bytes of each row, in row order."""
    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    flat = plain.flatten(1) if plain.dim() > 1 else plain.unsqueeze(1)
    return [row.tobytes() for row in flat.contiguous().view(torch.uint8).numpy()]


class Remembered(Reward):
    r"""A reward that looks its answers up in a ledger and evaluates only what is not there.

    .. math:: r_{\text{ledger}}(x) = r(x), \qquad r \text{ evaluated once for every distinct } x

    Designs that occur twice in a batch are evaluated once. Answers are recorded as soon as they are
    there, and what is returned is what the ledger holds, in the order asked for, on x's device and
    in the reward's own dtype: an answer is the same number whether it is fresh or old. (-0.0 comes
    back as 0.0.)

    **Gradients.** When the reward is differentiable and x (or a condition) asks for a gradient, the
    whole batch is evaluated, because a number from a table has no gradient. Its values are recorded
    but nothing is saved. Everywhere else the result carries no gradient.

    **Failures.** NaN is an answer: it is recorded as failed and served as NaN. A reward that raises
    gives no answer: the text is noted, the exception goes on, and the design is evaluated anew
    when it is asked for again.

    **Several processes** may share a ledger. Before each sub-batch the ledger is read again, so a
    design is evaluated twice only if two processes have it in flight at the same moment. Then the
    first answer stays, and both processes return it.

    **Budgets.** ``Remembered(Metered(reward, budget), ...)`` counts what is evaluated: known
    designs are free. If what is missing does not fit into the budget, the call is refused as a
    whole before anything is spent. ``Metered(Remembered(reward, ...), budget)`` counts every row
    asked for, known or not: for comparing methods, which must not gain from what others have asked
    before.

    Args:
        reward: the reward to remember; deterministic, or its first answer is kept for good.
        ledger: the store.
        name: which reward it is.
        version: to be changed whenever the reward changes: its code, settings or units.
        batch_size: most designs evaluated at once, None for all. A killed process loses at most
            the sub-batch in flight.
        retry_failed: evaluate designs again whose evaluation failed; a number replaces the NaN.

    Attributes:
        fresh: rows that this object has evaluated.
        hits: rows that it answered without evaluating them.

    Raises:
        BudgetSpent: the missing designs do not fit into the budget.
        UserError: the ledger cannot be read or written. Answers that could not be written are kept
            by this object and written first when it is called again.
    """

    def __init__(
        self,
        reward: Reward,
        ledger: Ledger,
        name: str,
        version: str = "1",
        *,
        batch_size: int | None = None,
        retry_failed: bool = False,
    ) -> None:
        check_name(name, "name")
        check_name(version, "version")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size is a number of designs, not {batch_size}")
        self.reward, self.ledger = reward, ledger
        self.name, self.version = name, version
        self.batch_size, self.retry_failed = batch_size, retry_failed
        self.differentiable = reward.differentiable
        self.fresh = self.hits = 0
        self._unsaved: dict[str, Entry] = {}

    def __call__(self, x: Tensor, cond: Cond | None = None) -> Tensor:
        keys = design_keys(x, cond)
        if self._unsaved:
            self._record({})
        if self.differentiable and torch.is_grad_enabled() and _asks_gradient(x, cond):
            return self._with_gradient(x, cond, keys)
        x = x.detach()
        cond = None if cond is None else {name: c.detach() for name, c in cond.items()}
        answers = self._known(keys)
        row = {key: b for b, key in enumerate(keys)}
        missing = [key for key in row if key not in answers]
        self._check_budget(len(missing), len(x))
        before = self.fresh
        for i, some in enumerate(self._parts(missing)):
            if i:  # another process may have answered meanwhile
                answers |= self._known(some)
            keys_left = [key for key in some if key not in answers]
            if keys_left:
                self._evaluate(*_rows(x, cond, [row[key] for key in keys_left]), keys_left)
                answers |= self.ledger.lookup(self.name, self.version, keys_left)
        self.hits += len(x) - (self.fresh - before)
        return _tensor([answers[key] for key in keys], x)

    def _with_gradient(self, x: Tensor, cond: Cond | None, keys: list[str]) -> Tensor:
        self._check_budget(len(x), len(x))
        values = [
            self._evaluate(*_rows(x, cond, list(rows)), [keys[b] for b in rows])
            for rows in self._parts(range(len(x)))
        ]
        return torch.cat(values) if values else _tensor([], x)

    def _known(self, keys: Sequence[str]) -> dict[str, Entry]:
        found = self.ledger.lookup(self.name, self.version, keys)
        if self.retry_failed:
            found = {key: entry for key, entry in found.items() if not entry.failed}
        return found

    def _parts(self, items: Sequence[T]) -> Iterator[Sequence[T]]:
        size = self.batch_size or max(len(items), 1)
        return (items[start : start + size] for start in range(0, len(items), size))

    def _check_budget(self, missing: int, rows: int) -> None:
        """Refuse as a whole what sub-batches would find out halfway."""
        left = self.reward.remaining if isinstance(self.reward, Metered) else None
        if left is not None and missing > left:
            raise BudgetSpent(
                f"{missing} of {rows} designs have to be evaluated (reward {self.name!r}, ledger "
                f"{self.ledger.place}), but {left} evaluations of the budget are left. Nothing was "
                "evaluated. Raise the budget, or ask for fewer designs."
            )

    def _evaluate(self, x: Tensor, cond: Cond | None, keys: list[str]) -> Tensor:
        """The reward's own answers, recorded before they are returned."""
        start = time.perf_counter()
        try:
            value = checked_rows(self.reward(x, cond), x, self.reward)
        except BudgetSpent:  # refused, not called
            raise
        except Exception as error:
            self._note(error, keys, time.perf_counter() - start)
            raise
        seconds = (time.perf_counter() - start) / len(keys)
        self.fresh += len(keys)
        dtype = str(value.dtype).removeprefix("torch.")
        numbers = (value.detach().cpu().double() + 0.0).tolist()  # SQLite knows no -0.0
        nan = "the reward answered NaN"
        self._record(
            {
                key: Entry(number, dtype, nan if math.isnan(number) else None, seconds)
                for key, number in zip(keys, numbers, strict=True)
            }
        )
        return value

    def _record(self, entries: dict[str, Entry]) -> None:
        """Record; what could not be written is kept and goes first the next time."""
        self._unsaved.update(entries)
        self.ledger.record(self.name, self.version, self._unsaved)
        self._unsaved = {}

    def _note(self, error: Exception, keys: list[str], seconds: float) -> None:
        text = f"{type(error).__name__}: {error}"
        if len(keys) > 1:
            text = f"one of {len(keys)} designs, or all: {text}"
        raised = Entry(math.nan, error=text, seconds=seconds / len(keys), raised=True)
        try:
            self.ledger.record(self.name, self.version, dict.fromkeys(keys, raised))
        except Exception as second:  # the reward's own error is the one to be seen
            error.add_note(f"and the ledger could not note it: {second}")


def _asks_gradient(x: Tensor, cond: Cond | None) -> bool:
    return x.requires_grad or any(c.requires_grad for c in (cond or {}).values())


def _rows(x: Tensor, cond: Cond | None, rows: list[int]) -> tuple[Tensor, Cond | None]:
    picked = None if cond is None else {name: c[rows] for name, c in cond.items()}
    return x[rows], picked


def _tensor(entries: list[Entry], x: Tensor) -> Tensor:
    """The answers on x's device, in the widest of their dtypes."""
    if not entries:
        floating = x.is_floating_point()
        return x.new_empty(0, dtype=x.dtype if floating else torch.get_default_dtype())
    dtypes = [DTYPES.get(entry.dtype, torch.float64) for entry in entries]
    values = torch.tensor([entry.value for entry in entries], dtype=torch.float64, device="cpu")
    return values.to(reduce(torch.promote_types, dtypes)).to(x.device)
