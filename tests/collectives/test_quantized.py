"""Tests the quantised algorithms: exact results and error bounds; they run only if the user names them."""

import json
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from bench import tune
from collectives.algorithm import ALGORITHMS, BETWEEN_HOSTS, default_names, selected
from collectives.collective import COLLECTIVES, DATATYPES
from collectives.operation import Case, TunedChoice, Unsupported
from collectives.quantized import ALGORITHMS as QUANTIZED
from collectives.quantized import WIRES
from reports.store.result import read
from reports.store.schema import Block
from reports.tables.table import render
from reports.tables.tune import winners
from tests.launch import count, few, mpirun
from tests.reports.synthetic_run import write_run

pytestmark = pytest.mark.alone

NAMES = [algorithm.name for algorithm in QUANTIZED]
KNOWN = ALGORITHMS["all_reduce"]
LEAST_DB = {
    "two_shot_int8": 35,
    "two_shot_fp8": 25,
    "two_shot_int4": 15,
}  # on normally distributed data
E4M3 = np.array(
    [(1 + m / 8) * 2.0 ** (e - 7) if e else m / 8 * 2.0**-6 for e in range(16) for m in range(8)][
        :127
    ]
)


@pytest.mark.parametrize(
    ("ranks", "stores"), few([(2, []), (3, ["nt"]), (1, []), (3, []), (1, ["nt"]), (2, ["nt"])], 2)
)
def test_every_element_equals_numpys_and_is_as_close_to_fp64_as_its_block_allows(ranks, stores):
    examples = count(24)
    done = mpirun(ranks, "tests/ranks/quantized_ranks.py", str(examples), str(ranks), *stores)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"{examples} examples right on {ranks} ranks" in done.stdout


def test_fp8_rounds_to_the_nearest_code_and_integers_round_to_nearest():
    """numpy's version of the kernels needs an independent check."""
    draw = np.random.default_rng(3)
    values = np.concatenate(
        [
            draw.normal(size=(200, 31)) * 10.0 ** draw.integers(-4, 3, (200, 1)),
            draw.choice((E4M3[1:] + E4M3[:-1]) / 2, (200, 31)),
        ]
    ).astype(np.float32)
    values = np.clip(values, -448, 448)
    blocks = np.concatenate([values, np.full((400, 1), 448, np.float32)], 1)
    nearest = np.argsort(
        np.abs(np.abs(blocks)[..., None].astype(np.float64) - E4M3), axis=-1, kind="stable"
    )[..., :2]
    tied = np.abs(E4M3[nearest] - np.abs(blocks)[..., None].astype(np.float64))
    best = np.where(
        (tied[..., 0] == tied[..., 1]) & (nearest[..., 0] % 2 == 1),
        nearest[..., 1],
        nearest[..., 0],
    )
    fp8 = next(wire for wire in WIRES if wire.name == "fp8")
    assert np.array_equal(fp8.rounded(blocks), np.copysign(E4M3[best], blocks).astype(np.float32))
    for wire in WIRES[::2]:
        whole = np.full((1, 32), wire.largest, np.float32)
        whole[0, :4] = -0.5, 1.5, 2.5001, -wire.largest
        assert wire.rounded(whole)[0, :4].tolist() == [0, 2, 3, -wire.largest]


@pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.name)
def test_a_block_out_of_range_becomes_nan_and_zeros_stay_zeros(wire):
    for value in (np.nan, np.inf, -np.inf, 1e30):
        block = np.ones((1, 32), np.float32)
        block[0, 7] = value
        assert np.isnan(wire.rounded(block)).all()
    assert not wire.rounded(np.zeros((1, 32), np.float32)).any()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (
            {"datatype": DATATYPES["int32"]},
            "only float32, float16, bfloat16 can be quantised, not int32",
        ),
        ({"redop": "max"}, "only sum and avg can be quantised, not max"),
        ({"count": 33}, "only whole blocks of 32 elements can be quantised"),
    ],
    ids=["type", "operation", "count"],
)
def test_cases_that_cannot_be_quantised_are_refused_with_one_sentence(name, changed, sentence):
    case = replace(
        Case(COLLECTIVES["all_reduce"], 64, DATATYPES["float32"], "sum", 0, 0), **changed
    )
    refusal = KNOWN[name].bind(cast(Any, None), case)
    assert refusal == Unsupported(sentence, depends_on_size="count" in changed)


def test_quantised_algorithms_run_only_by_name():
    """Neither a run without --algorithm nor bench.tune uses them."""
    assert not set(default_names("all_reduce")) & set(NAMES)
    assert set(KNOWN) == {
        *default_names("all_reduce"),
        *NAMES,
        *(each.name for each in BETWEEN_HOSTS["all_reduce"]),
    }
    (algorithm,) = selected(KNOWN, ["two_shot_fp8+64K"])
    assert algorithm.name == "two_shot_fp8+64K"
    for far_peers in (False, True):
        bases = {name.partition("+")[0] for name in tune.candidates(1 << 20, far_peers)}
        assert not bases & set(NAMES)


def run(folder, *options):
    done = mpirun(2, "-m", "bench.allreduce", "--out", str(folder), "--lean", "-n", "12", *options)
    assert (done.returncode, done.stderr) == (0, "")
    (path,) = folder.glob("*.jsonl")
    return done.stdout, read(path)


def test_the_signal_to_noise_ratio_is_printed_beside_the_time(tmp_path):
    algorithms = ",".join(["library", "two_shot", "auto", *NAMES])
    printed, result = run(tmp_path, "--sizes", "16K", "--algorithm", algorithms)
    cases = [case for case in result.cases if case.algorithm in NAMES]
    assert {(case.algorithm, case.mode) for case in cases} == {
        (name, mode) for name in NAMES for mode in ("isolated", "chained")
    }
    headers = {header.algorithm: header.snr_db for header in result.run.cases}
    for case in cases:
        assert (case.status, case.n_wrong) == ("ok", 0)
        assert case.snr_db
        assert case.snr_db == headers[case.algorithm]
        assert list(case.snr_db) == ["normal", "heavy-tailed", "outlier channels"]
        assert case.snr_db["normal"] > LEAST_DB[case.algorithm]
        assert all(0 < ratio < 60 for ratio in case.snr_db.values())
        ratios = [f"{ratio:.1f}" for ratio in case.snr_db.values()]
        rows = [
            line.split() for line in printed.splitlines() if line.startswith("  16 KiB two_shot_")
        ]
        assert any(row[2] == case.algorithm and row[-3:] == ratios for row in rows)
        assert " ".join(ratios) in render(result, long=True)
    assert max(map(len, printed.splitlines()[:-2])) <= 80
    assert not any(case.chosen in NAMES for case in result.cases), (
        "auto must not choose a quantised algorithm"
    )


def test_a_size_without_whole_blocks_is_listed_if_the_command_line_names_it(tmp_path):
    _, result = run(
        tmp_path, "--sizes", "16388", "--algorithm", "ring,two_shot_int8", "--mode", "isolated"
    )
    assert {(case.algorithm, case.status, case.reason) for case in result.cases} == {
        ("ring", "ok", None),
        ("two_shot_int8", "unsupported", "only whole blocks of 32 elements can be quantised"),
    }


@pytest.mark.parametrize(("lossy_us", "names"), [(4.0, ["ring", "two_shot"]), (6.0, ["two_shot"])])
def test_a_stored_search_lists_a_faster_quantised_algorithm_beside_the_best(
    tmp_path, lossy_us, names
):
    """An older bench.tune measured quantised algorithms, and `reports show` still reads its runs."""
    result = write_run(tmp_path, sizes=[16384], algorithms=["ring", "two_shot"], modes=["isolated"])
    cases = {case.algorithm: case for case in result.cases}
    cases["ring"].snr_db = {"normal": 40.0}
    result.blocks = [
        Block(
            case=cases[name].case,
            block=turn,
            round=turn,
            n=3,
            time_us=cost,
            link_rtt_ns=(100.0, 100.0),
        )
        for turn in range(12)
        for name, cost in (("ring", lossy_us), ("two_shot", 5.0))
    ]
    assert sorted(winner.name for winner in winners(result)) == names


def test_auto_ignores_quantised_choices_in_a_table_of_an_older_version(tmp_path):
    """Otherwise a user would learn from a wrong answer that sums were quantised."""
    options = ("--sizes", "16K", "--mode", "isolated")
    _, first = run(tmp_path / "here", *options, "--algorithm", "ring")
    choices = [
        vars(TunedChoice("all_reduce", 2, 16384, "copied", rtt_ns, name))
        for rtt_ns in (1.0, 100.0, 400.0, 1e6)
        for name in ("two_shot_int8+64K", "ring")
    ]
    table = tmp_path / "table.json"
    table.write_text(
        json.dumps(
            {
                "machine_id": first.run.machine_id,
                "software_id": first.run.software_id,
                "run_id": "2026-tune",
                "picks": choices,
            }
        )
    )
    _, result = run(tmp_path / "out", *options, "--algorithm", "auto", "--tuned", str(table))
    assert any(
        note.startswith(
            "auto uses the table that bench.tune made in 2026-tune with an older Wiretax;"
        )
        for note in result.run.notes
    )
    copied = [case for case in result.cases if case.variant == "copied"]
    assert [(case.chosen, case.status, case.n_wrong, case.snr_db) for case in copied] == [
        ("ring", "ok", 0, None)
    ]
    numbers = [case.case for case in copied]
    assert {block.chosen for block in result.blocks if block.case in numbers} == {"ring"}
