"""The emulator does not belong to the project: without it `make test-emulated` says so and
succeeds."""

from tests.launch import end_of


def test_without_an_emulator_the_tests_are_skipped_by_name():
    words = "make", "--no-print-directory", "test-emulated"
    done = end_of(*words, WIRETAX_EMULATOR="/nowhere")
    assert (done.returncode, done.stdout.count("\n")) == (0, 1), done.stderr
    assert "skipped" in done.stdout
    assert "/nowhere" in done.stdout
