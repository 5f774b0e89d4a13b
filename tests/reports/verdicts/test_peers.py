"""`reports peers`: several libraries compared with our kernels, over launches with synthetic figures, through the real
store."""

import re

import pytest

from reports.__main__ import main
from tests.reports.synthetic_campaign import no_effect, write_campaign
from tests.reports.synthetic_run import SLOW_NS, cost_us

IMB = """\
#----------------------------------------------------------------
# Benchmarking Allreduce
# #processes = 2
#----------------------------------------------------------------
       #bytes #repetitions  t_min[usec]  t_max[usec]  t_avg[usec]
            0         1000         0.08         0.10         0.09
        16384         1000         6.01         {time_us:.2f}         6.08
"""


def as_long(factor):
    return lambda case: factor if case.algorithm == "library" else 1.0


@pytest.fixture
def campaign(tmp_path):
    """One library with the default cost and one that is twice as slow, in seven launches each."""
    libraries = {"mpich": no_effect, "other": as_long(2.0)}
    return write_campaign(tmp_path / "peers", libraries, pairs=7, control=True)


def peers(capsys, *words):
    """The exit status, standard output and standard error of `reports peers`."""
    status = main(["peers", *map(str, words)])
    return status, *capsys.readouterr()


def test_every_library_is_compared_with_our_kernels_with_an_interval_over_launches(campaign, capsys):
    status, out, err = peers(capsys, campaign)
    assert (status, err) == (0, "")
    headline = re.match(r"Ours beside the closest of 2 libraries, isolated: 16 KiB (\d\.\d\d)x MPICH 5\.0\.2, "
                        r"64 KiB \d\.\d\dx MPICH 5\.0\.2\n", out)
    assert headline, out[:200]
    expected = cost_us("library", 16384, SLOW_NS, 2) / min(
        cost_us(name, 16384, SLOW_NS, 2) for name in ("one_shot_push", "two_shot"))
    row = next(line for line in out.splitlines() if line.startswith("  16 KiB"))
    match = re.fullmatch(r"  16 KiB +(\S+) +(\S+) \[(\S+ \S+)\] +(\S+) +(\S+) \[.*\] *MPICH 5\.0\.2", row)
    assert match, row
    us, ratio, interval, twice_us, twice = match.groups()
    assert float(ratio) == float(headline[1]) == pytest.approx(expected, rel=0.02)
    assert float(twice) == pytest.approx(2 * expected, rel=0.02)
    assert float(twice_us) == pytest.approx(2 * float(us), rel=0.02)
    low, high = map(float, interval.split())
    assert low <= float(ratio) <= high < 1.02 * low
    assert "control" not in out
    assert re.search(r"^Ours gains least over MPICH 5\.0\.2 at (16|64) KiB, isolated: \d\.\d\dx\.$", out, re.MULTILINE)


def test_a_ratio_whose_interval_says_nothing_is_not_printed(tmp_path, capsys):
    folder = write_campaign(tmp_path / "peers", {"mpich": no_effect, "other": as_long(1.5)}, pairs=7, spread=6.0)
    status, out, _ = peers(capsys, folder)
    assert status == 0
    assert out.startswith("Ours beside the closest of 2 libraries, isolated: 16 KiB too noisy, 64 KiB too noisy\n")
    rows = [line.split() for line in out.splitlines() if re.match(r" +\d+ KiB ", line)]
    assert [row[3:5] + row[6:8] + row[8:] for row in rows] == [["too", "noisy"] * 2 + ["-"]] * 2
    assert "gains least" not in out


def test_each_state_of_the_link_has_its_own_table(tmp_path, capsys):
    """A mean over both states would hide a library that is ahead in one state and behind in the other."""
    options = {"fast": {"fast_rounds": range(40)}, "slow": {}}
    folder = write_campaign(tmp_path / "peers", {"fast": no_effect, "slow": as_long(3.0)}, pairs=7, options=options)
    status, out, err = peers(capsys, folder)
    assert (status, err) == (0, "")
    fast, slow = out.split("isolated, a flag's round trip ")[1:]
    assert re.match(r"10\d to 10\d ns\n", fast)
    assert re.match(r"5\d\d to 5\d\d ns\n", slow)
    for table, missing in ((fast, 1), (slow, 0)):
        row = next(line for line in table.splitlines() if line.startswith("  16 KiB"))
        cells = [row[10:38].strip(), row[40:68].strip()]
        assert cells[missing] == "-"
        assert re.fullmatch(r"\S+ +\S+ \[\S+ \S+\]", cells[1 - missing])


def test_intels_benchmark_is_compared_with_the_same_library_here(tmp_path, campaign, capsys):
    """The comparison shows if our harness slows the baseline."""
    for path in campaign.glob("other/*.jsonl"):
        path.write_text(path.read_text().replace("MPICH 5.0.2", "Intel MPI 2021.18.1"))
    here_us = 2 * cost_us("library", 16384, SLOW_NS, 2)
    (tmp_path / "imb.txt").write_text(IMB.format(time_us=here_us / 1.5))
    status, out, err = peers(capsys, campaign, "--imb", tmp_path / "imb.txt")
    assert (status, err) == (0, "")
    assert "Intel MPI 2021.18.1" in out
    *_, size, unit, imb, here, ratio = out.split()
    assert (size, unit) == ("16", "KiB")
    assert float(ratio.rstrip("x")) == pytest.approx(1.5, rel=0.02) == pytest.approx(float(here) / float(imb), rel=0.02)
    (tmp_path / "imb.txt").write_text(IMB.format(time_us=0.0))
    assert peers(capsys, campaign, "--imb", tmp_path / "imb.txt")[0] == 0


@pytest.mark.parametrize(("text", "sentence"), [
    (IMB.format(time_us=6.0), "reports: --imb: no launch used Intel MPI\n"),
    ("# Benchmarking Bcast", "imb.txt has no table of IMB-MPI1 Allreduce\n"),
    (None, "imb.txt cannot be read: No such file or directory\n"),
])
def test_output_of_another_benchmark_is_refused(tmp_path, campaign, capsys, text, sentence):
    if text is not None:
        (tmp_path / "imb.txt").write_text(text)
    status, _, err = peers(capsys, campaign, "--imb", tmp_path / "imb.txt")
    assert (status, err.count("\n")) == (2, 1)
    assert err.endswith(sentence)


def test_a_folder_without_libraries_is_refused(tmp_path, capsys):
    folder = write_campaign(tmp_path / "c", {"a": no_effect, "b": no_effect}, pairs=2, algorithms=["ring", "two_shot"])
    status, out, err = peers(capsys, folder)
    assert (status, out) == (2, "")
    assert err == "reports: no launch measured a library beside ours in one state of the link\n"
    status, out, err = peers(capsys, tmp_path / "nowhere")
    assert (status, out, err.count("\n")) == (2, "", 1)
