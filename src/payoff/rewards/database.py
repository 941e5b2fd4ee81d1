"""Where a ledger lies: files and URLs, how they are opened, and what to say when that fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from payoff.errors import UserError

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection, Engine, Table
    from sqlalchemy.exc import DBAPIError, SQLAlchemyError

# The driver that a bare URL means, and what to install for a driver that is missing.
DRIVERS = {"postgres": "postgresql+psycopg", "postgresql": "postgresql+psycopg"}
PACKAGES = {
    "psycopg": "psycopg[binary]",
    "psycopg2": "psycopg2-binary",
    "pymysql": "pymysql",
    "MySQLdb": "mysqlclient",
}
SECRET = ("pass", "secret", "token", "key")  # in names of options of a URL
LIBPQ = ("postgresql+psycopg", "postgresql+psycopg2")
SERVER_WAIT = 10  # seconds for a server's first word; libpq's own default is minutes

DAMAGED = (
    "The file is damaged. Move it away and save what is left of it with "
    "'sqlite3 damaged.db .recover | sqlite3 saved.db', or take a backup."
)
# What SQLite says, and what to do about it.
ADVICE = (
    ("not a database", "It is not an SQLite file. Give another path, or move that file away."),
    ("malformed", DAMAGED),
    ("readonly", "It may not be written. Change the rights of the file and of its folder."),
    ("unable to open", "Check that the folder is there and that you may write in it."),
    ("is full", "Make room on the disk; what was recorded before is safe."),
    ("disk i/o", "Check the disk. SQLite does not work on network folders: use a server there."),
    ("locked", "Another process holds it. End that process, or give a longer timeout."),
)


@dataclass(frozen=True)
class Place:
    """A database, with its password out of sight.

    Attributes:
        url: the full URL.
        secrets: texts that no message may contain.
    """

    url: URL
    secrets: tuple[str, ...] = ()

    @classmethod
    def of(cls, url: str | Path) -> Place:
        """The place that a path or a URL means.

        Raises:
            UserError: it means none, or one that would not outlive the process.
        """
        from sqlalchemy import URL

        if isinstance(url, str) and "://" in url:
            parsed = _parsed(url)
        elif str(url).strip():
            parsed = URL.create("sqlite", database=str(url))
        else:
            raise UserError("a ledger needs a file or a database URL, not an empty name")
        if parsed.get_backend_name() == "sqlite":
            parsed = _file(parsed)
        hidden = [str(parsed.password or "")]
        for name, value in parsed.query.items():
            if any(word in name.lower() for word in SECRET):
                hidden += [value] if isinstance(value, str) else list(value)
        return cls(parsed, tuple(text for text in hidden if text))

    @property
    def sqlite(self) -> bool:
        """Whether it is an SQLite file."""
        return self.url.get_backend_name() == "sqlite"

    def __str__(self) -> str:
        if self.sqlite:
            return str(self.url.database)
        # the options after "?" may hold a password, too
        return self.url.set(query={}).render_as_string(hide_password=True)

    def __repr__(self) -> str:
        return f"Place({str(self)!r})"

    def engine(self, timeout: float) -> Engine:
        """An engine that keeps no connection open. An SQLite connection must not cross a fork,
        and one to a server does not outlive a simulation of many hours.
        """
        from sqlalchemy import create_engine, event, pool
        from sqlalchemy.exc import ArgumentError

        scheme, options = self.url.drivername, dict[str, float]()
        if self.sqlite:
            options["timeout"] = timeout
        elif scheme in LIBPQ and "connect_timeout" not in self.url.query:
            options["connect_timeout"] = SERVER_WAIT
        try:
            if self.url.get_dialect().is_async:
                raise UserError(f"{scheme} is for asynchronous programs; give another driver")
            engine = create_engine(self.url, poolclass=pool.NullPool, connect_args=options)
        except ImportError as error:
            module = (error.name or scheme.partition("+")[2] or scheme).partition(".")[0]
            package = PACKAGES.get(module, module)
            raise UserError(
                f"the ledger {self} needs the package {package}, which is not installed: "
                f"pip install '{package}'"
            ) from error
        except ArgumentError:
            raise UserError(
                f"the ledger {self}: there is no database {scheme!r}. Give a file, or a URL such "
                "as postgresql://user@host/database."
            ) from None
        if self.sqlite:
            event.listen(engine, "connect", _durable)
        return engine

    def has(self, table: Table) -> Callable[[Connection], bool]:
        """Work for a connection: whether the table is there.

        Raises:
            UserError: the table has other columns, or the file is damaged or of something else.
        """

        def look(connection: Connection) -> bool:
            from sqlalchemy import inspect

            if self.sqlite:
                self._check_damage(connection)
            inspector = inspect(connection)
            if not inspector.has_table(table.name):
                others = inspector.get_table_names() if self.sqlite else []
                if others:
                    raise UserError(
                        f"{self} is a database of something else: it holds {_some(others)}. Give "
                        "another file for the ledger; it is made if it is not there."
                    )
                self._log_ahead(connection)
                return False
            there = {column["name"] for column in inspector.get_columns(table.name)}
            if lost := [column.name for column in table.c if column.name not in there]:
                raise UserError(
                    f"the table {table.name} in {self} is not that of a ledger: it has no "
                    f"{_some(lost)}. Give another database."
                )
            self._log_ahead(connection)
            return True

        return look

    def _check_damage(self, connection: Connection) -> None:
        """Find damage before anything is paid for. This only reads."""
        verdict = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
        if verdict != "ok":
            raise UserError(f"the ledger {self} is malformed: {_line(verdict)}. {DAMAGED}")

    def _log_ahead(self, connection: Connection) -> None:
        """Write-ahead log, so that readers do not wait for writers; it changes the file."""
        if self.sqlite:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL").close()

    def explained(self, error: SQLAlchemyError, doing: str) -> UserError:
        """The error for the person at the keyboard, without passwords.

        Args:
            error: what SQLAlchemy raised.
            doing: what could not be done: ``read``, ``written``, ``opened``.
        """
        text = _line(getattr(error, "orig", None) or error)
        for secret in self.secrets:
            text = text.replace(secret, "***")
        if self.sqlite:
            advice = next((say for sign, say in ADVICE if sign in text.lower()), "Check the file.")
        else:
            advice = "Check the server, the URL and your rights."
        return UserError(f"the ledger {self} cannot be {doing}: {text}. {advice}")


def passing(error: DBAPIError, *, patient: bool) -> bool:
    """Whether what hinders may pass by itself: a lock, or (if patient) a server that is away."""
    text = str(error.orig).lower()
    if "database is locked" in text or "database table is locked" in text:
        return True
    if type(error.orig).__module__.startswith("sqlite3"):
        return False
    code = getattr(error.orig, "sqlstate", None) or ""
    # connection lost; deadlock or serialisation; the server is shutting down or starting
    if code:
        return code.startswith(("08", "40", "57P"))
    return patient and (error.connection_invalidated or "connection" in text)


def _parsed(url: str) -> URL:
    """A URL as SQLAlchemy reads it; what cannot be read is not repeated, it may hold a password."""
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    scheme, _, rest = url.partition("://")
    scheme = DRIVERS.get(scheme, scheme)
    try:
        parsed = make_url(f"{scheme}://{rest}")
    except (ArgumentError, ValueError):
        raise UserError(
            f"the ledger's URL {scheme}://... cannot be read. Write it as "
            "postgresql://user:password@host:5432/database."
        ) from None
    user, at, _ = rest.rpartition("@")
    _, colon, password = user.partition(":")
    if at and colon and not scheme.startswith("sqlite") and unquote(password) != parsed.password:
        raise UserError(
            f"the ledger's URL {scheme}://... has more than one @. Inside a password or an option "
            "write @ as %40, : as %3A, / as %2F and % as %25."
        )
    return parsed


def _file(url: URL) -> URL:
    """An SQLite URL with a whole path, so that a change of the working folder changes nothing."""
    name = url.database
    volatile = url.query.get("mode") == "memory" or ":memory:" in (name or "")
    if not name or volatile:
        raise UserError("a ledger in memory is lost with its process: give a file")
    if name.startswith("file:"):
        return url
    path = Path(name).expanduser().absolute()
    if path.is_dir():
        raise UserError(f"the ledger {path} is a folder: give a file in it")
    if not path.parent.is_dir():
        raise UserError(f"the ledger {path}: there is no folder {path.parent}")
    return url.set(database=str(path))


def _durable(connection: Any, _: object) -> None:
    # FULL: a commit survives not only a kill but also a power cut
    connection.execute("PRAGMA synchronous=FULL").close()


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" and more" if len(names) > 3 else "")


def _line(text: object) -> str:
    return " ".join(str(text).split()).rstrip(".")
