"""Groups of options that several jobs share, and commands written out of them.

Every option belongs to one group, and every group is checked where it is defined. The options of a
method itself are given with ``--set``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from payoff.configs import option
from payoff.errors import UserError

C = TypeVar("C")

GOAL, BASE, LEARNING, DRAWING, MACHINE = (
    *("The goal", "The base model", "The learning", "Drawing and choosing"),
    "The machine",
)
PRESETS = ("default", "toy")
MATMUL_PRECISIONS = ("auto", "bf16", "fp32")
LARGEST_SEED = 2**53


class Checked:
    """The root of all option groups: ``__post_init__`` calls that cooperate end here.

    Attributes:
        name, help: of the command.
        takes_model: whether a source that names a saved model means that model; otherwise it means
            the data set of that name.
        presets: values of options by preset.
        free: options that change no result, so that a resumed run may have others.
    """

    name: ClassVar[str]
    help: ClassVar[str]
    takes_model: ClassVar[bool] = False
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    free: ClassVar[tuple[str, ...]] = ("workers", "time_limit", "executor", "threads")

    def __post_init__(self) -> None:
        """Refuse numbers that are not finite."""
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"{flag(field.name)} must be a finite number, got {value}")

    def at_least(self, low: float, *names: str) -> None:
        """Raise a UserError unless these options are unset or at least ``low``."""
        for name in names:
            value = getattr(self, name)
            if value is not None and value < low:
                bound = "not be negative" if low == 0 else f"be at least {low:g}"
                raise UserError(f"{flag(name)} must {bound}, got {value}")

    def above_zero(self, *names: str) -> None:
        """Raise a UserError unless these options are unset or above zero."""
        for name in names:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"{flag(name)} must be above 0, got {value:g}")

    def one_of(self, name: str, known: Sequence[Any]) -> None:
        """Raise a UserError unless the option is one of these."""
        if getattr(self, name) not in known:
            raise UserError(
                f"{flag(name)} {getattr(self, name)}: choose one of {', '.join(map(str, known))}"
            )


@dataclass
class RewardOptions(Checked):
    """The reward of a run, its temperature and the judge that watches."""

    reward: Any = option(
        None,
        "what is to be made large: a reward that comes with the kind of object, as KIND:NAME or "
        'NAME; MODULE:FUNCTION; or a sum of them such as "qed + 0.2*logp"',
        group=GOAL,
        metavar="TEXT",
    )
    gate: str | None = option(
        None, "a second reward: designs where it is not above 0 have failed", group=GOAL
    )
    minimize: bool = option(False, "a lower reward is better", group=GOAL)
    temperature: float | None = option(
        None,
        "τ, in the reward's units: a design with τ more reward becomes e times as likely; default: "
        "--temperature-share of the reward's sd over base samples",
        group=GOAL,
    )
    temperature_share: float = option(
        0.1, "τ in sd of the reward over base samples, where --temperature is not given", group=GOAL
    )
    held_out: Any = option(
        None,
        "a second reward that is never learned from or steered by; it tells when to stop, and "
        "judges the designs; none: do without",
        group=GOAL,
        metavar="TEXT",
    )
    score_invalid: bool = option(
        False,
        "score designs too that are not valid; otherwise they count as failed without a call",
        group=GOAL,
    )
    ledger: str | None = option(
        None,
        "where reward calls are remembered: a file or a database URL; default: in the run folder",
        group=GOAL,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.above_zero("temperature", "temperature_share")


@dataclass
class BaseOptions(Checked):
    """The model to begin with, and how it is trained where there is none."""

    base: str | None = option(
        None,
        "the model to begin with: a finished run, a model folder or shipped weights; none: train "
        "one; default: the shipped weights if they fit the data",
        group=BASE,
    )
    base_width: int | None = option(
        None, "width of the base network; default: the kind's own", group=BASE
    )
    base_depth: int | None = option(
        None, "blocks of the base network; default: the kind's own", group=BASE
    )
    base_steps: int | None = option(
        None, "training steps of the base model; default: the kind's own", group=BASE
    )
    base_batch_size: int | None = option(
        None, "objects a training step of the base model; default: the kind's own", group=BASE
    )
    base_learning_rate: float | None = option(
        None, "peak learning rate of the base model; default: the kind's own", group=BASE
    )
    base_weight_decay: float | None = option(
        None, "decoupled weight decay of the base model; default: the kind's own", group=BASE
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(1, "base_width", "base_depth", "base_steps", "base_batch_size")
        self.at_least(0, "base_weight_decay")
        self.above_zero("base_learning_rate")

    def size(self) -> dict[str, Any]:
        """The network's size as the user set it, for :meth:`Domain.denoiser`."""
        return with_values({"width": self.base_width, "depth": self.base_depth})

    def training(self) -> dict[str, Any]:
        """The training's settings as the user set them, for :class:`payoff.training.FitConfig`."""
        return with_values(
            {
                "steps": self.base_steps,
                "batch_size": self.base_batch_size,
                "learning_rate": self.base_learning_rate,
                "weight_decay": self.base_weight_decay,
            }
        )


@dataclass
class MachineOptions(Checked):
    """Device, number formats and threads."""

    device: str = option("cpu", "where to train and sample: cpu, cuda, cuda:1, mps", group=MACHINE)
    precision: int = option(32, "bits of the numbers in the network: 32 or 64", group=MACHINE)
    matmul_precision: str = option(
        "fp32",
        "precision of matrix products: fp32, bf16, or auto (fp32 where weights are updated, "
        "otherwise the fastest)",
        group=MACHINE,
    )
    threads: int = option(
        0,
        "processor threads; 0: one for a small network, where more are slower, else all",
        group=MACHINE,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(0, "threads")
        self.one_of("precision", (32, 64))
        self.one_of("matmul_precision", MATMUL_PRECISIONS)


@dataclass
class WorkerOptions(Checked):
    """Processes that evaluate the reward."""

    workers: int = option(
        0,
        "processes that evaluate the reward; 0: the run's own; the designs are the same",
        group=MACHINE,
    )
    time_limit: float = option(
        0.0,
        "seconds that a worker may take for a few designs (one, where they are slow), or they have "
        "failed; 0: no limit",
        group=MACHINE,
    )

    executor: str | None = option(
        None,
        "a function of your own, MODULE:FACTORY, that makes the concurrent.futures.Executor on "
        "which the reward is evaluated, such as that of a cluster",
        group=MACHINE,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(0, "workers", "time_limit")


def with_values(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are not None."""
    return {name: value for name, value in options.items() if value is not None}


def select_fields(cls: type[C], source: Any) -> C:
    """Make a dataclass from the attributes of the same names."""
    return cls(**{f.name: getattr(source, f.name) for f in fields(cls) if f.init})  # type: ignore[arg-type]


def flag(name: str) -> str:
    """The option of the command line that sets a field."""
    special = {"identifiers": "--id", "settings": "--set", "properties": "--property"}
    return special.get(name, "--" + name.replace("_", "-"))


def default_of(field: Field) -> Any:
    """The default of a dataclass's field."""
    return field.default if field.default_factory is MISSING else field.default_factory()


def changed(config: Any, usual: Mapping[str, Any] | None = None) -> list[tuple[str, Any]]:
    """Options that differ from their defaults, with their values.

    Args:
        config: a dataclass of options.
        usual: defaults that stand in for the dataclass's own.
    """
    found = []
    for field in fields(config):
        default = (usual or {}).get(field.name, default_of(field))
        if getattr(config, field.name) != default:
            found.append((field.name, getattr(config, field.name)))
    return found


def command_words(job: str, source: Any, options: Sequence[tuple[str, Any]], out: Path) -> Any:
    """The words of the command that runs a job again; Python for a source in memory."""
    if not isinstance(source, (str, Path)):
        given = "".join(f", {name}={value!r}" for name, value in options)
        return f"payoff.{job}(...{given}, out={str(out)!r})"
    words = ["payoff", job, str(source)]
    for name, value in options:
        if isinstance(value, bool):
            words.append(flag(name) if value else "--no-" + flag(name)[2:])
        else:
            for one in value if isinstance(value, list) else [value]:
                # a value that starts with a dash must not pass for an option
                dash = str(one).startswith("-")
                words += [f"{flag(name)}={one}"] if dash else [flag(name), str(one)]
    return [*words, "--out", str(out)]


def without_password(url: str | None) -> str | None:
    """A ledger's address as it may be shown and written down."""
    return None if url is None else re.sub(r"(://[^:/@]*:).*@", r"\1***@", url)
