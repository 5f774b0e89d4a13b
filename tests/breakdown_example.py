"""`python -m tests.breakdown_example` writes the example of docs/breakdown.md: what `breakdown`
prints of a published trace."""

import io
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

from reports.__main__ import main
from tests.marked_pages import with_part
from tests.reports.breakdown.v100_steps import write_v100_steps

PAGE = Path(__file__).parents[1] / "docs" / "breakdown.md"
START = "<!-- example: python -m tests.breakdown_example -->\n"
END = "<!-- end of example -->\n"
NAME = "v100-training-rank.json"


def example() -> str:
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()) as shown:
        trace = write_v100_steps(Path(folder) / NAME)
        assert main(["breakdown", str(trace)]) == 0
    return f"\n```\n$ wiretax breakdown {NAME}\n{shown.getvalue()}```\n\n"


def with_example(page: str) -> str:
    """The page with the example between its two marks."""
    return with_part(page, START, example(), END)


if __name__ == "__main__":
    PAGE.write_text(with_example(PAGE.read_text()))
