"""Tables of designs as a kind: rows of numbers, whole numbers and categories."""

from __future__ import annotations

import hashlib
import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import polars as pl
import torch
from torch import Tensor

from payoff.denoisers import Denoiser, NetDenoiser, Subspace
from payoff.domains.base import Bar, Data, Domain, Judge, no_bar
from payoff.domains.vectors.cells import (
    all_numbers,
    cells_of,
    meaning_of,
    same_columns,
    smooth_cells,
)
from payoff.domains.vectors.codec import Code, Codec
from payoff.domains.vectors.functions import TableFunction
from payoff.domains.vectors.rows import Rows, restored
from payoff.domains.vectors.sources import (
    about,
    fingerprint,
    limits,
    read_unscored,
    summary,
)
from payoff.domains.vectors.table import Table, read_table, to_dtype
from payoff.errors import UserError
from payoff.nets import ResidualMLP
from payoff.processes import GaussianProcess
from payoff.rewards.remembered import design_keys
from payoff.schedules import Cosine
from payoff.spaces import Condition, Euclidean
from payoff.training import FitConfig
from payoff.whitening import Whitening

Row = dict[str, Any]
WIDTH, DEPTH = 256, 3
SLACK = 1e-5  # encoded units: a row of the data is inside its range, rounding or not
# Beyond these noise levels standardised rows are noise or data to within 2 %; a wider range would
# spend steps of the sampler where nothing happens.
PROCESS = GaussianProcess(schedule=Cosine(log_snr_min=-8.0, log_snr_max=10.0))


class Vectors(Domain[Row]):
    """Rows of a table in decorrelated coordinates.

    A sample is decoded to a row: numbers are held to the range of their column (or the user's
    bounds), whole numbers made whole, categories chosen. Columns that the user holds fixed are
    label columns of the model.

    Args:
        codec: config of the :class:`~payoff.domains.vectors.codec.Codec`.
        whitening: config of the coordinates; None: the codec's own.
        low, high: range of every encoded number (D,), None where it is free.
        held: slots of the codec that are label columns, and
        values: the values that they are held at.
        network: ``mlp`` or ``subspace``; ``latent``: dimension of the subspace; ``dropout``: share
            of hidden units dropped in training.
        limits: the user's limits as options, for messages.
        clip: whether decoded numbers are held to their range; otherwise a row beyond it is decoded
            as it is, and :meth:`check` refuses it: a score that is learned knows nothing there.
    """

    kind: ClassVar[str] = "vectors"
    space = Euclidean()
    training: ClassVar[FitConfig] = FitConfig(
        steps=4000,
        batch_size=128,
        learning_rate=2e-3,
        weight_decay=1e-3,
        label_dropout=0.2,
        log_snr_mean=1.5,
        log_snr_sd=3.0,
        log_every=10,
    )
    standardise = False

    def __init__(
        self,
        codec: Mapping[str, Any],
        whitening: Mapping[str, Any] | None,
        low: Sequence[float | None],
        high: Sequence[float | None],
        held: Sequence[int] = (),
        values: Sequence[float] = (),
        network: str = "mlp",
        latent: int = 0,
        dropout: float = 0.0,
        limits: str = "",
        clip: bool = True,
    ) -> None:
        self.codec = Codec.from_config(codec)
        self.whitening = None if whitening is None else Whitening.from_config(dict(whitening))
        self.low = torch.tensor([-math.inf if v is None else v for v in low])
        self.high = torch.tensor([math.inf if v is None else v for v in high])
        self.held, self.values = list(held), list(values)
        self.network, self.latent, self.dropout, self.limits = network, latent, dropout, limits
        self.clip = clip
        self.numeric = all_numbers(self.codec)
        self.meaning = meaning_of(self.codec)
        self.shape = (self.codec.dim if self.whitening is None else self.whitening.dim,)

    def config(self) -> dict[str, Any]:
        return {
            "codec": self.codec.config(),
            "whitening": None if self.whitening is None else self.whitening.config(),
            "low": [None if math.isinf(v) else v for v in self.low.tolist()],
            "high": [None if math.isinf(v) else v for v in self.high.tolist()],
            "held": self.held,
            "values": self.values,
            "network": self.network,
            "latent": self.latent,
            "dropout": self.dropout,
            "limits": self.limits,
            "clip": self.clip,
        }

    # --- data -----------------------------------------------------------------------------------

    @classmethod
    def read(
        cls,
        source: Any,
        options: Any,
        score: str | None = None,
        *,
        seed: int = 0,
        bar: Bar = no_bar,
    ) -> Data[Row]:
        if score is None:
            table = read_unscored(source, options)
        else:
            table = read_table(
                source,
                score=score or None,
                identifiers=options.identifiers,
                categorical=options.categorical,
                bounds=options.bounds,
                fixed=options.fixed,
            )
        name = Path(source).stem if isinstance(source, (str, Path)) else "table"
        return cls.fitted(table, name, options, scored=score is not None)

    @classmethod
    def fitted(cls, table: Table, name: str, options: Any, *, scored: bool) -> Data[Row]:
        """The data of a checked table, with a domain fitted to them."""
        codec = Codec.fit(table)
        x = codec.encode(table.frame)
        network = getattr(options, "architecture", "mlp")
        whitening = None if network == "subspace" else Whitening(x)
        low, high = _ranges(codec, x, table)
        held = [s for code in codec.codes if code.fixed is not None for s in _slots(code)]
        # any row decodes to the fixed values, so its encoding has them
        row = codec.encode(codec.decode(x[:1]))[0, held] if held else torch.zeros(0)
        latent = (options.latent_dim or _dimension_of(x)) if network == "subspace" else 0
        domain = cls(
            codec=codec.config(),
            whitening=None if whitening is None else whitening.config(),
            low=low,
            high=high,
            held=held,
            values=[float(v) for v in row],
            network=network,
            latent=min(latent, codec.dim),
            dropout=getattr(options, "dropout", 0.0),
            limits=limits(table),
            clip=not scored,
        )
        return Data(
            domain,
            cast(Sequence[Row], Rows(table.frame.select(codec.columns))),
            torch.from_numpy(table.labels.copy()) if scored else None,
            name,
            table.score if scored else "",
            warnings=table.warnings,
            fingerprint=fingerprint(table, codec),
            about=about(table),
            summary=summary(table, scored),
        )

    def adapt(self, data: Data[Row]) -> Domain[Row]:
        other = data.domain
        assert isinstance(other, Vectors)
        if not same_columns(self.codec, other.codec):
            raise UserError(
                f"its model was trained on other columns or other rows than {data.name}"
            )
        if (self.held, self.values) != (other.held, other.values):
            raise UserError("its model was trained without --fixed or with other values")
        config = other.config()
        whitening = None if self.whitening is None else self.whitening.config()
        return type(self)(**{**config, "whitening": whitening})

    @classmethod
    def earlier(cls, metadata: Mapping[str, Any], folder: Path) -> dict[str, Any] | None:
        if not {"whitening", "dim", "held"} <= set(metadata):
            return None
        if _recorded_kind(folder.parent) not in (None, cls.kind):
            return None
        path = folder.parent / "codec.json"
        try:
            described = json.loads(path.read_text(encoding="utf-8"))
            codec = Codec.from_config(described)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"the run folder is damaged: {path} cannot be read") from error
        low, high = codec.limits()
        data = folder.parent / "data.parquet"
        if data.is_file():
            try:
                x = codec.encode(pl.read_parquet(data))
            except (OSError, pl.exceptions.PolarsError) as error:
                first = str(error).splitlines()[0]
                raise UserError(
                    f"the run folder is damaged: {data} cannot be read ({first})"
                ) from error
            low, high = _inside(codec, x, low, high)
        # a design run's first label is its score: without a label it draws from all rows
        own = metadata.get("kind") == "finetune"
        return {
            "codec": described,
            "whitening": metadata["whitening"],
            "low": _finite(low),
            "high": _finite(high),
            "held": list(metadata["held"]) if own else [],
            "values": list(metadata["values"]) if own else [],
            "clip": own,
        }

    # --- tensors --------------------------------------------------------------------------------

    def encode(self, objects: Sequence[Any]) -> tuple[Tensor, dict[str, Tensor]]:
        x = self.codec.encode(self._rows(objects).frame)
        z = x if self.whitening is None else self.whitening.encode(x)
        return z, {"label": x[:, self.held]} if self.held else {}

    def decode(self, x: Tensor, cond: Condition) -> Rows:
        encoded = self._projected(x)
        missing = (~encoded.isfinite().all(dim=1)).numpy()
        return Rows(self.codec.decode(encoded), missing)

    def _projected(self, x: Tensor) -> Tensor:
        """The encoded rows (n, D) that samples x (n, d) stand for; rows with NaN stay NaN."""
        z = x.detach().cpu()
        z = (z if self.whitening is None else self.whitening.decode(z)).float()
        return torch.minimum(torch.maximum(z, self.low), self.high) if self.clip else z

    def conditions(
        self, n: int, weights: Tensor | None, generator: torch.Generator
    ) -> dict[str, Tensor]:
        return {"label": torch.tensor([self.values]).expand(n, -1)} if self.held else {}

    def numbers(self, x: Tensor, cond: Condition) -> Tensor | None:
        """Cells (n, columns) in the user's units, float64, with the gradient of the decoding.

        Values are exact to the last digit. Limits have gradient zero beyond them, rounding is
        passed straight through, and a row with NaN has no gradient.
        """
        if not self.numeric:
            return None
        rows = self.decode(x, cond)
        exact = cells_of(self.codec, rows.frame).to(x.device)
        there = torch.from_numpy(~rows.missing).to(x.device)[:, None]
        z = torch.where(there, x, torch.zeros_like(x)).double()
        if self.whitening is not None:
            mean, inverse = self.whitening.mean.to(z.device), self.whitening.inverse.to(z.device)
            z = mean + z @ inverse
        low, high = (self.low, self.high) if self.clip else self.codec.limits()
        z = torch.minimum(torch.maximum(z, low.to(z)), high.to(z))
        smooth = smooth_cells(self.codec, z)
        return torch.where(there, exact + (smooth - smooth.detach()), exact)

    # --- a model --------------------------------------------------------------------------------

    def denoiser(self, labels: int = 0, **size: Any) -> Denoiser:
        own = labels + len(self.held)
        width, depth = size.get("width") or WIDTH, size.get("depth") or DEPTH
        dim = self.latent if self.network == "subspace" else self.shape[0]
        net = ResidualMLP(dim, width=width, depth=depth, label_dim=own, dropout=self.dropout)
        inner = NetDenoiser(net, PROCESS)
        return Subspace(inner, self.shape[0], dim) if self.network == "subspace" else inner

    # --- the worth of a row -----------------------------------------------------------------------

    def check(self, objects: Sequence[Any]) -> list[str | None]:
        rows = self._rows(objects)
        reasons = [self._reason(row) for row in rows]
        fine = [i for i, reason in enumerate(reasons) if reason is None]
        if fine and not self.clip:
            x = self.features(rows.select(fine))
            beyond = ((x < self.low - SLACK) | (x > self.high + SLACK)).any(dim=1)
            for place, outside in zip(fine, beyond.tolist(), strict=True):
                reasons[place] = "outside a column's range" if outside else None
        return reasons

    def _reason(self, row: Row | None) -> str | None:
        if row is None:
            return "no design"
        for code in self.codec.codes:
            reason = _reason(code, row.get(code.name))
            if reason is not None:
                return f"{code.name} {reason}"
        return None

    def keys(self, objects: Sequence[Any]) -> list[str]:
        return design_keys(cells_of(self.codec, self._rows(objects).frame))

    def features(self, objects: Sequence[Any]) -> Tensor:
        # in double precision first: an encoded row is the same number whatever it came from
        return self.codec.encode(self._rows(objects).frame, dtype=torch.float64).float()

    def judge(self, name: str) -> Judge[Row] | None:
        return None

    def own_judge(self, function: Callable[..., Any], name: str) -> Judge[Row]:
        return Judge(name, TableFunction(function, name), version=source_key(function))

    # --- files ------------------------------------------------------------------------------------

    def table(self, objects: Sequence[Any]) -> pl.DataFrame:
        rows = self._rows(objects)
        columns = [to_dtype(rows.frame[code.name], code.dtype) for code in self.codec.codes]
        frame = pl.DataFrame(columns)  # dicts do not know the width of their numbers
        if rows.missing.any():
            blank = pl.Series(rows.missing)
            frame = frame.select(pl.when(~blank).then(pl.col(c)).alias(c) for c in frame.columns)
        return frame

    def read_back(self, folder: Path, name: str, table: pl.DataFrame) -> Rows:
        try:
            return restored(table, self.codec)
        except UserError as error:
            raise UserError(f"{name} in {folder} is damaged: {error}") from None

    def _rows(self, objects: Sequence[Any]) -> Rows:
        return Rows.of(objects, self.codec.columns)


def source_key(function: Callable[..., Any]) -> str:
    """A text that changes with the function's source; answers of another version are not reused."""
    try:
        text = inspect.getsource(function)
    except (OSError, TypeError):
        return "1"
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _reason(code: Code, value: Any) -> str | None:
    """The limit or kind that a cell breaks, in a few words."""
    if code.kind == "constant":
        return None if value == code.value else f"is not {code.value}"
    if value is None:
        return "is missing"
    if code.fixed is not None:
        return None if value == code.fixed else f"is not {code.fixed}"
    if code.kind == "categorical":
        return None if value in code.levels else f"has no level {value}"
    if not math.isfinite(value):
        return "is not finite"
    if code.kind == "integer" and value != round(value):
        return "is not whole"
    if code.low is not None and value < code.low:
        return f"is below {code.low:g}"
    if code.high is not None and value > code.high:
        return f"is above {code.high:g}"
    return None


def _recorded_kind(run: Path) -> str | None:
    """The kind of object that the record of a run names, or None."""
    try:
        found = json.loads((run / "run.json").read_text(encoding="utf-8")).get("domain")
    except (OSError, ValueError, AttributeError):
        return None
    return found if isinstance(found, str) else None


def _slots(code: Code) -> range:
    return range(code.start, code.start + code.slots)


def _ranges(codec: Codec, x: Tensor, table: Table) -> tuple[list[float | None], list[float | None]]:
    """Lowest and highest encoded value that decoding allows, (D,), None where free."""
    low, high = codec.limits()
    low, high = _inside(codec, x, low, high, set(table.bounds))
    return _finite(low), _finite(high)


def _inside(
    codec: Codec, x: Tensor, low: Tensor, high: Tensor, bounded: set[str] | frozenset = frozenset()
) -> tuple[Tensor, Tensor]:
    """Limits with the data's range for numbers that the user did not bound."""
    low, high = low.clone(), high.clone()
    for code in codec.codes:
        free = code.slots and code.fixed is None and code.name not in bounded
        if code.kind in ("numeric", "integer") and free:
            low[code.start], high[code.start] = x[:, code.start].min(), x[:, code.start].max()
    return low, high


def _finite(values: Tensor) -> list[float | None]:
    return [None if math.isinf(v) else v for v in values.tolist()]


def _dimension_of(x: Tensor) -> int:
    """Directions that hold 99 % of the variance."""
    values = torch.linalg.eigvalsh(torch.cov(x.double().T).reshape(x.shape[1], -1)).flip(0)
    share = values.cumsum(0) / values.sum()
    return int((share < 0.99).sum()) + 1
