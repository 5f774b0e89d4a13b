"""`python -m tests.commands_page > docs/commands.md` writes the help text of every command."""

import io
import os
import runpy
import sys
from contextlib import redirect_stdout
from typing import NamedTuple


class Group(NamedTuple):
    """Commands of one section of the page."""

    title: str
    text: str
    commands: tuple[str, ...]


GROUPS = (
    Group(
        "Collectives",
        "They run under `mpirun`, one rank per core or GPU. "
        "[Measure](measure.md) explains their table.",
        (
            "bench.allreduce",
            "bench.allgather",
            "bench.reduce_scatter",
            "bench.alltoall",
            "bench.sendrecv",
            "bench.bits",
        ),
    ),
    Group(
        "Compute and communication together",
        "[Layers](layers.md) explains their tables.",
        (
            "bench.allreduce_rmsnorm",
            "bench.gemv_allreduce",
            "bench.gemm_reduce_scatter",
            "bench.allgather_gemm",
            "bench.decode",
            "bench.prefill",
        ),
    ),
    Group(
        "The machine",
        "[Link](link.md), [doctor](doctor.md), [measure](measure.md) and [buy](buy.md) "
        "explain their output.",
        ("bench.link", "bench.doctor", "bench.tune", "bench.soak", "bench.survey", "bench.qualify"),
    ),
    Group(
        "Comparison",
        "They run without `mpirun`. [Compare and gate](compare.md) explains the verdicts.",
        (
            "bench.campaign",
            "bench.gate",
            "bench.bisect",
            "reports compare",
            "reports regress",
            "reports accept",
            "reports bits",
            "reports libraries",
            "reports tuner",
        ),
    ),
    Group(
        "Stored runs",
        "They read run files, and measure nothing. [Measure](measure.md), [watch](watch.md), "
        "[fit](fit.md), [advise](advise.md), [breakdown](breakdown.md), "
        "[published figures](references.md), [buy](buy.md) and [import](import.md) explain their "
        "output.",
        (
            "reports show",
            "reports history",
            "reports fleet",
            "reports dashboard",
            "reports fit",
            "reports advise",
            "reports breakdown",
            "reports expect",
            "reports references",
            "reports predict",
            "reports procure",
            "reports import",
            "reports export",
        ),
    ),
)

HEAD = """# Commands

Here you can look up every command and every option. The texts are the commands' own:
`python -m tests.commands_page > docs/commands.md` writes this page, and a test compares it with the
commands.
"""


def help_text(command: str) -> str:
    """The text that `python -m COMMAND --help` prints."""
    module, *subcommand = command.split()
    sys.argv = [module, *subcommand, "--help"]
    sys.modules.pop(
        f"{module}.__main__", None
    )  # of the previous command; runpy would warn about it
    output = io.StringIO()
    try:
        with redirect_stdout(output):
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ending:
        if ending.code:
            raise RuntimeError(f"{command} --help ended with status {ending.code}") from ending
    return output.getvalue()


def section(command: str) -> str:
    lines = [line.rstrip() for line in help_text(command).strip().splitlines()]
    return "\n".join([f"### {command}", "", "```", *lines, "```", ""])


def page() -> str:
    parts = [HEAD]
    for group in GROUPS:
        parts += [f"## {group.title}\n\n{group.text}\n", *map(section, group.commands)]
    return "\n".join(parts)


if __name__ == "__main__":
    os.environ["COLUMNS"] = "80"  # the width for argparse
    print(page(), end="")
