"""Bad command lines of the benchmarks: each ends with status 2 and one line from rank 0.

The real commands run in this process, as each of two ranks, up to the start of MPI.
tests/bench/test_cli.py launches a bad command line with mpirun.
"""

import os
import re
import runpy
import sys
from types import SimpleNamespace

import pytest

from bench.harness import session
from bench.sweep import sweep_options, sweep_parser

pytestmark = pytest.mark.unit
# A command line and, after the arrow, the sentence that refuses it.
BAD = r"""
allreduce -b 16Q -> '16Q' is not a size
allreduce -e 64G -> above the largest size
allreduce -b 1M -e 64K -> begin at 1048576 B, above their end at 65536 B
allreduce -b 1 -e 1K -> 1 B hold no float32
allreduce --sizes 16K, -> '' is not a size
allreduce --sizes 16K,6 -d double -> 6 B hold no float64, which has 8 B
allreduce -c 100000 -> '100000' is not a whole number from 0 to 1000
allreduce -T 1e12 -> seconds above 0, and at most 1000000
allreduce -f 1 -> '1' is not a whole number from 2 to 2147483648
allreduce -a 2 -> unrecognized arguments: -a 2
allreduce -F 1 -> unrecognized arguments: -F 1
allreduce -g many -> is not a whole number from 1 to 1024
allreduce --algorithm two_shott,library -> unknown algorithm 'two_shott': did you mean two_shot?
allreduce --algorithm one_shot -> did you mean one_shot_ll, one_shot_push, one_shot_pull, one_shot_
allreduce --algorithm two_shot+fast -> --algorithm two_shot+fast: 'fast' is not one of nt, ntr,
allreduce --algorithm two_shot+2K+4K -> '4K' sets chunk_bytes a second time
allreduce --algorithm library+nt -> --algorithm library+nt: library is not ours to build
allreduce -d fp8 -> unknown datatype 'fp8': did you mean fp8_e5m2 or fp8_e4m3?
allreduce -d flaot -> unknown datatype 'flaot': did you mean float?
allreduce -o summ -> unknown operation 'summ': did you mean sum?
allreduce --max-time soon -> 'soon' is not a number of seconds
allreduce --device gpu -> invalid choice: 'gpu'
allreduce --contender vlm -> unknown contender 'vlm': did you mean vllm?
allreduce --maxtime 5 -> unknown option --maxtime: did you mean --max-time?
allreduce --output=/tmp -> unknown option --output: did you mean --out?
bits --algo ring -> unknown option --algo: did you mean --algorithm?
allreduce --bogus -> unrecognized arguments: --bogus
allgather --stable -> unrecognized arguments: --stable
allgather -o sum -> unrecognized arguments: -o sum
allgather --algorithm two_shot -> unknown algorithm 'two_shot'
alltoall --in-place -> --in-place: an all-to-all has no in-place form
alltoall --arrival-skew 5s -> 5s is above the longest, 100ms
alltoall --arrival-skew nan -> 'nan' is not a time such as 5us, 90s, 10m or 2h
alltoall --arrival-skew 100.1ms -> 100.1ms is above the longest, 100ms
alltoall --arrival-skew 5us --mode both -> --arrival-skew and --cold are of single calls
allreduce --cold --mode chained -> --arrival-skew and --cold are of single calls
soak --soak 10 -> argument --soak: '10' is not a time such as 5us, 90s, 10m or 2h
soak --collective alltoall -o all -> -o: alltoall reduces nothing
soak --in-place -> unrecognized arguments: --in-place
soak --algorithm rong -> unknown algorithm 'rong': did you mean ring?
soak -e 0 -> the sizes begin at 1 B, above their end at 0 B
soak -b 8 -e 4 -> the sizes begin at 8 B, above their end at 4 B
link -b 2 -> 2 B hold no float32, which has 4 B
doctor --list -> unrecognized arguments: --list
alltoall --experts 0 -> '0' is not a whole number from 1 to
alltoall --experts 4 --top-k 5 -> --top-k 5 is more than the 4 experts
alltoall --experts 4 --skew warm:1 -> 'warm:1' is not a skew such as uniform or zipf:1.2
alltoall --experts 4 --skew file: -> 'file:' is not a skew such as uniform or zipf:1.2, nor a file
alltoall --experts 4 --skew file:a.csv --tokens 9 -> a file of routes has tokens and experts per
alltoall --experts 4 -d int32 -> with --experts -d takes one of float, half, bfloat16 and double
alltoall --experts 4 -d f8e4m3 -> with --experts -d takes one of float, half, bfloat16 and double
alltoall --experts 4 -d half,float -> with --experts -d takes one of float, half, bfloat16 and
alltoall --experts 4 --sizes 1M -> with --experts the size is --tokens times --hidden
alltoall --experts 4 -e 1M -> with --experts the size is --tokens times --hidden
alltoall --tokens 64 -> --tokens is for a routed all-to-all: add --experts N
alltoall --top-k 2 -> --top-k is for a routed all-to-all: add --experts N
bits -d int32 -> int32 adds exactly in any order: no bits can differ
bits -d f8e4m3 -> unknown datatype 'float8_e4m3'
bits -e 1G -> above the 64M that are compared
bits --collective all_gather -> invalid choice: 'all_gather'
bits --algorithm twoshot -> did you mean two_shot
decode --model llama-3.1-71b -> --model: unknown model 'llama-3.1-71b': did you mean llama-3.1-70b?
prefill -d int32 -> unknown datatype 'int32': choose from float32
gemm_reduce_scatter -d double -> unknown datatype 'double': choose from float32, float16, bfloat16
decode --max-time 0 -> '0' is not a number of seconds above 0
prefill --tokens 0 -> '0' is not a whole number from 1 to
prefill --tokens 4097 -> '4097' is not a whole number from 1 to 4096
allreduce_rmsnorm --algorithm fussed -> unknown algorithm 'fussed': did you mean fused?
allreduce_rmsnorm --algorithm fused,one -> unknown algorithm 'one'
allreduce_rmsnorm --hidden 1048577 -> '1048577' is not a whole number from 1 to 1048576
gemv_allreduce --tokens 1,9 -> '9' is not a whole number from 1 to 8
gemv_allreduce --weights int4 -> unknown type of weights 'int4': did you mean int8?
gemv_allreduce --weights float -> unknown type of weights 'float': did you mean float16?
gemm_reduce_scatter --tokens 65537 -> '65537' is not a whole number from 1 to 65536
allgather_gemm --tokens 256,100 -> 100 is not a multiple of 16: of 8 chunks times the ranks
prefill --scale 0 -> '0' is not a fraction such as 1/64, above 0 and at most 1
decode --scale 2 -> '2' is not a fraction such as 1/64, above 0 and at most 1
decode --scale 1/0 -> '1/0' is not a fraction
prefill --stable -> --stable: the vendor's matmul adds in an order of its own, which nobody can fix
gemm_reduce_scatter --stable --footprint -> --stable: the vendor's matmul adds in an order of its
decode --slots 1,9 -> '9' is not a whole number from 1 to 8
"""
BAD_LINES = [row.split(" -> ") for row in BAD.strip().splitlines()]


@pytest.fixture
def refusal(monkeypatch, capfd, tmp_path):
    """A function that starts a command as each of two ranks, and returns the line that rank 0
    prints. The command must end with status 2 and write no file."""

    def start(*_):
        raise AssertionError("the command accepts these options")

    def output_of(rank, command):
        monkeypatch.setenv("PMI_RANK", str(rank))
        with pytest.raises(SystemExit, match="2"):
            runpy.run_module(f"bench.{command}", run_name="__main__")
        return capfd.readouterr()

    def message(line, ranks=2):
        command, *options = line.split()
        monkeypatch.setenv("PMI_SIZE", str(ranks))
        monkeypatch.setattr(sys, "argv", [f"bench.{command}", *options])
        first, *others = (output_of(rank, command) for rank in range(ranks))
        assert first.out == ""
        assert re.fullmatch(rf"bench\.{command}: [^\n]+\n", first.err), first.err
        assert all(other == ("", "") for other in others)
        assert not list(tmp_path.iterdir())
        return first.err

    launcher = SimpleNamespace(  # above these ranks, which share its output
        pid=os.getpid(), name=lambda: "hydra_pmi_proxy", cmdline=list
    )
    monkeypatch.setattr("psutil.Process.parents", lambda _: [launcher])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(session, "start", start)
    monkeypatch.setattr(os, "_exit", sys.exit)
    monkeypatch.setenv("NO_COLOR", "1")  # a rank sets it for its process
    return message


@pytest.mark.parametrize(("line", "sentence"), BAD_LINES)
def test_a_bad_command_line_is_refused_in_one_line(refusal, line, sentence):
    """A typing error must give neither a traceback from each rank nor a run with unintended
    options."""
    assert sentence in refusal(line)


def test_a_name_on_the_command_line_does_not_control_the_terminal(refusal):
    sentence = refusal("allreduce --algorithm \x1b[31mring")
    assert "\x1b" not in sentence
    assert "?[31mring" in sentence or "\\x1b[31mring" in sentence


@pytest.mark.parametrize("command", ["allreduce", "sendrecv"])
def test_one_rank_waits_for_nobody(refusal, command):
    assert refusal(f"{command} --arrival-skew 0,5us", ranks=1) == (
        f"bench.{command}: argument --arrival-skew: one rank waits for nobody\n"
    )


def test_g_t_and_m_of_nccl_tests_are_accepted_with_a_sentence(monkeypatch, capfd):
    """The commonest line of nccl-tests was refused, where docs/measure.md promises otherwise."""
    monkeypatch.setenv("PMI_SIZE", "2")
    monkeypatch.setenv("PMI_RANK", "0")
    parser = sweep_parser("allreduce", "all_reduce", "about")
    line = ["-b", "8", "-e", "128M", "-f", "2", "-g", "8", "-t", "2", "-m", "5"]
    sweep_options(parser, parser.parse_args(line))
    said = capfd.readouterr().err
    assert "-g 8 has no effect: a rank is one process" in said
    assert "-t 2 has no effect" in said
    assert "-m 5 has no effect: --mode chained times calls in a row" in said
