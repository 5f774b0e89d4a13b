"""What the tests of `reports bits` share."""

import pytest


@pytest.fixture
def report(reports):
    """A function that runs `reports bits`, and returns the status and what it prints, in a line."""

    def run(*words):
        status, out, err = reports("bits", *words)
        return status, " ".join((out + err).split())

    return run
