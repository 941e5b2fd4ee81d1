"""The interface of a kind of object: all that a job asks of it.

A *kind* says how an object is read, encoded, judged, told apart, written and drawn. A *job* says
what is done with a model of any kind. Neither knows the other's names.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import polars as pl
import torch
from torch import Tensor, nn

from payoff.denoisers import Denoiser
from payoff.errors import UserError
from payoff.spaces import Condition, Space
from payoff.training import FitConfig

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

Object = TypeVar("Object")
Bar = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""``bar(title, total)``: a context that gives a function to be called with the steps done."""


@contextmanager
def no_bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show nothing; the default :data:`Bar`."""
    yield lambda done: None


@dataclass(frozen=True)
class Judge(Generic[Object]):
    """A function of objects that a job makes large, or holds out.

    Attributes:
        name: as the user writes it, ``KIND:NAME`` or ``MODULE:FUNCTION``.
        of: values of a sequence of objects, one number each. NaN is a failure. An exception is one
            too; the objects of that call are then asked for one by one.
        unit, help: for reports and messages.
        version: changes when the values do; part of the ledger's key.
        held_out: name of the judge that watches by default, or None.
        slope: the same values as a differentiable function of :meth:`Domain.numbers` (B, ...) ->
            (B,); None: a black box.
        chunk: objects that a worker process is given at a time; None: by the time they take.
    """

    name: str
    of: Callable[[Sequence[Object]], Sequence[float]]
    unit: str = ""
    help: str = ""
    version: str = "1"
    held_out: str | None = None
    slope: Callable[[Tensor], Tensor] | None = None
    chunk: int | None = None


@dataclass
class Data(Generic[Object]):
    """Objects to learn from, with the labels of some.

    Attributes:
        domain: fitted to them.
        objects: all of them; None among them is not allowed.
        labels: (n,) float64 in the user's own unit and direction, NaN = unlabelled; None: no score
            was asked for.
        name: of the data in messages and reports.
        score: name of the labels.
        unit: of the labels, None where nobody said.
        failed: entries of the source that are no objects: row (from 1) -> reason.
        remarks: notes for the user, on the terminal only.
        warnings: warnings for the user, on the terminal and in the record.
        fingerprint: changes with the data; how a resumed run knows that they are the same.
        about: the objects in a few words, such as "designs of width (number), material (category)".
        summary: facts for the record's ``data`` entry.
        source: the name under which they can be read again; None: they have to be kept in the run.
        find_known: identities of all objects that count as known; default: those of ``objects``.
    """

    domain: Domain[Object]
    objects: Sequence[Object]
    labels: Tensor | None = None
    name: str = ""
    score: str = ""
    unit: str | None = None
    failed: Mapping[int, str] = field(default_factory=dict)
    remarks: Sequence[str] = ()
    warnings: Sequence[str] = ()
    fingerprint: str = ""
    about: str = ""
    summary: Mapping[str, Any] = field(default_factory=dict)
    source: str | None = None
    find_known: Callable[[], frozenset[str]] | None = None

    @cached_property
    def known(self) -> frozenset[str]:
        """Identities of the objects that a design has to differ from to be new."""
        if self.find_known is not None:
            return self.find_known()
        return frozenset(self.domain.identities(self.objects))


def select(objects: Sequence[Any], places: Sequence[int]) -> Sequence[Any]:
    """The objects at these places, in this order; a sequence with a ``select`` of its own keeps
    its form.
    """
    own = getattr(objects, "select", None)
    return own(places) if own is not None else [objects[i] for i in places]


def join(parts: Sequence[Sequence[Any]]) -> Sequence[Any]:
    """Sequences of objects as one; a sequence with a ``join`` of its own keeps its form."""
    own = getattr(parts[0], "join", None)
    return own(parts[1:]) if own is not None else [thing for part in parts for thing in part]


class Domain(ABC, Generic[Object]):
    """One kind of object, fitted to data: from a user's things to tensors and back.

    Methods take and return whole sequences of objects. "Present" objects are not None.

    Attributes:
        space: where the tensors live.
        shape: of the largest sample, without the batch axis.
        training: settings of the training, where no option says otherwise.
        batch: most samples drawn at once.
        guiding: settings of :class:`~payoff.guidance.Guided` for guides of this kind, such as the
            limit of their moves.
        standardise: whether features are standardised over the data before a score is learned.
        meaning: what else the keys depend on, such as the columns of a table; part of the ledger's
            version.
        limits: the limits that the user set for objects, as options; empty: none.
        measure_help: each of :meth:`measures` in a few words.
        compared: columns of a comparison in the order of its table, the shared ones and its own.
    """

    space: Space
    shape: tuple[int, ...]
    training: ClassVar[FitConfig] = FitConfig()
    batch: ClassVar[int] = 4096
    guiding: ClassVar[Mapping[str, Any]] = {}
    standardise: ClassVar[bool] = True
    measure_help: ClassVar[Mapping[str, str]] = {}
    compared: ClassVar[tuple[str, ...]] = (
        *("median", "mean", "best", "valid", "median_all", "mean_all", "failed", "held_out"),
        *("support", "diversity", "vendi"),
    )
    meaning: str = ""
    limits: str = ""

    # --- data and tensors ---------------------------------------------------------------------

    @classmethod
    @abstractmethod
    def read(
        cls,
        source: Any,
        options: Any,
        score: str | None = None,
        *,
        seed: int = 0,
        bar: Bar = no_bar,
    ) -> Data[Object]:
        """Read the objects of a source, the labels of a column, and fit the domain to them.

        Args:
            source: a file, the name of a built-in data set, or an object in memory.
            options: of the kind, an instance of :attr:`Kind.options`.
            score: the column or property of the labels; empty: the kind's own choice, or an error
                that lists what there is; None: no labels are wanted.
            seed: of random choices, such as which labels of a built-in data set are shown.
            bar: progress of slow readings.

        Raises:
            UserError: anything is wrong with the source or the options.
        """

    @abstractmethod
    def encode(self, objects: Sequence[Object]) -> tuple[Tensor, dict[str, Tensor]]:
        """Encode objects as x (n, *shape) and the conditions that a network is given beside it.

        Conditions have n rows each, such as a ``mask`` (n, N); {} where there are none.

        Raises:
            UserError: an object does not belong to this domain.
        """

    @abstractmethod
    def decode(self, x: Tensor, cond: Condition) -> Sequence[Object | None]:
        """Decode samples, limits kept; None for a row that stands for no object (such as NaN)."""

    def conditions(
        self, n: int, weights: Tensor | None, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Conditions for n fresh samples, such as sizes drawn as the data have them.

        Args:
            n: number of samples.
            weights: weights of the rows of the data, (m,), for sizes given a score; or int64 places
                of rows, (k,), of which one is drawn evenly for each sample; None: all rows evenly.
            generator: random numbers.
        """
        return {}

    def with_sizes(self, sizes: Tensor) -> Domain[Object]:
        """This domain, that of a saved model, with the size of each row of the data (m,), from
        which conditions are drawn: the row's number of elements in the conditions' ``mask``.
        """
        return self

    def augment(
        self, x: Tensor, cond: dict[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Change a training batch as the kind allows, such as by a rotation; default: as it is."""
        return x, cond

    # --- a model ------------------------------------------------------------------------------

    @abstractmethod
    def denoiser(self, labels: int = 0, **size: Any) -> Denoiser:
        """Make an untrained denoiser with ``labels`` further label columns.

        ``size`` are the job's options ``width``, ``depth`` and the like; those that are left out
        have the kind's defaults. Weights come from torch's global generator.
        """

    def reader(self, outputs: int, **size: Any) -> nn.Module | None:
        """Make an untrained network that reads ``outputs`` numbers off noised samples, for guides.

        None: the kind has none, and labels can be learned by the model itself only.
        """
        return None

    def base_denoiser(self) -> Denoiser | None:
        """A base model that needs no training, such as an exact one; None: it has to be trained."""
        return None

    def adapt(self, data: Data[Object]) -> Domain[Object]:
        """Return this domain, that of a saved model, with the limits that the user set for data.

        Raises:
            UserError: the model cannot serve these data, such as other columns or elements.
        """
        return self

    def guided(
        self, denoiser: Denoiser, guide: str | None, wanted: Mapping[str, float], strength: float
    ) -> tuple[Denoiser, Domain[Object], dict[str, Tensor]]:
        """Lead a model to properties by a guide, a network that reads them off noised samples.

        Args:
            denoiser: of the model.
            guide: folder of the guide; None: the one that comes with the kind.
            wanted: values by property.
            strength: of the guide; 1 is Bayes' rule.

        Returns:
            the guided denoiser, the domain with the conditions given these values, and a row of
            further conditions.

        Raises:
            UserError: there are no guides for this kind, or this one does not fit.
        """
        raise UserError("--property needs a guide, and there are none for objects of this kind")

    def work(self, rows: int, **size: Any) -> float:
        """Estimate the multiplications of the largest matrix product for so many rows."""
        return float(rows) * float(size.get("width") or 256) ** 2

    # --- the worth of an object ---------------------------------------------------------------

    def check(self, objects: Sequence[Object | None]) -> list[str | None]:
        """Reasons why each is no valid object, in a few words; None for a valid one."""
        return [None if o is not None else "no object" for o in objects]

    def impossible(self, objects: Sequence[Object | None]) -> list[str | None]:
        """Reasons as :meth:`check` gives them, as far as no oracle has to be asked for them."""
        return self.check(objects)

    @abstractmethod
    def keys(self, objects: Sequence[Object]) -> list[str]:
        """Keys of present objects in the ledger: equal where rewards are equal."""

    def identities(self, objects: Sequence[Object]) -> list[str]:
        """Identities of present objects: equal for one design; default: the keys."""
        return self.keys(objects)

    @abstractmethod
    def features(self, objects: Sequence[Object]) -> Tensor:
        """Features (n, D) of present objects: scores are learned from them, and distances from the
        data are taken in them.
        """

    def judge_names(self) -> tuple[str, ...]:
        """Names of the rewards that come with the kind."""
        return ()

    def judge(self, name: str) -> Judge[Object] | None:
        """The reward of that name that comes with the kind; None: there is none of that name.

        Raises:
            UserError: it cannot be had here: a package is missing, or a column that it needs.
        """
        return None

    @classmethod
    def judge_for(cls, domain: Domain, name: str) -> Judge | None:
        """The reward of that name of this kind, for objects of another kind that it can judge.

        Raises:
            UserError: it cannot judge them.
        """
        return None

    def oracle(self) -> Judge[Object] | None:
        """The judge that a design run asks at its end, unless the user names one."""
        return None

    def own_judge(self, function: Callable[..., Any], name: str) -> Judge[Object]:
        """A user's function as a judge; by default it takes a list of objects."""
        return Judge(name, function)

    def numbers(self, x: Tensor, cond: Condition) -> Tensor | None:
        """Objects as numbers with a gradient in x; None: rewards are black boxes."""
        return None

    def measures(
        self,
        objects: Sequence[Object | None],
        known: frozenset[str],
        *,
        temperature: float | None = None,
        kl: float | None = None,
    ) -> dict[str, Any]:
        """Measures of its own for histories and comparisons, such as the share of stable molecules.

        A standard error is called ``NAME_stderr``; :attr:`measure_help` explains the others.

        Args:
            objects: samples, None among them.
            known: identities of the data; empty where they are not at hand.
            temperature: of the run, where it has one; an exact answer depends on it.
            kl: divergence of the samples' law from the base, nats, where it is known.
        """
        return {}

    def known(self) -> frozenset[str]:
        """Identities of the data that shipped models of this kind learned from; empty: unknown."""
        return frozenset()

    def exact_answer(
        self, n: int, temperature: float | None, generator: torch.Generator
    ) -> tuple[Sequence[Object], dict[str, float]] | None:
        """Exact draws of p* and what is known of it exactly, where the kind has a closed form.

        Returns:
            n objects, and numbers by column of a comparison, ``kl`` among them; None: unknown.
        """
        return None

    # --- files and pages ----------------------------------------------------------------------

    @abstractmethod
    def table(self, objects: Sequence[Object | None]) -> pl.DataFrame:
        """One row an object: the columns that its user knows it by; nulls for None."""

    def notes(self, objects: Sequence[Object | None]) -> pl.DataFrame | None:
        """Further columns that stand behind the scores, such as ``stable``; None: no such."""
        return None

    def write(
        self, folder: Path, name: str, objects: Sequence[Object | None], table: pl.DataFrame
    ) -> list[Path]:
        """Write the objects to files of the kind's own beside the table; returns the files."""
        return []

    def read_back(self, folder: Path, name: str, table: pl.DataFrame) -> Sequence[Object | None]:
        """Read the objects that :meth:`write` wrote, or that the table holds.

        Raises:
            UserError: a file is missing or damaged.
        """
        return [None] * table.height

    def export(
        self, path: Path, objects: Sequence[Object | None], columns: pl.DataFrame | None
    ) -> int:
        """Write objects to a file of one of the kind's formats, with columns where it has room.

        Returns:
            the number of objects written.
        """
        raise NotImplementedError

    def draw(self, objects: Sequence[Object], notes: Sequence[str]) -> str:
        """Present objects side by side with a note under each, as HTML; empty: not drawn."""
        return ""

    def figure(self, thing: Object) -> Figure | None:
        """One object as a figure to be turned or read; None: there is none."""
        return None

    # --- saved beside the weights ---------------------------------------------------------------

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Plain values from which ``cls(**config)`` makes the domain again."""

    @classmethod
    def earlier(cls, metadata: Mapping[str, Any], folder: Path) -> dict[str, Any] | None:
        """The config of a model that was saved before models named their kind; None: not of this
        kind.

        Args:
            metadata: of the saved model.
            folder: where it lies.
        """
        return None
