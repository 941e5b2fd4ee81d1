"""Jobs as functions, and a finished run as an object.

>>> run = run_job("design", "beams.csv", {"score": "stiffness"}, out="runs/a")  # doctest: +SKIP
>>> run.designs, run.sample(50, aim=40)                                         # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from payoff.errors import UserError
from payoff.jobs.registry import job_named

if TYPE_CHECKING:
    import polars as pl

    from payoff.jobs.model import Model


class Run:
    """A finished run.

    Attributes:
        folder: of the run.

    Raises:
        UserError: the folder holds no finished run.
    """

    def __init__(self, folder: str | Path) -> None:
        from payoff.jobs.records import read_record

        self.folder = Path(folder)
        self._record = read_record(self.folder)

    @property
    def record(self) -> dict[str, Any]:
        """The content of ``run.json``."""
        return self._record

    @property
    def job(self) -> str:
        """The job's name, such as ``design``."""
        return str(self._record.get("kind", "design"))

    @property
    def designs(self) -> pl.DataFrame:
        """The designs, best first, as in ``designs.csv``; of a comparison its table."""
        return self._table("table.csv" if self.job == "compare" else "designs.csv")

    @property
    def history(self) -> pl.DataFrame:
        """The rounds of a tuning, the batches of a steering, or the aims of a design run."""
        return self._table("sweep.csv" if self.job == "design" else "history.csv")

    @property
    def model(self) -> Model:
        """The model that the run made or, where it made none, began with."""
        from payoff.jobs.model import Model

        return Model.load(self.folder)

    @property
    def report(self) -> Path:
        """The page of the run, written anew where it is missing."""
        page = self.folder / "report.html"
        if not page.is_file():
            from payoff.report import build

            page = build(self.folder)
        return page

    def sample(self, count: int = 100, **options: Any) -> pl.DataFrame:
        """Draw more designs from the run's model; no reward is asked.

        Args:
            count: number of designs.
            options: of :func:`payoff.sample`: aim, seed, steps, precision, guidance, quiet.

        Raises:
            UserError: the run has no one model to draw from, or an option is wrong.
        """
        from payoff.jobs.sample import sample

        return sample(self.folder, count=count, **{"quiet": True, **options}).table

    def _table(self, name: str) -> pl.DataFrame:
        import polars as pl

        path = self.folder / name
        try:
            return pl.read_csv(path, infer_schema_length=None)
        except FileNotFoundError:
            raise UserError(f"{self.folder} has no {name}: a {self.job} run leaves none") from None
        except (OSError, pl.exceptions.PolarsError) as error:
            first = str(error).splitlines()[0]
            raise UserError(f"{path} cannot be read ({first})") from error

    def __repr__(self) -> str:
        return f"<payoff run of {self.job}: {self._record.get('name')}, in {self.folder}>"

    def _repr_html_(self) -> str:
        """The run for a notebook."""
        from payoff import report

        summary = getattr(report, "summary_html", None)
        try:
            shown = "" if summary is None else summary(self.folder)
        except UserError as error:
            shown = f"<p>{escape(str(error))}</p>"
        table = self.designs.head(10)._repr_html_()
        return f"<p>{escape(repr(self))}</p>{shown}{table}"


def run_job(
    name: str,
    source: Any,
    given: Mapping[str, Any],
    *,
    out: str | Path | None = None,
    preset: str = "default",
    kind: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    trust: bool = False,
) -> Run:
    """Run the job of that name and write its report.

    Args:
        name: of the job.
        source: data (a file, the name of a built-in data set, a DataFrame) or a saved model.
        given: options of the job and of the kind of object, by their names in Python.
        out: the run's folder; default: ``runs/NAME``.
        preset: ``default``, or ``toy`` to try things out.
        kind: name of the kind of object, where two kinds read the source.
        resume: continue an interrupted run.
        overwrite: replace an earlier run in the folder.
        quiet: no progress.
        trust: import code that a saved model of somebody else names.

    Raises:
        UserError: something is wrong with the request.
    """
    from payoff.jobs.base import start
    from payoff.pretrained import trusting
    from payoff.report import build

    entry = job_named(name)
    flags: dict[str, Any] = {"resume": resume, "overwrite": overwrite, "quiet": quiet}
    with trusting(trust):
        _, folder = start(entry.load(), source, given, out=out, preset=preset, kind=kind, **flags)
        build(folder.path)
    return Run(folder.path)
