"""The reward ledger: every answer of an expensive reward, kept in a database.

One row an answer. Its primary key is the reward's name, the reward's version and the design's key
(:func:`payoff.rewards.remembered.design_keys`). Rows are committed before :meth:`Ledger.record`
returns, and a value, once there, is never changed.

==========  ====================================  ==========================
state       meaning                               gives way to
==========  ====================================  ==========================
``done``    a number                              nothing
``failed``  the reward answered NaN               a number, a later failure
``raised``  the reward raised; no answer at all   anything that comes later
==========  ====================================  ==========================
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from payoff.errors import UserError
from payoff.rewards.database import Place, passing

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection, Table

T = TypeVar("T")

DONE, FAILED, RAISED = "done", "failed", "raised"
LONGEST_NAME, LONGEST_ERROR = 200, 2000
KEYS_A_QUERY = 500  # some databases allow a thousand parameters in one statement, not more


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True)
class Entry:
    """One answer of a reward.

    Attributes:
        value: the number; NaN if the evaluation failed or raised.
        dtype: the reward's own number format, such as ``float32``.
        error: what went wrong, None for a number.
        seconds: wall-clock time of the evaluation, shared equally by the designs of its batch.
        time: when it was recorded, UTC, ISO 8601.
        raised: the reward raised instead of answering. Kept for information; never looked up.
    """

    value: float
    dtype: str = "float64"
    error: str | None = None
    seconds: float = 0.0
    time: str = field(default_factory=_now)
    raised: bool = False

    @property
    def failed(self) -> bool:
        """Whether there is no number."""
        return math.isnan(self.value)


class Ledger:
    """A store of reward answers that outlives the process.

    By default an SQLite file, which several processes of one machine may use at once. For several
    machines give the URL of a database server. A connection is opened for each operation and
    closed after it: a ledger survives a fork, hours without use and a restart of the server.

    Args:
        url: a file (``runs/ledger.db``; made if it is not there), or an SQLAlchemy URL such as
            ``postgresql://user@host/database``. A password may stand in the URL, or better where
            the driver finds it itself (for PostgreSQL: ``~/.pgpass``, ``PGPASSWORD``).
        timeout: seconds to wait for a lock, or for a server that is away for a moment.

    Raises:
        UserError: the file is damaged, read-only or not a ledger; the disk is full; the driver is
            not installed; the server does not answer. Passwords are not printed.
    """

    def __init__(self, url: str | Path, *, timeout: float = 60.0) -> None:
        self.timeout = timeout
        self.place = Place.of(url)
        self._engine: Any = self.place.engine(timeout)
        self._open()

    def lookup(self, reward: str, version: str, keys: Sequence[str]) -> dict[str, Entry]:
        """The answers that are known, by key. Failures are answers; raised calls are not.

        Args:
            reward: the reward's name.
            version: its version.
            keys: keys of designs; those without an answer are absent from the result.
        """
        table, wanted = _calls(), list(dict.fromkeys(keys))
        columns = [table.c[n] for n in ("design", "value", "dtype", "error", "seconds", "time")]

        def read(connection: Connection) -> dict[str, Entry]:
            found = {}
            for start in range(0, len(wanted), KEYS_A_QUERY):
                some = table.c.design.in_(wanted[start : start + KEYS_A_QUERY])
                query = _select(*columns).where(_of(reward, version), some, _answered())
                for key, value, *rest in connection.execute(query):
                    found[key] = Entry(math.nan if value is None else value, *rest)
            return found

        return self._run(read, "read") if wanted else {}

    def record(self, reward: str, version: str, entries: Mapping[str, Entry]) -> None:
        """Keep answers; they are committed, all or none, when this returns.

        Recording twice changes nothing: the first number that was recorded for a design stays.

        Args:
            reward: the reward's name, at most 200 characters.
            version: its version, at most 200 characters.
            entries: the answers by key.
        """
        check_name(reward, "name")
        check_name(version, "version")
        # two processes that insert the same keys in the same order cannot block each other
        rows = [
            {"reward": reward, "version": version, "design": key, **_row(entries[key])}
            for key in sorted(entries)
        ]
        if rows:
            self._run(lambda connection: _insert(connection, rows), "written")

    def count(
        self, reward: str | None = None, version: str | None = None, *, raised: bool = False
    ) -> int:
        """Number of answers, of one reward and version or of all.

        Args:
            reward: the reward's name; None: all.
            version: its version; None: all.
            raised: count evaluations that raised too.
        """
        from sqlalchemy import func

        query = _select(func.count()).select_from(_calls()).where(_of(reward, version))
        query = query if raised else query.where(_answered())
        return int(self._run(lambda connection: connection.execute(query).scalar_one(), "read"))

    def __len__(self) -> int:
        return self.count()

    def __bool__(self) -> bool:
        return True  # an empty ledger is a ledger

    def close(self) -> None:
        """Nothing can be looked up or recorded afterwards."""
        if self._engine is not None:
            self._engine.dispose()
        self._engine = None

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Ledger({str(self.place)!r})"

    def _run(self, work: Callable[[Connection], T], doing: str, *, patient: bool = True) -> T:
        """``work`` in a transaction, again while what hinders it may pass."""
        from sqlalchemy.exc import DBAPIError, SQLAlchemyError

        if self._engine is None:
            raise ValueError(f"{self} is closed")
        deadline, pause = time.monotonic() + self.timeout, 0.005
        while True:
            try:
                with self._engine.begin() as connection:
                    return work(connection)
            except SQLAlchemyError as error:
                again = isinstance(error, DBAPIError) and passing(error, patient=patient)
                if not again or time.monotonic() + pause > deadline:
                    # not chained: the driver's own error may repeat the password
                    raise self.place.explained(error, doing) from None
            time.sleep(pause)
            pause = min(2 * pause, 1.0)

    def _open(self) -> None:
        """See that the table is there and whole, or make it."""
        table = _calls()
        # the first contact is not patient: a wrong host or password does not get better
        if not self._run(self.place.has(table), "opened", patient=False):
            try:
                self._run(table.create, "written", patient=False)
            except UserError:  # did another process make it in between?
                if not self._run(self.place.has(table), "opened"):
                    raise


def check_name(text: str, what: str) -> None:
    """Refuse a reward's name or version that no database could hold."""
    if not isinstance(text, str) or not 0 < len(text) <= LONGEST_NAME or "\0" in text:
        raise ValueError(
            f"the {what} of a reward in a ledger is a string of 1 to {LONGEST_NAME} characters, "
            f"not {text!r}"
        )


@cache
def _calls() -> Table:
    """The only table. SQLAlchemy is imported when a ledger is used, not with the package."""
    from sqlalchemy import Column, Double, MetaData, String, Table, Text

    return Table(
        "payoff_reward_calls",
        MetaData(),
        Column("reward", String(LONGEST_NAME), primary_key=True),
        Column("version", String(LONGEST_NAME), primary_key=True),
        Column("design", String(64), primary_key=True),
        Column("state", String(8), nullable=False),
        Column("value", Double),
        Column("dtype", String(16), nullable=False),
        Column("error", Text),
        Column("seconds", Double, nullable=False),
        Column("time", String(40), nullable=False),
        sqlite_with_rowid=False,
    )


def _select(*columns: Any) -> Any:
    from sqlalchemy import select

    return select(*columns)


def _of(reward: str | None, version: str | None) -> ColumnElement[bool]:
    from sqlalchemy import and_, true

    c = _calls().c
    named = true() if reward is None else c.reward == reward
    return and_(named, true() if version is None else c.version == version)


def _answered() -> ColumnElement[bool]:
    return _calls().c.state != RAISED


def _row(entry: Entry) -> dict[str, Any]:
    """An entry's columns. NaN is NULL; text is cut to what every database takes."""
    state = RAISED if entry.raised else FAILED if entry.failed else DONE
    error = entry.error
    if error is not None:
        error = error.replace("\0", "").encode("utf-8", "replace").decode()[:LONGEST_ERROR]
    return {
        "state": state,
        "value": entry.value if state == DONE else None,
        "dtype": entry.dtype,
        "error": error,
        "seconds": entry.seconds,
        "time": entry.time,
    }


def _gives_way(old: Any, new: Any) -> ColumnElement[bool]:
    """Whether a row in state ``old`` is replaced by one in state ``new``: the module's table."""
    from sqlalchemy import and_, or_

    return or_(old == RAISED, and_(old == FAILED, new != RAISED))


def _insert(connection: Connection, rows: list[dict[str, Any]]) -> None:
    table = _calls()
    keys = [column.name for column in table.primary_key]
    dialect = connection.dialect.name
    if dialect not in ("sqlite", "postgresql"):
        _insert_anywhere(connection, rows)
        return
    if dialect == "sqlite":
        from sqlalchemy.dialects.sqlite import insert
    else:
        from sqlalchemy.dialects.postgresql import insert  # type: ignore[assignment]
    new = insert(table)
    changes = {c.name: new.excluded[c.name] for c in table.c if c.name not in keys}
    gives_way = _gives_way(table.c.state, new.excluded.state)
    statement = new.on_conflict_do_update(index_elements=keys, set_=changes, where=gives_way)
    connection.execute(statement, rows)


def _insert_anywhere(connection: Connection, rows: list[dict[str, Any]]) -> None:
    """The same in standard SQL, row by row, where there is no ON CONFLICT."""
    from sqlalchemy import insert, literal, update
    from sqlalchemy.exc import IntegrityError

    table = _calls()
    keys = [column.name for column in table.primary_key]
    for row in rows:
        try:
            with connection.begin_nested():
                connection.execute(insert(table), row)
        except IntegrityError:  # there is one already
            same = [table.c[name] == row[name] for name in keys]
            gives_way = _gives_way(table.c.state, literal(row["state"]))
            connection.execute(update(table).where(*same, gives_way).values(row))
