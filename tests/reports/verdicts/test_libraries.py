"""`reports peers`: several libraries compared with our kernels, over launches with synthetic
figures, through the real store."""

import json
import re

import pytest

from reports.__main__ import main
from reports.store.manifest import MANIFEST
from tests.reports.synthetic_campaign import no_effect, write_campaign
from tests.reports.synthetic_run import SLOW_NS, cost_us, rewrite_head

pytestmark = pytest.mark.unit

IMB = """\
#----------------------------------------------------------------
# Benchmarking Allreduce
# #processes = 2
#----------------------------------------------------------------
       #bytes #repetitions  t_min[usec]  t_max[usec]  t_avg[usec]
            0         1000         0.08         0.10         0.09
        16384         1000         6.01         {time_us:.2f}         6.08

#----------------------------------------------------------------
# Benchmarking Reduce
# #processes = 2
#----------------------------------------------------------------
       #bytes #repetitions  t_min[usec]  t_max[usec]  t_avg[usec]
        16384         1000         1.00       500.00         2.00
"""
LIBRARY_US = cost_us("library", 16384, SLOW_NS, 2)


def as_long(factor, size_bytes=None):
    """The library takes this times as long, at one size or at all."""
    return lambda case: (
        factor if case.algorithm == "library" and size_bytes in (None, case.size_bytes) else 1.0
    )


def write_peers(folder, libraries, other="Other 1.0", **options):
    """A campaign with a variant for each library; all but the first are of the `other` library."""
    write_campaign(folder, libraries, pairs=7, **options)
    for name in [*libraries][1:]:
        for path in folder.glob(f"{name}/*.jsonl"):
            path.write_text(path.read_text().replace("MPICH 5.0.2", other))
    return folder


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    """One library with the default cost and one that is twice as slow, in seven launches each."""
    folder = tmp_path_factory.mktemp("peers") / "campaign"
    return write_peers(
        folder,
        {"mpich": no_effect, "other": as_long(2.0)},
        "Intel MPI 2021.18.1",
    )


@pytest.fixture
def peers(capsys):
    """A function with the exit status, standard output and standard error of `reports peers`."""

    def run(*words):
        status = main(["peers", *map(str, words)])
        return status, *capsys.readouterr()

    return run


def test_every_library_is_compared_with_our_kernels_with_an_interval_over_launches(campaign, peers):
    status, out, err = peers(campaign)
    assert (status, err) == (0, "")
    headline = re.match(
        r"Ours beside the closest of 2 libraries, isolated: 16 KiB (\d\.\d\d)x MPICH 5\.0\.2, ", out
    )
    assert headline, out[:200]
    ours_us = min(cost_us(name, 16384, SLOW_NS, 2) for name in ("one_shot_push", "two_shot"))
    row = next(line for line in out.splitlines() if line.startswith("  16 KiB"))
    match = re.match(r"  16 KiB +(\S+) +(\S+) \[(\S+) (\S+)\] +(\S+) +(\S+) \[", row)
    assert match, row
    us, ratio, low, high, twice_us, twice = map(float, match.groups())
    assert ratio == float(headline[1]) == pytest.approx(LIBRARY_US / ours_us, rel=0.02)
    assert twice == pytest.approx(2 * ratio, rel=0.02)
    assert twice_us == pytest.approx(2 * us, rel=0.02)
    assert low <= ratio <= high < 1.02 * low


def test_settings_of_one_library_share_a_column_with_the_fastest_at_each_size(tmp_path, peers):
    """A reader must see the library at its best, and how to repeat it."""
    libraries = {
        "mpich": no_effect,
        "other": as_long(2.0, 65536),
        "other-2": as_long(2.0, 16384),
        "other-3": as_long(3.0),
    }
    folder = write_peers(tmp_path / "peers", libraries)
    variants = json.loads((folder / MANIFEST).read_text().splitlines()[0])["variants"]
    variants[2] |= {"environment": {"A": "1"}, "argv": ["mpirun", "--mpi-thread-level=multiple"]}
    rewrite_head(folder / MANIFEST, variants=variants)
    setting = "A=1 --mpi-thread-level=multiple"
    status, out, err = peers(folder)
    assert (status, err) == (0, "")
    assert f"\nOther 1.0: 16 KiB default; 64 KiB {setting}\n" in out
    assert "\nMPICH" not in out  # only in its default
    libraries = json.loads(peers(folder, "--json")[1])["tables"][0]["libraries"]
    assert {each["setting"] for each in libraries} == {"default", setting}


def test_intels_benchmark_is_compared_with_the_same_library_here(tmp_path, campaign, peers):
    """The comparison shows if our harness slows the baseline."""
    imb = tmp_path / "imb.txt"
    imb.write_text(IMB.format(time_us=2 * LIBRARY_US / 1.5))
    status, out, err = peers(campaign, "--imb", imb)
    assert (status, err) == (0, "")
    assert "Intel MPI 2021.18.1" in out
    *_, size, unit, imb_us, here_us, ratio = out.split()
    assert (size, unit) == ("16", "KiB")
    assert float(ratio.rstrip("x")) == pytest.approx(1.5, rel=0.02)
    assert float(here_us) / float(imb_us) == pytest.approx(1.5, rel=0.02)
    imb.write_text("# Benchmarking Bcast")
    for path, sentence in (
        (imb, "imb.txt has no table of IMB-MPI1 Allreduce\n"),
        (tmp_path / "none.txt", "none.txt cannot be read: No such file or directory\n"),
    ):
        status, _, err = peers(campaign, "--imb", path)
        assert (status, err.endswith(sentence), err.count("\n")) == (2, True, 1)


def test_a_folder_without_libraries_is_refused(tmp_path, peers):
    variants = {"a": no_effect, "b": no_effect}
    folder = write_campaign(tmp_path / "c", variants, pairs=2, algorithms=["ring", "two_shot"])
    sentence = "reports: no launch measured a library beside ours in one state of the link\n"
    assert peers(folder) == (2, "", sentence)
