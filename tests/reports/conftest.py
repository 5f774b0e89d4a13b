"""What the tests of commands share."""

import pytest

from reports.__main__ import main


@pytest.fixture
def reports(capsys):
    """A function that runs a command of reports, and returns its exit status, standard output and
    standard error."""

    def run(*words):
        try:
            status = main([*map(str, words)])
        except SystemExit as ended:
            status = int(ended.code or 0)
        return status, *capsys.readouterr()

    return run
