"""Options declare what they change: comparisons and histories keep apart what is measured in
another way."""

from tests.bench.launches import run


def test_a_run_stores_how_it_was_measured_where_that_is_not_the_default(tmp_path):
    quick = "-b 16K -e 16K -n 12 --mode isolated --algorithm auto"
    _, usual = run(tmp_path / "usual", quick, "-c 1")
    assert usual.run.method == {}
    other = "-w 3 -c 0 --tuned none --mpi-thread-level multiple"
    _, changed = run(tmp_path / "changed", quick, other)
    assert changed.run.method == {
        "checks": 0,
        "mpi_thread_level": "multiple",
        "warmup": 3,
    }
