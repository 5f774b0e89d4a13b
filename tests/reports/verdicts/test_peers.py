"""`reports peers`: several libraries compared with our kernels, over launches with synthetic figures, through the real
store."""

import json
import re

import pytest

from reports.__main__ import main
from reports.store.manifest import MANIFEST
from tests.reports.synthetic_campaign import no_effect, write_campaign
from tests.reports.synthetic_run import SLOW_NS, cost_us

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


def as_long(factor, size_bytes=None):
    """The library takes this times as long, at one size or at all."""
    return lambda case: (
        factor if case.algorithm == "library" and size_bytes in (None, case.size_bytes) else 1.0
    )


def write_peers(folder, libraries, **options):
    """A campaign with a variant for each library; all but the first are of the library `Other 1.0`."""
    write_campaign(folder, libraries, pairs=7, **options)
    for path in (path for name in [*libraries][1:] for path in folder.glob(f"{name}/*.jsonl")):
        path.write_text(path.read_text().replace("MPICH 5.0.2", "Other 1.0"))
    return folder


def set_variant(folder, number, **facts):
    """Changes facts of a variant in the manifest."""
    head, *rest = (folder / MANIFEST).read_text().splitlines()
    record = json.loads(head)
    record["variants"][number] |= facts
    (folder / MANIFEST).write_text(
        "\n".join([json.dumps(record, separators=(",", ":")), *rest, ""])
    )


@pytest.fixture
def campaign(tmp_path):
    """One library with the default cost and one that is twice as slow, in seven launches each."""
    return write_peers(
        tmp_path / "peers", {"mpich": no_effect, "other": as_long(2.0)}, control=True
    )


def peers(capsys, *words):
    """The exit status, standard output and standard error of `reports peers`."""
    status = main(["peers", *map(str, words)])
    return status, *capsys.readouterr()


def test_every_library_is_compared_with_our_kernels_with_an_interval_over_launches(
    campaign, capsys
):
    status, out, err = peers(capsys, campaign)
    assert (status, err) == (0, "")
    headline = re.match(
        r"Ours beside the closest of 2 libraries, isolated: 16 KiB (\d\.\d\d)x MPICH 5\.0\.2, "
        r"64 KiB \d\.\d\dx MPICH 5\.0\.2\n",
        out,
    )
    assert headline, out[:200]
    expected = cost_us("library", 16384, SLOW_NS, 2) / min(
        cost_us(name, 16384, SLOW_NS, 2) for name in ("one_shot_push", "two_shot")
    )
    row = next(line for line in out.splitlines() if line.startswith("  16 KiB"))
    match = re.fullmatch(
        r"  16 KiB +(\S+) +(\S+) \[(\S+ \S+)\] +(\S+) +(\S+) \[.*\] *MPICH 5\.0\.2", row
    )
    assert match, row
    us, ratio, interval, twice_us, twice = match.groups()
    assert float(ratio) == float(headline[1]) == pytest.approx(expected, rel=0.02)
    assert float(twice) == pytest.approx(2 * expected, rel=0.02)
    assert float(twice_us) == pytest.approx(2 * float(us), rel=0.02)
    low, high = map(float, interval.split())
    assert low <= float(ratio) <= high < 1.02 * low
    assert "control" not in out
    assert re.search(
        r"^Ours gains least over MPICH 5\.0\.2 at (16|64) KiB, isolated: \d\.\d\dx\.$",
        out,
        re.MULTILINE,
    )


def test_a_ratio_whose_interval_says_nothing_is_not_printed(tmp_path, capsys):
    folder = write_peers(
        tmp_path / "peers", {"mpich": no_effect, "other": as_long(1.5)}, spread=6.0
    )
    status, out, _ = peers(capsys, folder)
    assert status == 0
    assert out.startswith(
        "Ours beside the closest of 2 libraries, isolated: 16 KiB too noisy, 64 KiB too noisy\n"
    )
    rows = [line.split() for line in out.splitlines() if re.match(r" +\d+ KiB ", line)]
    assert [row[3:5] + row[6:8] + row[8:] for row in rows] == [["too", "noisy"] * 2 + ["-"]] * 2
    assert "gains least" not in out


def test_each_state_of_the_link_has_its_own_table(tmp_path, capsys):
    """A mean over both states would hide a library that is ahead in one state and behind in the other."""
    options = {"fast": {"fast_rounds": range(40)}, "slow": {}}
    folder = write_peers(
        tmp_path / "peers", {"fast": no_effect, "slow": as_long(3.0)}, options=options
    )
    status, out, err = peers(capsys, folder)
    assert (status, err) == (0, "")
    fast, slow = out.split("isolated, a flag's round trip ")[1:]
    assert re.match(r"10\d to 10\d ns; launches of each library: at least 7\n", fast)
    assert re.match(r"5\d\d to 5\d\d ns; launches of each library: at least 7\n", slow)
    for table, missing in ((fast, 1), (slow, 0)):
        row = next(line for line in table.splitlines() if line.startswith("  16 KiB"))
        cells = [row[10:38].strip(), row[40:68].strip()]
        assert cells[missing] == "-"
        assert re.fullmatch(r"\S+ +\S+ \[\S+ \S+\]", cells[1 - missing])


def test_settings_of_one_library_share_a_column_with_the_fastest_at_each_size(tmp_path, capsys):
    """A reader must see the library at its best, and how to repeat it."""
    folder = write_peers(
        tmp_path / "peers",
        {
            "mpich": no_effect,
            "other": as_long(2.0),
            "other-2": as_long(1.5, 65536),
            "other-3": as_long(3.0),
        },
    )
    set_variant(
        folder, 2, environment={"I_MPI_SHM": "icx"}, argv=["mpirun", "--mpi-thread-level=multiple"]
    )
    status, out, err = peers(capsys, folder)
    assert (status, err) == (0, "")
    assert out.startswith("Ours beside the closest of 2 libraries, isolated: 16 KiB ")
    rows = [line.split() for line in out.splitlines() if re.match(r" +\d+ KiB ", line)]
    for row, factor in zip(rows, (1.0, 1.5), strict=True):
        assert float(row[6]) == pytest.approx(factor * float(row[2]), rel=0.02)
    assert "\nOther 1.0: 16 KiB to 64 KiB I_MPI_SHM=icx --mpi-thread-level=multiple\n" in out
    assert "\nMPICH" not in out  # only in its default
    assert main(["peers", str(folder), "--json"]) == 0
    libraries = json.loads(capsys.readouterr().out)["tables"][0]["libraries"]
    assert {(each["library"], each["setting"]) for each in libraries} == {
        ("MPICH 5.0.2", "default"),
        ("Other 1.0", "I_MPI_SHM=icx --mpi-thread-level=multiple"),
    }


def test_a_setting_line_names_the_sizes_of_each_setting(tmp_path, capsys):
    folder = write_peers(
        tmp_path / "peers",
        {"mpich": no_effect, "other": as_long(2.0, 65536), "other-2": as_long(2.0, 16384)},
    )
    set_variant(folder, 2, environment={"A": "1"})
    assert "\nOther 1.0: 16 KiB default; 64 KiB A=1\n" in peers(capsys, folder)[1]


def test_intels_benchmark_is_compared_with_the_same_library_here(tmp_path, campaign, capsys):
    """The comparison shows if our harness slows the baseline."""
    for path in campaign.glob("other/*.jsonl"):
        path.write_text(path.read_text().replace("Other 1.0", "Intel MPI 2021.18.1"))
    here_us = 2 * cost_us("library", 16384, SLOW_NS, 2)
    (tmp_path / "imb.txt").write_text(IMB.format(time_us=here_us / 1.5))
    status, out, err = peers(capsys, campaign, "--imb", tmp_path / "imb.txt")
    assert (status, err) == (0, "")
    assert "Intel MPI 2021.18.1" in out
    *_, size, unit, imb, here, ratio = out.split()
    assert (size, unit) == ("16", "KiB")
    assert (
        float(ratio.rstrip("x"))
        == pytest.approx(1.5, rel=0.02)
        == pytest.approx(float(here) / float(imb), rel=0.02)
    )
    (tmp_path / "imb.txt").write_text(IMB.format(time_us=0.0))
    assert peers(capsys, campaign, "--imb", tmp_path / "imb.txt")[0] == 0


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (IMB.format(time_us=6.0), "reports: --imb: no launch used Intel MPI\n"),
        ("# Benchmarking Bcast", "imb.txt has no table of IMB-MPI1 Allreduce\n"),
        (None, "imb.txt cannot be read: No such file or directory\n"),
    ],
)
def test_output_of_another_benchmark_is_refused(tmp_path, campaign, capsys, text, sentence):
    if text is not None:
        (tmp_path / "imb.txt").write_text(text)
    status, _, err = peers(capsys, campaign, "--imb", tmp_path / "imb.txt")
    assert (status, err.count("\n")) == (2, 1)
    assert err.endswith(sentence)


def test_a_folder_without_libraries_is_refused(tmp_path, capsys):
    folder = write_campaign(
        tmp_path / "c", {"a": no_effect, "b": no_effect}, pairs=2, algorithms=["ring", "two_shot"]
    )
    status, out, err = peers(capsys, folder)
    assert (status, out) == (2, "")
    assert err == "reports: no launch measured a library beside ours in one state of the link\n"
    status, out, err = peers(capsys, tmp_path / "nowhere")
    assert (status, out, err.count("\n")) == (2, "", 1)
