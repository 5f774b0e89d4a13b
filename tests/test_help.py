"""What `--help` does where nobody can read it."""

import sys

import pytest

from tests.launch import ROOT, end_of

COMMANDS = (
    "wiretax",
    "wiretax gate",
    "wiretax qualify",
    "wiretax regress",
    "bench.allreduce",
)


@pytest.mark.unit
@pytest.mark.parametrize("command", COMMANDS)
def test_help_ends_without_a_traceback_where_nobody_reads_it(tmp_path, command):
    """A closed output gave a traceback and status 1, a full disk 0, or 120 and two odd lines."""

    def end(redirection):
        line = f"'{sys.executable}' -m {command} --help {redirection}"
        done = end_of("bash", "-c", line, cwd=tmp_path, PYTHONPATH=str(ROOT))
        return done.returncode, done.stdout, done.stderr

    assert end(">&-") == (0, "", "")
    assert end('| true; exit "${PIPESTATUS[0]}"') == (0, "", "")
    status, shown, said = end(">/dev/full")
    assert (status, shown, said.count("\n")) == (2, "", 1)
    assert said.endswith(": cannot write: No space left on device\n")
    assert not [*tmp_path.iterdir()]


@pytest.mark.unit
def test_the_command_alone_lists_the_commands_and_is_no_success(tmp_path):
    """A script whose variable is empty must not pass."""
    done = end_of(sys.executable, "-m", "wiretax", cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert (done.returncode, done.stdout) == (2, "")
    assert "\n  gate                 tells whether a command " in done.stderr
