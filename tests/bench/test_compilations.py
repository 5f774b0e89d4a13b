"""What a first run compiles: no code twice, and in no time that --max-time counts."""

import re
from collections import Counter
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from tests import fake_gpu
from tests.fake_gpu import fake_nccl
from tests.launch import few, mpirun
from wiretax.record.result import read

# One size below and one from where a CPU walks several pages at once.
SIZES = "-b", "16K", "-e", "8M", "-f", "512"
GPUS: dict[str, dict[str, object]] = {
    # The default memory holds stores back until its register is written, which gives a build its
    # flush.
    "hip": {"vendor": "hip", "cached": 3, "coherent": "hdp", "hdp": 1},
    "cuda": {"vendor": "cuda"},
    "cpu": {},
}


# Nothing is measured: each case is bound, and so compiled.
BIND_ALONE = """
import runpy
import bench.harness.run
bench.harness.run.measure_all = lambda run, policy: None
runpy.run_module("bench.allreduce", run_name="__main__")
"""


def run(
    folder: Path, device: str, program: tuple[str, str], *options: str, **more: str
) -> CompletedProcess[str]:
    """A default run, or one with these options; its results and its compile cache are in
    `folder`."""
    variables: dict[str, Any] = fake_gpu.environment(**GPUS[device]) if GPUS[device] else {}
    variables |= {"XDG_CACHE_HOME": str(folder / "cache"), **more}
    command = "--device", device, "--out", str(folder / "results"), *SIZES, "--tuned", "none"
    return mpirun(2, *program, *command, *options, **variables)


@pytest.mark.parametrize("device", few(GPUS, 3))
def test_a_first_run_compiles_no_code_twice(device, tmp_path):
    """A binary's name ends with its digest: two of the same code have the same."""
    done = run(tmp_path, device, ("-c", BIND_ALONE), "--max-time", "120")
    assert "time ran out before a case was measured" in done.stderr, done.stderr
    names = [path.name for path in (tmp_path / "cache/wiretax").iterdir()]
    stems = {name.partition("-")[0] for name in names}
    assert {"iteration", "link_probe", "allreduce_one_shot", "allreduce_two_shot"} <= stems
    digests = Counter(name.rsplit("-", 1)[1] for name in names)
    assert [name for name in names if digests[name.rsplit("-", 1)[1]] > 1] == []


COMMAND = "-m", "bench.allreduce"
SLOW_S = 12


def test_a_compilers_time_is_not_counted_and_said(tmp_path):
    """The compiler takes longer for one file than --max-time; the others are in the cache."""
    compiler = tmp_path / "slow-c++"
    compiler.write_text(
        f'#!/bin/sh\ncase "$*" in *allreduce_ring*) sleep {SLOW_S} ;; esac\nexec c++ "$@"\n'
    )
    compiler.chmod(0o755)
    options = "-e", "16K", "--mode", "isolated", "-n", "1", "--algorithm"
    variables = {"CXX": str(compiler), "WIRETAX_QUIET": ""}
    before = run(tmp_path, "cpu", COMMAND, *options, "two_shot", **variables)
    assert before.returncode == 0, before.stderr
    done = run(
        tmp_path, "cpu", COMMAND, *options, "ring", "--max-time", str(SLOW_S - 1), **variables
    )
    assert done.returncode == 0, done.stderr
    said = r"compiled: compilers took \d+ s; --max-time leaves out 11\n"  # as long at most
    assert re.search(said, done.stderr), done.stderr
    last = read(max((tmp_path / "results").glob("*.jsonl")))
    assert last.end
    assert last.end.status == "complete"
    assert last.end.elapsed_s
    assert last.end.elapsed_s > last.end.compile_s >= SLOW_S
    assert [case.status for case in last.cases if case.algorithm == "ring"] == ["ok"]


MEETING = """#!/bin/sh
case "$*" in *allreduce_*-shared*|*-shared*allreduce_*)
  touch "{room}/$$"
  for look in $(seq 50); do
    [ "$(ls "{room}" | wc -l)" -gt 1 ] && touch "{met}" && break
    [ -e "{met}" ] && break
    sleep 0.1
  done
  c++ "$@"; status=$?
  rm "{room}/$$"
  exit $status ;;
esac
exec c++ "$@"
"""


def test_ranks_of_one_core_each_compile_side_by_side(tmp_path):
    """A compiler of a collective waits a while for a second one beside it."""
    compiler, room, met = (tmp_path / name for name in ("meeting-c++", "room", "met"))
    room.mkdir()
    compiler.write_text(MEETING.format(room=room, met=met))
    compiler.chmod(0o755)
    done = run(tmp_path, "cpu", ("-c", BIND_ALONE), "--max-time", "120", CXX=str(compiler))
    assert "time ran out before a case was measured" in done.stderr, done.stderr
    assert met.exists()
    names = [path.name for path in (tmp_path / "cache/wiretax").iterdir()]
    assert len({name.rpartition("-")[0] for name in names}) == len(names)
    assert not [name for name in names if name.endswith((".lock", ".part"))]


# Rank 1's threads have no room for one file, while NCCL is tuned at the next size.
ONE_RANK_FAILS = """
import os
from kernels.devices.compile_cache import CompileError
from kernels.devices.gpu import GpuDevice
plain = GpuDevice.compile
def compile(self, stem, macros, wait=True):
    if stem == "allreduce_two_shot" and os.environ["PMI_RANK"] == "1":
        raise CompileError("no room is left")
    return plain(self, stem, macros, wait)
GpuDevice.compile = compile
import runpy
runpy.run_module("bench.allreduce", run_name="__main__")
"""


def test_a_file_that_one_rank_cannot_compile_ends_the_run_and_hangs_no_rank(tmp_path):
    options = (
        "--device cuda --sizes 4K,8K --mode isolated --algorithm library,two_shot -G 0 --quiet"
    )
    words = *options.split(), "--out", tmp_path
    done = mpirun(2, "-c", ONE_RANK_FAILS, *words, timeout_s=100, **fake_nccl.environment())
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.strip() == "bench.allreduce: rank 1: no room is left"
