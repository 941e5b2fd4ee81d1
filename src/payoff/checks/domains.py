"""The laws of a kind of object: its data, codec, keys, network, files and options.

>>> from payoff.domains.installed import kind_named
>>> findings = check_kind(kind_named("vectors"), "designs.csv")  # doctest: +SKIP
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Tensor

from payoff.checks.findings import (
    Budget,
    Finding,
    Law,
    Outcome,
    difference,
    examine,
    fails,
    generator,
    holds,
    remark,
    rounding,
    skipped,
    verdict,
)
from payoff.checks.inputs import global_seed
from payoff.configs import from_dict
from payoff.domains.base import Data, Domain, select
from payoff.domains.installed import kinds
from payoff.domains.kind import NO, Kind
from payoff.errors import UserError
from payoff.samplers import stochastic
from payoff.training import fit

ROWS, DRAWN, STEPS, SAMPLER_STEPS = 24, 6, 10, 4
ABSENT = "absent"  # the stem of a file that is not there
ROUNDED = 1e-4  # relative change of features that float32 may make
SIZE = {"width": 16, "depth": 1}


class KindSubject:
    """A kind with data of it.

    Args:
        kind: to be tested.
        source: data of the kind, as a user would name them.
        options: values of the kind's options.
        score: the column or property of labels, or None.
        broken: a source like the first one with an entry that cannot be read, or None.
        seed, budget: of what is drawn, and the calls and seconds that may be spent.
    """

    def __init__(
        self,
        kind: Kind,
        source: Any,
        options: Mapping[str, Any],
        score: str | None,
        broken: Any,
        seed: int,
        budget: Budget,
    ) -> None:
        self.kind, self.source, self.score, self.broken = kind, source, score, broken
        self.seed, self.budget = seed, budget
        self.options: Any = from_dict(kind.options, options)
        self.data: Data
        self.objects: Sequence[Any]

    @property
    def domain(self) -> Domain:
        """The domain fitted to the data."""
        return self.data.domain

    def read(self, source: Any, score: str | None = None) -> Data:
        """Read a source as a job does."""
        self.budget.spend()
        return self.kind.load().read(source, self.options, score, seed=self.seed)

    def conditions(self, n: int) -> dict[str, Tensor]:
        """Conditions for n fresh samples."""
        self.budget.spend()
        return self.domain.conditions(n, None, generator(self.seed))

    def noise(self, n: int) -> tuple[Tensor, dict[str, Tensor]]:
        """N random samples and their conditions."""
        cond = self.conditions(n)
        shape = (n, *self.domain.shape)
        x, _ = self.domain.encode(select(self.objects, [0]))
        like = x.new_zeros(()) if x.is_floating_point() else None
        noise = self.domain.space.noise(shape, cond, like=like, generator=generator(self.seed))
        return noise, cond


def readable(s: KindSubject) -> Outcome:
    """Reading gives objects, none of them None, and the kind claims the source."""
    s.data = s.read(s.source)
    n = len(s.data.objects)
    if n < 2:
        return fails(f"{n} objects were read", "give a source with at least two objects")
    s.objects = select(s.data.objects, range(min(n, ROWS)))
    if any(thing is None for thing in s.objects):
        return fails("an object of the data is None", "put entries that are none into Data.failed")
    if s.data.labels is not None:
        return fails("there are labels though no score was asked for", "labels=None without one")
    if not s.data.name or not s.data.fingerprint:
        return fails(f"name {s.data.name!r}, fingerprint {s.data.fingerprint!r}", "set both")
    if s.kind.reads(s.source, ()) == NO:
        return fails(f"reads({s.source!r}) is NO", "claim the sources that read() takes")
    return holds(f"{n} objects")


def read_alike(s: KindSubject) -> Outcome:
    """The same source has the same fingerprint and keys."""
    again = s.read(s.source)
    keys = s.domain.keys(s.objects)
    same = again.domain.keys(select(again.objects, range(len(s.objects))))
    if again.fingerprint != s.data.fingerprint:
        return fails("another fingerprint the second time", "hash the data, nothing of the process")
    return verdict(keys == same, f"{len(keys)} keys")


def labels_fit(s: KindSubject) -> Outcome:
    """With a score there is one float64 label an object, and some are known."""
    if s.score is None:
        return skipped("no score was given")
    data = s.read(s.source, s.score)
    if data.labels is None:
        return fails("no labels", "read(..., score) returns Data.labels")
    if data.labels.shape != (len(data.objects),) or data.labels.dtype != torch.float64:
        return fails(
            f"shape {tuple(data.labels.shape)}, {data.labels.dtype} for {len(data.objects)} objects"
        )
    known = int(data.labels.isfinite().sum())
    return verdict(known > 0 and not bool(data.labels.isinf().any()), f"{known} labels")


def missing_source(s: KindSubject) -> Outcome:
    """A file that is not there is refused by a UserError that names it."""
    if not isinstance(s.source, (str, Path)) or not Path(s.source).exists():
        return skipped("the source is no file")
    path = Path(s.source)
    absent = path.with_name(ABSENT + "".join(path.suffixes[-1:]))
    return _refused(s, absent, re.escape(absent.name))


def errors_name_rows(s: KindSubject) -> Outcome:
    """An entry that cannot be read is named by its number, and something can be done about it."""
    if s.broken is None:
        return skipped("no broken source was given")
    return _refused(s, s.broken, r"\d")


def _refused(s: KindSubject, source: Any, pattern: str) -> Outcome:
    try:
        data = s.read(source)
    except UserError as error:
        text = str(error)
        if not re.search(pattern, text):
            return fails(text, f"name the place: nothing in the message matches {pattern}")
        return verdict(len(re.split(r"[;,.:(] ", text)) > 1, text, "say what can be done as well")
    if data.failed:
        row, reason = next(iter(data.failed.items()))
        return verdict(row >= 1 and bool(reason), f"entry {row} is left out: {reason}")
    return fails("it was read without a word", "raise a UserError, or put it into Data.failed")


def encoded(s: KindSubject) -> Outcome:
    """Encoding gives one finite row of the shape of the domain for each object."""
    x, cond = s.domain.encode(s.objects)
    n = len(s.objects)
    if x.shape != (n, *s.domain.shape):
        return fails(f"x has shape {tuple(x.shape)} for {n} objects of shape {s.domain.shape}")
    short = [name for name, value in cond.items() if len(value) != n]
    if short:
        return fails(f"condition {short[0]} has {len(cond[short[0]])} rows for {n} objects")
    return verdict(bool(x.isfinite().all()), f"{tuple(x.shape)}, {x.dtype}")


def round_trip(s: KindSubject) -> Outcome:
    """decode(encode(o)) has o's key, or is the same design with numbers rounded otherwise."""
    reasons = s.domain.check(s.objects)
    objects = select(s.objects, [i for i, reason in enumerate(reasons) if reason is None])
    if not len(objects):
        return skipped(f"no object of the data is valid: {reasons[0]}")
    x, cond = s.domain.encode(objects)
    back = s.domain.decode(x, cond)
    gone = sum(thing is None for thing in back)
    if gone or len(back) != len(objects):
        return fails(f"{len(objects)} objects come back as {len(back)}, {gone} of them None")
    pairs = list(zip(s.domain.keys(objects), s.domain.keys(back), strict=True))
    changed = sum(a != b for a, b in pairs)
    if not changed:
        return holds(f"{len(pairs)} valid objects")
    gap = difference(s.domain.features(back), s.domain.features(objects))
    same = s.domain.identities(back) == s.domain.identities(objects) or gap <= ROUNDED
    measured = f"{changed} of {len(pairs)} keys change, features by {gap:.1e}"
    if same and s.domain.check(back) == [None] * len(back):
        return remark(f"{measured}: the same designs, with other digits")
    return fails(measured)


def decode_never_raises(s: KindSubject) -> Outcome:
    """Noise, far samples and none at all are decoded to objects or None."""
    x, cond = s.noise(DRAWN)
    none = {name: value[:0] for name, value in cond.items()}
    scales = (1.0, 1e3, 1e30) if x.is_floating_point() else (1,)
    counts = [len(s.domain.decode(x * scale, cond)) for scale in scales]
    empty = len(s.domain.decode(x[:0], none))
    right = counts == [DRAWN] * len(scales) and empty == 0
    return verdict(right, f"{counts} objects for {DRAWN} samples, {empty} for none")


def nan_is_none(s: KindSubject) -> Outcome:
    """A row of NaN is None, and the others are not touched by it."""
    x, cond = s.domain.encode(s.objects)
    if not x.is_floating_point():
        return skipped("samples are no floating-point numbers")
    x = x.clone()
    x[1] = torch.nan
    back = s.domain.decode(x, cond)
    others = [i for i in range(len(back)) if i != 1]
    if back[1] is not None:
        return fails("the row of NaN became an object", "decode rows that are not finite as None")
    if any(back[i] is None for i in others):
        return fails("a row beside it became None")
    reasons = s.domain.check(back)
    return verdict(bool(reasons[1]), f"check says: {reasons[1]}", "check(None) gives a reason")


def batch_independent(s: KindSubject) -> Outcome:
    """Keys, identities and features of an object are the same alone and in another order."""
    n = len(s.objects)
    turned = select(s.objects, range(n)[::-1])
    for name in ("keys", "identities"):
        function = getattr(s.domain, name)
        whole = function(s.objects)
        alone = [function(select(s.objects, [i]))[0] for i in range(n)]
        if not whole == alone == function(turned)[::-1]:
            return fails(f"{name} depend on the batch")
    whole = s.domain.features(s.objects)
    alone_rows = torch.cat([s.domain.features(select(s.objects, [i])) for i in range(n)])
    gap = max(difference(alone_rows, whole), difference(s.domain.features(turned).flip(0), whole))
    if whole.ndim != 2 or len(whole) != n or not bool(whole.isfinite().all()):
        return fails(f"features have shape {tuple(whole.shape)} for {n} objects, or are not finite")
    return verdict(gap <= rounding(whole), f"features: {tuple(whole.shape)}, {gap:.1e} apart")


def check_gives_reasons(s: KindSubject) -> Outcome:
    """check() gives None or a text for every object, None among them, and accepts the data."""
    x, cond = s.noise(DRAWN)
    things = list(s.domain.decode(x, cond))
    for objects in (s.objects, things, [*things, None]):
        reasons = s.domain.check(objects)
        wrong = [r for r in reasons if not (r is None or (isinstance(r, str) and r))]
        if len(reasons) != len(objects) or wrong:
            return fails(f"{reasons[:3]} for {len(objects)} objects")
    reasons = [r for r in s.domain.check(s.objects) if r is not None]
    if reasons:
        return remark(f"{len(reasons)} of {len(s.objects)} objects of the data: {reasons[0]}")
    return holds("the data are valid")


def conditions_as_data(s: KindSubject) -> Outcome:
    """Conditions of samples are those of data, have n rows, and repeat with the seed."""
    _, cond = s.domain.encode(s.objects)
    first, again = s.conditions(DRAWN), s.conditions(DRAWN)
    if set(first) != set(cond):
        return fails(f"samples have {sorted(first)}, the data {sorted(cond)}")
    for name, value in first.items():
        if len(value) != DRAWN or value.shape[1:] != cond[name].shape[1:]:
            return fails(
                f"{name} has shape {tuple(value.shape)}, {tuple(cond[name].shape)} in data"
            )
        if not torch.equal(value, again[name]):
            return fails(f"{name} is drawn without the generator")
    if "mask" not in first:
        return holds(f"{sorted(first) or 'none'}")
    _, every = s.domain.encode(s.data.objects)
    sizes = set(every["mask"].sum(1).tolist())
    drawn = set(s.conditions(10 * DRAWN)["mask"].sum(1).tolist())
    return verdict(drawn <= sizes, f"sizes {sorted(drawn)} of {sorted(sizes)}")


def trains(s: KindSubject) -> Outcome:
    """The network trains ten steps with a label beside its conditions, and draws objects."""
    x, cond = s.domain.encode(s.objects)
    label = torch.linspace(-1, 1, len(x))[:, None]
    own = cond.get("label")
    joined = label if own is None else torch.cat([label.to(own), own], 1)
    with global_seed(s.seed):
        plain, labelled = s.domain.denoiser(**SIZE), s.domain.denoiser(labels=1, **SIZE)
        before = [p.detach().clone() for p in plain.parameters()]
        config = replace(s.domain.training, steps=STEPS, batch_size=8, log_every=1, seed=s.seed)
        losses: list[float] = []
        s.budget.spend(2 * STEPS)
        augment = s.domain.augment
        trained = fit(
            plain, x, cond or None, config, augment=augment, progress=lambda *a: losses.append(a[2])
        )
        fit(labelled, x, {**cond, "label": joined}, config, augment=augment)
        sampler = stochastic(trained, s.domain.shape, SAMPLER_STEPS, None)
        given = s.conditions(DRAWN)
        drawn = sampler.sample(DRAWN, given or None, generator=generator(s.seed))
    moved = any(not torch.equal(a, b) for a, b in zip(before, trained.parameters(), strict=True))
    objects = s.domain.decode(drawn, given)
    there = sum(thing is not None for thing in objects)
    right = moved and len(objects) == DRAWN and all(loss == loss for loss in losses)
    return verdict(right, f"loss {losses[-1]:.3g}; {there} of {DRAWN} samples are objects")


def files_agree(s: KindSubject) -> Outcome:
    """table(), write() and read_back() agree: what is read back has the same keys."""
    objects = list(select(s.objects, range(3)))
    things: Sequence[Any] = [*objects, None]
    table = s.domain.table(things)
    if table.height != len(things):
        return fails(f"the table has {table.height} rows for {len(things)} objects")
    with tempfile.TemporaryDirectory() as folder:
        files = s.domain.write(Path(folder), "designs", things, table)
        lost = [path for path in files if not Path(path).is_file()]
        if lost:
            return fails(f"write() names {lost[0]}, which is not there")
        table.write_csv(Path(folder) / "designs.csv")
        table.write_parquet(Path(folder) / "designs.parquet")
        for kept in ("designs.csv", "designs.parquet"):
            reader = pl.read_csv if kept.endswith("csv") else pl.read_parquet
            back = s.domain.read_back(Path(folder), "designs", reader(Path(folder) / kept))
            if len(back) != len(things) or back[-1] is not None:
                return fails(f"{len(back)} objects come back for {len(things)}, of them one None")
            if s.domain.keys(select(back, range(3))) != s.domain.keys(objects):
                return fails(f"other keys after {kept}")
    return holds(f"{len(table.columns)} columns, {len(files)} files")


def rebuilt(s: KindSubject) -> Outcome:
    """config() is plain JSON and makes the same domain again."""
    config = s.domain.config()
    copy = type(s.domain)(**json.loads(json.dumps(config)))
    if json.dumps(copy.config()) != json.dumps(config):
        return fails("the copy has another config")
    if copy.shape != s.domain.shape or copy.meaning != s.domain.meaning:
        return fails("the copy has another shape or meaning")
    x, _ = s.domain.encode(s.objects)
    gap = difference(copy.encode(s.objects)[0].float(), x.float())
    noise, cond = s.noise(ROWS)
    if noise.is_floating_point():
        noise = 3 * noise
    tables = [domain.table(domain.decode(noise, cond)) for domain in (s.domain, copy)]
    same = tables[0].equals(tables[1])
    return verdict(same and gap == 0, f"{len(json.dumps(config))} characters")


def numbers_have_gradients(s: KindSubject) -> Outcome:
    """numbers() has a row a sample and a gradient in x, none where a sample is no object."""
    x, cond = s.domain.encode(s.objects)
    if s.domain.numbers(x, cond) is None:
        return skipped("rewards of this kind are black boxes")
    x = x.clone().requires_grad_(True)
    numbers = s.domain.numbers(x, cond)
    assert numbers is not None
    (slope,) = torch.autograd.grad(numbers.sum(), x)
    broken = x.detach().clone()
    broken[0] = torch.nan
    broken.requires_grad_(True)
    beside = s.domain.numbers(broken, cond)
    assert beside is not None
    (other,) = torch.autograd.grad(beside[1:].sum(), broken)
    right = len(numbers) == len(x) and bool(slope.isfinite().all()) and bool((slope != 0).any())
    return verdict(right and bool(other.isfinite().all()), f"{tuple(numbers.shape)}")


def options_do_not_clash(s: KindSubject) -> Outcome:
    """An option that another kind has as well has the same type there."""
    own = {f.name: f for f in fields(s.kind.options)}
    shared = 0
    for other in kinds().values():
        if other.name == s.kind.name:
            continue
        for field in fields(other.options):
            mine = own.get(field.name)
            if mine is None:
                continue
            shared += 1
            if mine.type != field.type:
                return fails(
                    f"{field.name} is {mine.type} here and {field.type} for {other.name}",
                    "give it another name",
                )
    return holds(f"{len(own)} options, {shared} of them shared")


LAWS: tuple[Law[KindSubject], ...] = (
    Law("reading gives objects", readable, gate=True),
    Law("reading twice gives the same", read_alike),
    Law("labels fit the objects", labels_fit),
    Law("a missing file is named", missing_source),
    Law("read errors name the row and the cure", errors_name_rows),
    Law("objects are encoded", encoded, gate=True),
    Law("decode(encode(o)) has o's key", round_trip),
    Law("decode never raises", decode_never_raises),
    Law("a row of NaN is None", nan_is_none),
    Law("keys and features do not depend on the batch", batch_independent),
    Law("check gives a text or None", check_gives_reasons),
    Law("conditions are as in the data", conditions_as_data),
    Law("the network trains and draws", trains),
    Law("table, write and read_back agree", files_agree),
    Law("config makes the domain again", rebuilt),
    Law("numbers have gradients", numbers_have_gradients),
    Law("options do not clash", options_do_not_clash),
)


def check_kind(
    kind: Kind,
    source: Any,
    *,
    options: Mapping[str, Any] | None = None,
    score: str | None = None,
    broken: Any = None,
    seed: int = 0,
    budget: Budget | None = None,
) -> list[Finding]:
    """Hold a kind of object to its laws; one finding a law.

    Args:
        kind: as a package announces it.
        source: data of the kind: a file, a built-in name or an object in memory.
        options: values of the kind's options.
        score: a column or property with labels; None: labels are not tested.
        broken: a source with an entry that cannot be read; None: such errors are not tested.
        seed: of what is drawn.
        budget: calls and seconds that may be spent.

    Raises:
        UserError: an option is unknown or wrong.
    """
    subject = KindSubject(kind, source, options or {}, score, broken, seed, budget or Budget())
    return examine(subject, LAWS)
