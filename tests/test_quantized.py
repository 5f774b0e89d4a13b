"""The quantised wire: its results to the bit, what it loses, and that nobody gets it unasked."""

import json
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from bench import tune
from bench.harness import picks
from collectives.algorithm import ALGORITHMS, asked_for
from collectives.allreduce_two_shot_quantized import QUANTIZED, WIRES
from collectives.collective import COLLECTIVES, DATATYPES
from collectives.operation import Case, Pick, Unsupported
from reports.result import Block, Planned, read
from reports.table import render
from reports.tune import winners
from tests.launch import count, mpirun
from tests.synthetic_run import write_run

NAMES = [algorithm.name for algorithm in QUANTIZED]
KNOWN = ALGORITHMS["all_reduce"]
LEAST_DB = {"two_shot_int8": 35, "two_shot_fp8": 25, "two_shot_int4": 15}  # on normal data
E4M3 = np.array([(1 + m / 8) * 2.0 ** (e - 7) if e else m / 8 * 2.0**-6 for e in range(16) for m in range(8)][:127])


@pytest.mark.beside
@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("stores", ["STREAM_SLAB=0", "STREAM_SLAB=1"])
def test_every_element_is_numpys_and_as_near_to_fp64_as_its_block_allows(ranks, stores):
    examples = count(24)
    done = mpirun(ranks, "tests/quantized_ranks.py", str(examples), str(ranks), stores)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"{examples} examples right on {ranks} ranks" in done.stdout


def test_fp8_is_the_nearest_of_all_codes_and_integers_are_to_the_nearest():
    """numpy's account of the kernels would otherwise be only another opinion."""
    draw = np.random.default_rng(3)
    values = np.concatenate([draw.normal(size=(200, 31)) * 10.0 ** draw.integers(-4, 3, (200, 1)),
                             draw.choice((E4M3[1:] + E4M3[:-1]) / 2, (200, 31))]).astype(np.float32)
    values = np.clip(values, -448, 448)
    blocks = np.concatenate([values, np.full((400, 1), 448, np.float32)], 1)
    nearest = np.argsort(np.abs(np.abs(blocks)[..., None].astype(np.float64) - E4M3), axis=-1, kind="stable")[..., :2]
    tied = np.abs(E4M3[nearest] - np.abs(blocks)[..., None].astype(np.float64))
    best = np.where((tied[..., 0] == tied[..., 1]) & (nearest[..., 0] % 2 == 1), nearest[..., 1], nearest[..., 0])
    fp8 = next(wire for wire in WIRES if wire.name == "fp8")
    assert np.array_equal(fp8.rounded(blocks), np.copysign(E4M3[best], blocks).astype(np.float32))
    for wire in WIRES[::2]:
        whole = np.full((1, 32), wire.largest, np.float32)
        whole[0, :4] = -0.5, 1.5, 2.5001, -wire.largest
        assert wire.rounded(whole)[0, :4].tolist() == [0, 2, 3, -wire.largest]


@pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.name)
def test_a_block_that_cannot_be_said_comes_back_as_nan_and_zeros_as_zeros(wire):
    for value in (np.nan, np.inf, -np.inf, 1e30):
        block = np.ones((1, 32), np.float32)
        block[0, 7] = value
        assert np.isnan(wire.rounded(block)).all()
    assert not wire.rounded(np.zeros((1, 32), np.float32)).any()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("changed", "sentence"), [
    ({"datatype": DATATYPES["int32"]}, "int32 is not quantised: float32, float16, bfloat16 are"),
    ({"redop": "max"}, "only sums and averages are quantised, and max is neither"),
    ({"count": 33}, "quantised are whole blocks of 32 elements")], ids=["type", "operation", "count"])
def test_what_is_not_quantised_is_one_sentence(name, changed, sentence):
    case = replace(Case(COLLECTIVES["all_reduce"], 64, DATATYPES["float32"], "sum", 0, 0), **changed)
    found = KNOWN[name].bind(cast(Any, None), case)
    assert found == Unsupported(sentence, of_size="count" in changed)


def test_it_is_measured_where_it_is_named_or_asked_for():
    assert not {one.name for one in asked_for(KNOWN, None)} & set(NAMES)
    assert {one.name for one in asked_for(KNOWN, None, lossy=True)} == set(KNOWN)
    assert [one.name for one in asked_for(KNOWN, ["two_shot_fp8+64K"])] == ["two_shot_fp8+64K"]
    for lossy in (False, True):
        tried = {name.partition("+")[0] for name in tune.candidates(1 << 20, False, lossy)}
        assert tried >= set(NAMES) if lossy else not tried & set(NAMES)


def run(folder, *options):
    done = mpirun(2, "-m", "bench.allreduce", "--out", str(folder), "--lean", "-n", "12", *options)
    assert (done.returncode, done.stderr) == (0, "")
    (path,) = folder.glob("*.jsonl")
    return done.stdout, read(path)


def test_its_ratio_stands_beside_its_time(tmp_path):
    printed, result = run(tmp_path, "--sizes", "16K,16388", "--lossy", "30")
    cases = [case for case in result.cases if case.algorithm in NAMES]
    assert {(case.algorithm, case.mode, case.size_bytes) for case in cases} == {
        (name, mode, 16384) for name in NAMES for mode in ("isolated", "chained")}
    for case in cases:
        assert (case.status, case.n_wrong) == ("ok", 0)
        assert case.snr_db
        assert list(case.snr_db) == ["normal", "heavy-tailed", "outlier channels"]
        assert case.snr_db["normal"] > LEAST_DB[case.algorithm]
        assert all(0 < ratio < 60 for ratio in case.snr_db.values())
        ratios = [f"{ratio:.1f}" for ratio in case.snr_db.values()]
        assert any(line.split()[2] == case.algorithm and line.split()[-3:] == ratios for line in printed.splitlines()
                   if line.startswith("  16 KiB two_shot_"))
        assert " ".join(ratios) in render(result, long=True)
    assert max(map(len, printed.splitlines()[:-2])) <= 80
    assert not any(case.chosen in NAMES for case in result.cases), "no table of bench.tune names it"


@pytest.mark.parametrize("given", ["0", "-3", "much", "nan", "1000"])
def test_a_ratio_that_is_none_is_refused_once(given):
    for command in ("allreduce", "tune"):
        done = mpirun(2, "-m", f"bench.{command}", f"--lossy={given}")
        sentence = f"argument --lossy: {given!r} is not a number of dB above 0, and at most 200"
        assert (done.returncode, done.stdout, done.stderr) == (2, "", f"bench.{command}: {sentence}\n")


# -- auto

@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A table of this machine that has two_shot_int8 as the fastest in each state."""
    folder = tmp_path_factory.mktemp("here")
    _, result = run(folder, "--sizes", "16K", "--algorithm", "ring", "--mode", "isolated")
    found = [vars(Pick("all_reduce", 2, 16384, "copied", rtt_ns, name))
             for rtt_ns in (1.0, 300.0, 1e6) for name in ("ring", "two_shot_int8+64K")]
    path = folder / "table.json"
    path.write_text(json.dumps({"machine_id": result.run.machine_id, "software_id": result.run.software_id,
                                "run_id": "2026-tune", "picks": found}))
    return path


@pytest.mark.parametrize(("asked", "chosen"), [
    ([], "ring"), (["--lossy", "30"], "two_shot_int8+64K"), (["--lossy", "60"], "ring"),
    (["--lossy", "30", "-o", "max"], "ring")], ids=["not asked for", "good enough", "too lossy", "not quantised"])
def test_auto_loses_only_what_it_is_allowed_to(tmp_path, table, asked, chosen):
    """Nobody should find out by a wrong answer that sums were quantised."""
    _, result = run(tmp_path, "--sizes", "16K", "--algorithm", "auto", "--tuned", str(table), *asked)
    copied = [case for case in result.cases if case.variant == "copied"]
    assert [(case.chosen, case.status, case.n_wrong, case.snr_db is not None) for case in copied] == [
        (chosen, "ok", 0, "int8" in chosen)] * 2
    assert {block.chosen for block in result.blocks if block.case in [case.case for case in copied]} == {chosen}


def test_what_is_lossy_displaces_nothing_that_is_not(tmp_path):
    machine = cast(Any, SimpleNamespace(machine_id="m", software_id="s"))

    def add(lossy, *names):
        found = [Pick("all_reduce", 2, 1024, "copied", 100.0, name) for name in names]
        picks.add(tmp_path / "table.json", machine, "run", found, lossy)
        return [pick.algorithm for pick in picks.load(tmp_path / "table.json", machine).picks]

    assert add(True, "ring", "two_shot_int8") == ["ring", "two_shot_int8"]
    assert add(False, "two_shot") == ["two_shot", "two_shot_int8"]
    assert add(True, "two_shot") == ["two_shot"], "nothing lossy was faster any more"


@pytest.mark.parametrize(("lossy_us", "named"), [(4.0, ["ring", "two_shot"]), (6.0, ["two_shot"])])
def test_it_is_kept_beside_the_best_where_it_is_faster(tmp_path, lossy_us, named):
    result = write_run(tmp_path, sizes=[16384], algorithms=["ring", "two_shot"], modes=["isolated"])
    cases = {case.algorithm: case for case in result.cases}
    cases["ring"].snr_db = {"normal": 40.0}
    result.blocks = [Block(case=cases[name].case, block=turn, round=turn, n=3, time_us=cost, link_rtt_ns=(100.0, 100.0))
                     for turn in range(12) for name, cost in (("ring", lossy_us), ("two_shot", 5.0))]
    assert sorted(w.name for w in winners(result)) == named


def test_too_lossy_candidates_are_not_searched(monkeypatch):
    planned = [Planned(collective="all_reduce", size_bytes=1, count=1, datatype="float32", redop="sum", algorithm=name,
                       snr_db=snr) for name, snr in (("ring", None), ("a", {"x": 40.0, "y": 31.0}), ("b", {"x": 29.0}))]
    subjects = {0: "ring", 1: "a", 2: "b"}
    monkeypatch.setattr(tune, "prepare_collective", lambda *_: (planned, subjects, {}))
    world = SimpleNamespace(device=SimpleNamespace(name="cpu"),
                            communicator=SimpleNamespace(together=lambda *_: nullcontext()))
    bench = SimpleNamespace(world=world)
    tune.prepare(cast(Any, SimpleNamespace(sizes=[1024], lossy=30.0, table="a.json")), cast(Any, bench))
    assert list(subjects) == [0, 1]
    assert (planned[2].status, planned[2].reason) == ("unsupported", "29.0 dB on its worst data, below --lossy 30")
