"""`tuner --format vllm`, `sglang` and `flashinfer` on stored runs that time the library and an
engine's kernel."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from reports.__main__ import main
from reports.verdicts.engines import CASE, against_library
from tests.reports.synthetic_run import (
    mark_wrong,
    rewrite,
    rewrite_cases,
    rewrite_head,
    run_id,
    write_run,
)

pytestmark = pytest.mark.unit

SIZES = [16384, 65536, 1 << 20, 4 << 20]


def stored(folder, kernel="vllm", least=1 << 20, arch="sm_90", runs=10, sizes=SIZES, first=0):
    """Runs in which the kernel takes 0.7 of the library's time up to a size, and 1.3 above; the
    runs' files."""
    draw, paths = np.random.default_rng(3), []

    def us(case, _):
        share = 1.0 if case.algorithm == "library" else 0.7 if case.size_bytes <= least else 1.3
        return share * 10 * draw.normal(1, 0.01)

    def rename(line):
        for case in line.get("cases", [line] if line["kind"] == "case" else []):
            if case["algorithm"] == "one_shot_push":
                case["algorithm"] = kernel
        for rank in line.get("world", {}).get("ranks", []):
            rank["arch"] = arch

    for night in range(first, first + runs):
        fields = {"algorithms": ["library", "one_shot_push"], "modes": ["isolated"], "n": 2}
        run = write_run(
            folder, **fields, sizes=sizes, us=us, n_blocks=6, run_id=run_id(night), seed=night
        )
        paths.append(rewrite(run.path, rename))
    return paths


@pytest.fixture
def tuner(capsys):
    """Exit status, rows, the other lines, and standard error."""

    def ask(*words):
        status = main(["tuner", *map(str, words)])
        out, err = capsys.readouterr()
        lines = out.splitlines()
        rows = [line for line in lines if line[:1] not in ("#", "")]
        return status, rows, [line for line in lines if line not in rows], err

    return ask


@pytest.mark.parametrize(
    ("name", "kernel", "row"),
    [
        ("vllm", "vllm", 'CUSTOM_ALL_REDUCE_MAX_SIZES.setdefault("9.0", {})[2] = 1048592'),
        (
            "sglang",
            "torch_symmetric",
            "TORCH_SYMM_MEM_ALL_REDUCE_MAX_SIZES.setdefault(9, {})[2] = 1048592",
        ),
        ("flashinfer", "flashinfer", "FI_ALLREDUCE_FUSION_MAX_SIZE_MB.setdefault(90, {})[2] = 1.0"),
    ],
)
def test_the_row_has_the_form_that_the_engine_reads(tmp_path, tuner, name, kernel, row):
    stored(tmp_path, kernel)
    status, rows, others, err = tuner(tmp_path, "--format", name)
    assert (status, rows, err) == (0, [row], "")
    table = row.partition(".")[0]
    tables: dict[str, Any] = {table: {}}
    exec(row, tables)
    [of_ranks] = tables[table].values()
    # vLLM and SGLang take messages below the size, FlashInfer's limit is MiB up to which it runs.
    [limit] = of_ranks.values()
    assert {"vllm": limit - 16, "sglang": limit - 16, "flashinfer": limit * (1 << 20)}[name] == (
        1 << 20
    )
    assert "# 1 MiB: 0.70" in "\n".join(others)


def test_no_row_without_proof_at_the_smallest_size(tmp_path, tuner):
    """A limit says that all smaller messages go through the kernel."""
    stored(tmp_path / "slow", least=0)
    status, rows, _, err = tuner(tmp_path / "slow", "--format", "vllm")
    assert (status, rows) == (0, [])
    assert "no row: vllm is not proven faster at the smallest size" in err
    stored(tmp_path / "few", runs=5)
    _, rows, _, err = tuner(tmp_path / "few", "--format", "vllm")
    assert (rows, "so many cells take 9 runs" in err) == ([], True)


def test_runs_that_prove_nothing_are_refused(tmp_path, tuner):
    def refusal(folder, name="vllm"):
        status, rows, others, err = tuner(folder, "--format", name)
        assert (status, rows, others, err.count("\n")) == (2, [], [], 1)
        return err

    small = {"runs": 2, "sizes": SIZES[:1]}
    stored(tmp_path / "amd", arch="gfx1201", **small)
    assert "on GPUs of NVIDIA alone, and this is gfx1201" in refusal(tmp_path / "amd")
    stored(tmp_path / "ours", **small)
    assert "no run has an all-reduce of the library and of flashinfer" in refusal(
        tmp_path / "ours", name="flashinfer"
    )
    mark_wrong(stored(tmp_path / "wrong", **small)[0])
    assert "has wrong results" in refusal(tmp_path / "wrong")
    stored(tmp_path / "half", **small)
    for path in stored(tmp_path / "half", first=2, **small):
        path.write_bytes(path.read_bytes().rpartition(b'{"kind":"end"')[0])
    told = "no row, because "
    assert f"{told}h/half is incomplete in 2 of 4 launches" in refusal(tmp_path / "half").replace(
        f"{tmp_path.name}/", "h/"
    )
    for path in stored(tmp_path / "blind", **small):
        rewrite(path, lambda line: line.pop("n_wrong", None))
    assert "blind did not check its results in 2 of 2 launches" in refusal(tmp_path / "blind")
    [path] = stored(tmp_path / "copied", runs=1, sizes=SIZES[:1])
    copy = path.with_name(f"{run_id(5)}.jsonl")
    copy.write_bytes(path.read_bytes())
    rewrite_head(copy, run_id=copy.stem)
    assert "have the same times in each block: copies" in refusal(tmp_path / "copied")


def test_equal_kernels_rarely_get_a_row():
    """Many sizes are many chances: of campaigns of identical code at most 5 % may win at any."""
    draw, wins = np.random.default_rng(1), []
    cases = pd.MultiIndex.from_product([["library", "vllm"], range(24), range(12)])
    table = pd.DataFrame(index=cases).rename_axis(["algorithm", "size_bytes", "run_id"])
    table = table.reset_index().assign(**dict.fromkeys(CASE[1:], "x"), total_us_median=np.nan)
    for _ in range(80):
        table["time_us_median"] = draw.lognormal(0, 0.05, len(table))
        wins.append(against_library(table, "vllm").wins.any())
    assert np.mean(wins) <= 0.05


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"machine_id": "ffffff"}, "machine: a1b2c3 and ffffff"),
        ({"method": {"warmup": 5}}, "method: default and warmup 5"),
        ({"world__size": 4}, "ranks: 2 and 4"),
        ({"version": "0.0.9"}, "version: 0.1.0 and 0.0.9"),
    ],
)
def test_runs_that_differ_are_refused_with_what_differs(tmp_path, tuner, fields, told):
    rewrite_head(stored(tmp_path, runs=2, sizes=SIZES[:1])[1], **fields)
    status, rows, _, err = tuner(tmp_path, "--format", "vllm")
    assert (status, rows) == (4, [])
    assert err == f"reports: not comparable: the runs differ in {told}\n"


@pytest.mark.parametrize("kernel", ["library", "vllm"])
def test_runs_of_other_software_are_refused(tmp_path, tuner, kernel):
    """Half of them with another version made one row."""

    def change(case):
        if case["algorithm"] == kernel:
            case["library"] = "NCCL 2.20.0"

    for path in stored(tmp_path, runs=10, sizes=SIZES[:1])[5:]:
        rewrite_cases(path, change)
    status, rows, _, err = tuner(tmp_path, "--format", "vllm")
    assert (status, rows) == (4, [])
    before = {"library": "MPICH 5.0.2", "vllm": "unknown"}[kernel]
    assert err.endswith(f": the runs differ in {kernel}: {before} and NCCL 2.20.0\n")


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"pci_bus_id": "0000:06:00.0"}, "ranks share a card, and an engine has one for each rank"),
        ({"hosts": 2}, "the ranks are on 2 hosts: it is for one"),
    ],
)
def test_ranks_without_a_card_each_on_one_host_make_no_row(tmp_path, tuner, facts, told):
    """An engine would take the limit for ranks with a card each."""
    hosts = {key: facts[key] for key in ("hosts",) if key in facts}

    def change(line):
        if "world" in line:
            line["world"] |= hosts
            for rank in line["world"]["ranks"]:
                rank |= {} if hosts else facts

    for path in stored(tmp_path, sizes=SIZES[:1]):
        rewrite(path, change)
    status, rows, _, err = tuner(tmp_path, "--format", "vllm")
    assert (status, rows, err) == (2, [], f"reports: no row, because {told}\n")


@pytest.mark.parametrize(
    ("arch", "row"),
    [
        ("sm_90a", 'setdefault("9.0", {})[2] = 16400'),
        ("sm_100f", 'setdefault("10.0", {})[2] = 16400'),
        ("sm_x", "on GPUs of NVIDIA alone, and this is sm_x"),
        ("sm_9", "on GPUs of NVIDIA alone, and this is sm_9"),
    ],
)
def test_the_architecture_may_name_its_features(tmp_path, tuner, arch, row):
    """`sm_90a` was a traceback."""
    stored(tmp_path, arch=arch, sizes=SIZES[:1])
    status, rows, _, err = tuner(tmp_path, "--format", "vllm")
    assert row in "".join([*rows, err])
    assert (status, err.count("\n")) == ((0, 0) if rows else (2, 1))
