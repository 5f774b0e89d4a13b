"""The table from which `auto` chose in a survey that tunes nothing: it belongs into the archive, as
two machines' figures differ with it."""

from contextlib import suppress

from bench.harness import tuned
from bench.surveys.steps import TABLE, Survey
from wiretax.common.program import BENCH
from wiretax.record.result import ResultError, content_of
from wiretax.record.writing import write_whole


def keep_table(survey: Survey) -> None:
    """Says which table `auto` took in the all-reduces, and copies the user's own into the folder.
    Raises OSError."""
    runs = [result.run for result in survey.results("allreduce")]
    users = [run for run in runs if "tuned" in run.method]
    if not runs:
        return
    if not users:
        survey.remarks.append("auto took no row of a table: it chose by default.")
        return
    if (survey.inside / TABLE).exists():
        survey.remarks.append(f"auto took the rows of {TABLE}, which this survey tuned.")
        return
    said = f"auto took the table of an earlier {BENCH}tune"
    with suppress(ResultError):  # it went meanwhile
        write_whole(survey.inside / TABLE, content_of(tuned.path_of(None, users[-1])))
        said += f", which is in the archive: {TABLE}"
    survey.remarks.append(f"{said}.")
