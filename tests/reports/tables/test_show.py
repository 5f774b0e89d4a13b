"""The output for one run: the table, the other formats, the plot, and `python -m reports show`."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import pytest
from PIL import Image

from reports.store.result import ResultError, read
from reports.store.schema import Block
from reports.tables.formats import as_csv, as_json, as_nccl_tests
from reports.tables.plot import plot
from reports.tables.table import render
from tests.launch import ROOT
from tests.reports.synthetic_run import ALGORITHMS, CHAINED_UP_TO, SIZES, write_run

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"), fast_rounds=[3], in_place=(False, True))


def rows_of(text: str) -> dict[str, list[str]]:
    """The first table's rows, {size: cells after it}."""
    rows: dict[str, list[str]] = {}
    for line in text.splitlines():
        if match := re.match(r" *(\d+ [KMG]?i?B) +(.*)", line):
            rows.setdefault(match[1], match[2].split())
    return rows


def test_the_default_table_fits_80_columns_and_has_every_figure(result):
    text = render(result)
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text
    rows = rows_of(text)
    assert list(rows) == [
        "16 KiB",
        "32 KiB",
        "64 KiB",
        "128 KiB",
        "256 KiB",
        "512 KiB",
        "1 MiB",
        "2 MiB",
        "4 MiB",
        "8 MiB",
        "16 MiB",
        "32 MiB",
    ]
    library, auto, algorithm, ratio, low, high, busbw, share, wrong = rows["16 KiB"]
    assert algorithm == "one_shot_push"
    assert float(low[1:]) <= float(ratio) <= float(high[:-1])
    assert float(ratio) == pytest.approx(float(library) / float(auto), rel=0.03)
    assert float(busbw) == pytest.approx(16384 / (float(auto) / 1.25) / 1e3, rel=0.02)
    assert (0 < int(share[:-1]) <= 100, wrong) == (True, "0")
    assert re.search(r"flag round trip 5[34]\d ns, held 90% of the blocks \(10\d ns 10%\)", text)
    for expected in (
        "MPICH 5.0.2, funneled",
        "AMD EPYC",
        "seed 7",
        "160 dependent calls",
        "A 70B 4-bit token at TP 2: 160 x",
        "not measured here",
        "outside measuring",
        "Peer memory is mapped",
    ):
        assert expected in text


def test_a_gpu_run_names_the_cards_and_uses_the_librarys_best_variant(tmp_path):
    """A comparison with the worse of two variants would flatter our kernels. MPI's thread level is irrelevant to
    NCCL."""

    def registered_is_faster(block):
        number = block.case % 7  # plain, registered, and five of our algorithms at each size
        factor = {0: 1.0, 1: 0.5}.get(number, 1.0)
        return msgspec.structs.replace(
            block, time_us=block.time_us * factor, total_us=block.total_us * factor
        )

    result = write_run(
        tmp_path,
        modes=["isolated"],
        library_variants=("plain", "registered"),
        change=registered_is_faster,
    )
    for rank in result.run.world["ranks"]:
        rank |= {"device": "hip", "arch": "gfx1201", "gpu": "AMD Radeon AI PRO R9700"}
    text = " ".join(render(result).split())
    cases = {
        case.variant: case.total_us
        for case in result.cases
        if case.library and case.size_bytes == 16384
    }
    plain, registered = cases["plain"], cases["registered"]
    assert plain
    assert registered
    library = float(rows_of(render(result))["16 KiB"][0])
    assert library == pytest.approx(registered.median, rel=0.05)
    assert library < 0.6 * plain.median
    assert "odd rounds choose between variants, even ones report" in " ".join(text.split())
    assert "2 ranks on AMD Radeon AI PRO R9700 (gfx1201)" in text
    assert "funneled" not in text


def test_the_head_names_the_hosts_and_which_ranks_are_where(tmp_path):
    """By label; by name if the run stores names. Hosts may share a label, as cloned images do."""
    result = write_run(tmp_path, world_size=4)
    world = result.run.world
    world["hosts"] = 2
    assert "4 ranks on 2 hosts, on AMD" in render(
        result
    )  # older runs do not say which ranks are where
    for rank, label in enumerate(("a1b2", "c3d4", "a1b2", "c3d4")):
        world["ranks"][rank] |= {"host": rank % 2, "node": label}
    assert "allreduce: 4 ranks on 2 hosts (a1b2: 0 2, c3d4: 1 3), on AMD EPYC" in render(result)
    for rank in world["ranks"]:
        rank["node"] = "a1b2"
    assert "2 hosts (a1b2: 0 2, a1b2#2: 1 3)" in render(result)
    for rank in world["ranks"]:
        rank["node"] = None
    assert "2 hosts (host 1: 0 2, host 2: 1 3)" in render(result)
    for rank in world["ranks"]:
        rank["hostname"] = f"box{rank['host']}"
    assert "2 hosts (box0: 0 2, box1: 1 3)" in render(result)


def test_the_token_sentence_uses_160_chained_calls(result):
    case = next(
        case
        for case in result.cases
        if (case.algorithm, case.mode, case.size_bytes, case.in_place)
        == ("auto", "chained", 16384, False)
    )
    match = re.search(
        r"160 x ([\d.]+) us \(chained, 16 KiB\) = ([\d.]+) ms; flips at\s+(\d+) us", render(result)
    )
    assert match is not None
    assert float(match[1]) == pytest.approx(case.total_us.median, abs=0.006)
    assert float(match[2]) == pytest.approx(160 * case.total_us.median / 1e3, abs=0.006)
    # 70.6e9 weights of 4.5 bits at 640 GB/s take 62.1 ms; the second card saves half of that, over 160 calls.
    assert int(match[3]) == round(70.6e9 * 4.5 / 8 / 640e9 / 2 / 160 * 1e6)


@pytest.mark.parametrize(
    ("overhead_us", "clock_shared", "leads"),
    [(0.0, False, "isolated"), (5.0, True, "isolated"), (5.0, False, "chained")],
)
def test_the_chained_table_leads_where_stamps_take_much_of_a_time(
    tmp_path, overhead_us, clock_shared, leads
):
    """On AMD's GPUs stamps take microseconds: isolated, two algorithms of 4 and 8 us would look alike."""
    result = write_run(tmp_path, sizes=SIZES[:3])
    result.run.link["overhead_us"], result.run.clock_shared = overhead_us, clock_shared
    text = render(result)
    titles = [
        "chained: 160 dependent calls",
        "isolated: two stamps and an empty launch take 5.00 us of each time",
    ]
    assert [title in text for title in titles] == [True, leads == "chained"]
    if leads == "chained":
        assert text.index(titles[0]) < text.index(titles[1])
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("scale", [1e-4, 1e7])
def test_extreme_figures_stay_within_80_columns(tmp_path, scale):
    def dreadful(block: Block) -> Block:
        noisy = block.time_us * (1e6 if block.case % 3 == 0 else 1)
        return msgspec.structs.replace(
            block, time_us=noisy, total_us=noisy, n_wrong=123_456_789 if block.case % 7 == 1 else 0
        )

    text = render(
        write_run(tmp_path, scale=scale, change=dreadful, fast_rounds=range(5), n_blocks=12)
    )
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert len(rows_of(text)) == 12


def test_a_wrong_result_says_wrong_and_has_no_bandwidth(tmp_path):
    def wrong(block: Block) -> Block:
        return (
            msgspec.structs.replace(block, n_wrong=2)
            if (block.case, block.round) == (1, 4)
            else block
        )

    result = write_run(tmp_path, sizes=SIZES[:2], modes=["isolated"], change=wrong)
    text = render(result)
    assert text.startswith("WRONG RESULTS: auto 16 KiB isolated (2 elements).")
    _, ours, algorithm, *rest = rows_of(text)["16 KiB"]
    assert (ours, algorithm, rest) == ("WRONG", "one_shot_push", ["-", "-", "-", "2"])
    assert rows_of(text)["32 KiB"][-1] == "0"
    row = as_json(result)["results"][2]
    assert row["algorithm"] == "auto"
    assert (row["out_of_place"]["bus_bw"], row["out_of_place"]["nwrong"]) == (None, 2)
    assert "Out of bounds values : 1 FAILED" in as_nccl_tests(result)
    assert "wrong: 2 elements were wrong" in render(result, long=True)
    # The second table is the chained mode's, and all its results are right.
    both = render(write_run(tmp_path / "both", sizes=SIZES[:2], change=wrong))
    rows = [line.split() for line in both.splitlines() if line.startswith("  16 KiB")]
    assert [row[-1] for row in rows] == ["2", "0"]


def test_a_library_without_the_type_is_a_dash_with_one_reason(tmp_path):
    text = render(
        write_run(tmp_path, sizes=SIZES[:3], datatype="bfloat16", unsupported=["library"])
    )
    assert rows_of(text)["16 KiB"][0] == "-"
    assert text.count("MPICH 5.0.2 has no bfloat16") == 1


def test_without_auto_the_best_algorithm_is_chosen_on_odd_rounds_and_shown_on_even_ones(tmp_path):
    def lucky(block: Block) -> Block:
        """Case 0, one_shot_push, is fast in odd rounds only; case 1, ring, is always a little slower than those
        rounds."""
        time = {0: 5.0 if block.round % 2 else 50.0, 1: 6.0, 2: 9.0}[block.case]
        return msgspec.structs.replace(block, time_us=time, total_us=time)

    text = render(
        write_run(
            tmp_path,
            sizes=[16384],
            algorithms=["one_shot_push", "ring", "library", "two_shot"],
            modes=["isolated"],
            unsupported=["two_shot"],
            change=lucky,
        )
    )
    assert "best" in text
    assert rows_of(text)["16 KiB"][:4] == ["9.00", "50.0", "one_shot_push", "0.18"]


def test_an_algorithm_that_clearly_beats_auto_is_marked_and_named_once(tmp_path):
    def slow(*numbers):
        def change(block: Block) -> Block:
            total = (block.total_us or 0) * (1.6 if block.case in numbers else 1)
            return msgspec.structs.replace(block, total_us=total)

        return change

    # At 16 KiB case 1 is auto, and case 2 is one_shot_push, which auto runs. auto's own algorithm does not beat auto.
    options: dict[str, Any] = {"sizes": SIZES[:2], "modes": ["isolated"], "n_blocks": 16}
    text = render(write_run(tmp_path / "a", **options, change=slow(1, 2)))
    assert rows_of(text)["16 KiB"][2] == "one_shot_push*"
    assert rows_of(text)["32 KiB"][2] == "one_shot_push"
    assert re.search(
        r"\* another variant beat auto by more than 5 %: one-shot pull at 16 KiB \(1\.\d\dx\)\n",
        text,
    )
    assert "*" not in render(write_run(tmp_path / "b", **options, change=slow(1, 3, 4, 5)))
    # Five even rounds of ten give no interval, so no algorithm clearly beats auto.
    assert "*" not in render(
        write_run(tmp_path / "c", **{**options, "n_blocks": 10}, change=slow(1, 2))
    )


def test_a_second_table_appears_only_if_the_winner_changes_with_the_link(tmp_path):
    result = write_run(
        tmp_path / "a", sizes=[16384], fast_rounds=range(6), n_blocks=16, modes=["isolated"]
    )
    flipped = render(result)
    assert "where the winner changes with the link" in flipped
    assert re.search(r"16 KiB +105 ns .* (two_shot|ring)", flipped)
    longer = {"two_shot": "two_shot_direct+nt+ntr", "ring": "ring+nt+ntr"}
    built = replace(
        result,
        cases=[
            msgspec.structs.replace(case, algorithm=longer.get(case.algorithm, case.algorithm))
            for case in result.cases
        ],
    )
    assert re.search(r"16 KiB +105 ns .* (two_shot_direct|ring)\+nt\+ntr\n", render(built))
    steady = render(write_run(tmp_path / "b", sizes=[16384], n_blocks=16, modes=["isolated"]))
    assert "where the winner changes" not in steady


def test_an_incomplete_run_starts_with_a_warning(tmp_path):
    cut = write_run(
        tmp_path,
        sizes=SIZES[:2],
        finish=False,
        run_id="cut",
        change=lambda block: None if block.case == 0 else block,
    )
    assert render(cut).startswith("INCOMPLETE: the run was cut off.\n")
    assert "not measured: library" in render(cut)
    stopped = write_run(tmp_path, sizes=SIZES[:2], status="incomplete")
    assert render(stopped).startswith("INCOMPLETE: interrupted.\n")


def test_the_library_and_our_kernels_are_not_compared_across_states_of_the_link(tmp_path):
    def elsewhere(block: Block) -> Block:
        return (
            msgspec.structs.replace(block, link_rtt_ns=(105.0, 105.0)) if block.case == 0 else block
        )

    text = render(write_run(tmp_path, sizes=SIZES[:2], modes=["isolated"], change=elsewhere))
    assert rows_of(text)["16 KiB"][3] == "-"
    assert "measured in another state of the link than the rest: library 16 KiB isolated" in text
    assert rows_of(text)["32 KiB"][3] != "-"


def test_one_rank_has_no_busbw(tmp_path):
    text = render(write_run(tmp_path, sizes=SIZES[:2], world_size=1))
    assert "busbw means nothing with one rank" in text
    assert "GB/s\n" not in text.replace("640 GB/s", "")
    assert "token" not in text


def test_long_has_a_row_for_every_case(result):
    lines = [
        line for line in render(result, long=True).splitlines() if re.match(r" *\d+ [KM]iB ", line)
    ]
    chained = sum(size <= CHAINED_UP_TO for size in SIZES)
    assert len(lines) == (len(SIZES) + chained) * len(ALGORITHMS) * 2 == len(result.cases)


def test_csv_has_every_case_and_every_figure(result):
    frame = pd.read_csv(io.StringIO(as_csv(result)))
    assert len(frame) == len(result.cases)
    for row, case in zip(frame.to_dict("records"), result.cases, strict=True):
        assert (row["algorithm"], row["size_bytes"], row["mode"]) == (
            case.algorithm,
            case.size_bytes,
            case.mode,
        )
        assert row["time_us_median"] == pytest.approx(case.time_us.median)
        assert row["bus_bw_gb_s"] == pytest.approx(case.bus_bw_gb_s)
    assert frame["samples"].notna().all()


def parse_nccl_tests(text: str) -> list[tuple[str, list[dict[str, str]], float]]:
    """The tests of a log, parsed as scripts parse the log of nccl-tests: `#` lines by their words, rows by white
    space."""
    tests: list[tuple[str, list[dict[str, str]], float]] = []
    names: list[str] = []
    rows: list[dict[str, str]] = []
    for line in text.splitlines():
        if re.match(r"# +size +count", line):
            names, rows = line[1:].split(), []
        elif match := re.match(r"# Avg bus bandwidth +: (\S+)", line):
            tests.append((names[0], rows, float(match[1])))
        elif not line.startswith("#") and line.strip():
            cells = line.split()
            assert len(cells) == len(names) == 13
            rows.append(
                dict(
                    zip(
                        [*names[:9], *(f"in_place_{name}" for name in names[9:])],
                        cells,
                        strict=True,
                    )
                )
            )
    return tests


def test_a_parser_for_nccl_tests_reads_the_text(result):
    """One test: `auto` unless another algorithm is named."""
    for algorithm in (None, "library"):
        [(_, rows, average)] = parse_nccl_tests(as_nccl_tests(result, algorithm))
        cases = [
            case
            for case in result.cases
            if case.algorithm == (algorithm or "auto") and case.mode == "isolated"
        ]
        assert len(rows) == len(SIZES)
        for row, out_of_place, in_place in zip(rows, cases[::2], cases[1::2], strict=True):
            assert (int(row["size"]), int(row["count"])) == (
                out_of_place.size_bytes,
                out_of_place.count,
            )
            assert (row["type"], row["redop"], row["root"], row["#wrong"]) == (
                "float",
                "sum",
                "-1",
                "0",
            )
            assert float(row["time"]) == pytest.approx(out_of_place.time_us.mean, abs=0.06)
            assert float(row["in_place_time"]) == pytest.approx(in_place.time_us.mean, abs=0.06)
            assert float(row["busbw"]) == pytest.approx(
                out_of_place.size_bytes / out_of_place.time_us.mean / 1e3, abs=0.01
            )
        both = [float(row[name]) for row in rows for name in ("busbw", "in_place_busbw")]
        assert average == pytest.approx(sum(both) / len(both), abs=0.01)
    with pytest.raises(ResultError, match="has no algorithm ringg"):
        as_nccl_tests(result, "ringg")


def test_busbw_of_four_ranks_is_three_halves_of_algbw_in_every_format(tmp_path):
    result = write_run(
        tmp_path, sizes=[1 << 20], algorithms=["ring"], modes=["isolated"], world_size=4
    )
    [(_, [row], average)] = parse_nccl_tests(as_nccl_tests(result))
    half = as_json(result)["results"][0]["out_of_place"]
    [record] = pd.read_csv(io.StringIO(as_csv(result))).to_dict("records")
    assert float(row["busbw"]) == pytest.approx(1.5 * float(row["algbw"]), abs=0.02)
    assert average == pytest.approx(half["bus_bw"], rel=1e-4)
    assert half["bus_bw"] == pytest.approx(1.5 * half["alg_bw"])
    assert record["bus_bw_gb_s"] == pytest.approx(1.5 * record["alg_bw_gb_s"])


def test_nccl_tests_columns_end_at_the_original_positions(tmp_path):
    """A row of nccl-tests 2.19 and our row of the same shape end their columns at the same positions, also if a figure
    was not measured."""
    theirs = (
        "       16384          4096     float     sum      -1     3.68    4.45    4.45       0"
        "     3.68    4.45    4.45       0"
    )
    text = as_nccl_tests(write_run(tmp_path, sizes=[16384], algorithms=["ring"]))
    [row] = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert [match.end() for match in re.finditer(r"\S+", row)] == [
        m.end() for m in re.finditer(r"\S+", theirs)
    ]
    assert row.split()[-4:] == ["N/A"] * 4


def test_json_has_the_fields_of_nccl_tests_report(result):
    report = json.loads(json.dumps(as_json(result)))
    assert {
        "version",
        "start_time",
        "args",
        "env",
        "config",
        "results",
        "out_of_bounds",
        "average_bus_bandwidth",
        "errors",
    } <= report.keys()
    assert report["start_time"] == "2026-11-20 06:15:00"
    assert len(report["results"]) * 2 == len(result.cases)
    first = report["results"][0]
    assert (first["size"], first["type"], first["out_of_place"]["nwrong"]) == (16384, "float", 0)
    assert first["out_of_place"]["time"] == result.cases[0].time_us.mean


def test_the_plot_names_lines_and_regimes(tmp_path, result):
    plot(result, tmp_path / "run.svg")
    words = " ".join(ElementTree.parse(tmp_path / "run.svg").getroot().itertext())
    for expected in (
        "MPICH 5.0.2",
        "auto",
        "one_shot_push",
        "ring",
        "bound",
        "latency-bound:",
        "bandwidth-bound:",
        "16K",
        "32M",
        "2 ranks",
        "float32 sum",
        "isolated",
    ):
        assert expected in words
    plot(result, tmp_path / "run.png")
    assert Image.open(tmp_path / "run.png").size[0] > 1000
    with pytest.raises(ResultError, match=r"ends in \.svg or \.png"):
        plot(result, tmp_path / "run.pdf")


def show(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "reports", *arguments], capture_output=True, text=True, cwd=ROOT
    )


def test_show_prints_the_stored_table_and_refuses_in_one_line(tmp_path, result):
    shown = show("show", result.path, "--plot", tmp_path / "a.svg")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout == render(read(result.path))
    assert (tmp_path / "a.svg").exists()
    (tmp_path / "other.jsonl").write_text("[1, 2]\n")
    for path in (tmp_path / "none.jsonl", tmp_path / "other.jsonl", tmp_path):
        refused = show("show", path)
        assert refused.returncode == 2
        assert re.fullmatch(rf"reports: {path}.*\n", refused.stderr)
    two_forms = [
        ("show", result.path, "--json", "--long"),
        ("show", result.path, "--algorithm", "ring"),
    ]
    for arguments in ((), ("shew",), ("show", result.path, "--format", "xml"), *two_forms):
        refused = show(*arguments)
        assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)


@pytest.mark.parametrize(("no_color", "coloured"), [(None, True), ("1", False)])
def test_a_terminal_gets_bold_unless_no_color_is_set(result, no_color, coloured):
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | {
        "TERM": "xterm"
    }
    if no_color:
        environment["NO_COLOR"] = no_color
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "reports", "show", result.path],
        stdout=theirs,
        env=environment,
        cwd=ROOT,
    ) as process:
        os.close(theirs)
        output = b""
        # Linux reports the closed end of a terminal as an input/output error.
        try:
            while chunk := os.read(ours, 65536):
                output += chunk
        except OSError:
            pass
        finally:
            os.close(ours)
    assert process.returncode == 0
    assert (b"\x1b[" in output) == coloured
    assert b"one_shot_push" in output


def test_any_number_of_bytes_sent_fits_its_column(tmp_path):
    """Each number of bytes is a row of a routed all-to-all."""
    sent = [0, 4, 64, 128, 999, 1000, 6900, 98765, 10**6, 7 * 10**9]
    result = write_run(
        tmp_path, sizes=SIZES[:1], modes=["isolated"], algorithms=["library", "auto"]
    )
    case, rows = result.cases[1], []
    for number, size_bytes in enumerate(sent):
        routing = {"leaving_bytes": [size_bytes], "rank_max_over_mean": 1.0 + number}
        rows.append(
            msgspec.structs.replace(
                case, case=number, shape={"skew": f"zipf:{number}"}, routing=routing
            )
        )
    result.cases = rows
    text = render(result)
    assert max(map(len, text.splitlines())) <= 80
    cells = [line.split()[4] for line in text.splitlines() if re.match(" +zipf:", line)]
    assert cells == [
        "0.00",
        "4e-06",
        "6e-05",
        "0.0001",
        "0.001",
        "0.001",
        "0.0069",
        "0.099",
        "1.00",
        "7000",
    ]
