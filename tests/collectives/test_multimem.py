"""All-reduces over a multicast address, on the software GPU: a driver with multicast, and every way
to fail."""

import re
from itertools import product

import pytest

from bench.tune import candidates
from collectives.allreduce_multimem import COMBINED, ENTRIES
from collectives.collective import DATATYPES, REDOPS
from kernels.devices.compile_cache import SOURCES, CompileError
from reports.store.result import read
from tests import fake_gpu
from tests.kernels.broken_kernels import tree
from tests.kernels.compile_matrix import OLDEST_CUDA12, code
from tests.kernels.gpu_builds import compiled
from tests.kernels.kernel_code import kernels_in
from tests.launch import ROOT, few, mpirun

STEM = "allreduce_multimem"


def output(**faults):
    """What two ranks print, each line once."""
    environment = fake_gpu.environment(**{"multicast": 1, "count": 2, **faults})
    done = mpirun(2, "-m", "tests.ranks.multimem_ranks", timeout_s=200, **environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return set(re.findall(r"(?:offered|refused: .*?\.)(?=refused|\n)", done.stdout))


def examples(ranks, number, folder=ROOT):
    """Draws sums with tails, shifts and launches in a row."""
    environment = fake_gpu.environment(multicast=1, count=ranks)
    program = "-m", "tests.ranks.collective_ranks", str(number), str(ranks), "cuda", "auto"
    return mpirun(ranks, *program, *ENTRIES, timeout_s=200, tree=folder, **environment)


@pytest.mark.parametrize("ranks", few([3, 2, 4], 2))
def test_sums_are_right_with_tails_shifts_and_launches_in_a_row_on_a_fake_gpu(ranks):
    done = examples(ranks, 240)
    assert done.returncode == 0, done.stderr[-2000:]
    performed = re.search(rf"examples right on {ranks} ranks, (\d+) performed", done.stdout)
    assert performed
    assert int(performed[1]) > 10


def test_what_can_be_combined_is_offered_on_a_fake_gpu():
    assert output() == {"offered"}


STEPS = (
    "cuMulticastBindMem:rank1",
    "cuMemExportToShareableHandle",
    "cuMulticastAddDevice:rank1",
    "cuMulticastCreate",
    "cuMemImportFromShareableHandle:rank1",
    "cuMemCreate:rank0",
    "cuMemMap:rank1",
    "cuMemSetAccess",
    "cuMemAddressReserve:rank0",
    "cuMulticastGetGranularity:rank1",
    "cuDeviceGetAttribute",
)


@pytest.mark.parametrize(
    ("faults", "sentence"),
    [
        *(
            ({"fail": step}, rf"rank \d: on GPU \S+, {step.partition(':')[0]} fails: error 999")
            for step in few(STEPS, 2)
        ),
        (
            {"multicast": 0},
            "the driver offers no multicast: this GPU is on no NVSwitch that can sum",
        ),
        (
            {"multicast": 2},
            "a probe of multimem failed: one_shot_multimem gave 4003 wrong sums of 4003",
        ),
        ({"count": 1}, "ranks share a GPU, and a multicast address takes each GPU once"),
        ({"vendor": "hip"}, "the hip device has no multicast; NVIDIA GPUs on an NVSwitch have it"),
    ],
    ids=str,
)
def test_a_driver_that_refuses_a_step_leaves_the_reason_on_a_fake_gpu(faults, sentence):
    (line,) = output(**faults)
    assert re.fullmatch(rf"refused: {sentence}\.", line), line


@pytest.mark.parametrize(
    ("room", "line"),
    [
        (0, r"rank 1: .*Too many open files"),
        (1, "rank 1: no descriptor of the multicast object arrived from rank 0"),
        (2, "the same file"),
    ],
)
def test_the_descriptor_arrives_or_all_ranks_get_the_reason(room, line):
    done = mpirun(2, "-m", "tests.ranks.hand_over_ranks", str(room), timeout_s=60)
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.fullmatch(rf"({line}\n){{2}}", done.stdout), done.stdout


def test_a_run_times_and_checks_both_with_a_bound_on_a_fake_gpu(tmp_path):
    options = "-b 4K -e 4K -n 2 -w 0 --max-time 120 --lean --device cuda --mode isolated"
    options += f" --algorithm {','.join(ENTRIES)} --out {tmp_path}"
    command = "-m", "bench.allreduce", *options.split()
    done = mpirun(2, *command, **fake_gpu.environment(multicast=1))
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("*.jsonl")
    cases = read(path).cases
    assert [
        (case.algorithm, case.status, case.n_wrong, case.bound_us is not None) for case in cases
    ] == [(entry, "ok", 0, True) for entry in ENTRIES]


def test_without_the_wait_sums_are_wrong_or_refused_on_a_fake_gpu(tmp_path):
    done = examples(2, 60, tree(tmp_path, "without the wait"))
    assert done.returncode or ", 0 performed" in done.stdout, done.stdout


MIXED = [("float32", "sum"), ("bfloat16", "sum"), ("float64", "sum"), ("float32", "min")]


@pytest.mark.parametrize(
    ("name", "redop"), few(dict.fromkeys([*MIXED, *product(DATATYPES, REDOPS)]), len(MIXED))
)
def test_what_has_an_instruction_is_offered_and_nothing_else(name, redop):
    macros = (("ELEMENT", DATATYPES[name].element), ("REDOP", redop.capitalize()))
    text = compiled(STEM, "sm_90", macros).text
    assert ("multimem.ld_reduce" in text) == (redop in COMBINED.get(name, ())), (name, redop)


def test_a_single_16_bit_element_is_shifted_out_of_the_word_that_the_switch_sums():
    """The software GPU has no such instruction, and sums element by element."""
    text = compiled(STEM, "sm_90", (("ELEMENT", "Bfloat16"), ("REDOP", "Sum"))).text
    entry = text[text.index(f".entry {ENTRIES[0]}") : text.index(f".entry {ENTRIES[1]}")]
    words = re.findall(r"multimem.ld_reduce[\w.:]*\.bf16x2 (%r\d+),", entry)
    shifted = {word: re.findall(rf"shr.u32\s+(%r\d+), {word}, %r\d+;", entry) for word in words}
    assert words
    assert all(
        len(places) == 1 and re.search(rf"st\S*\.u16\s+\[%rd\d+\], {places[0]};", entry)
        for places in shifted.values()
    ), shifted


def test_older_compilers_and_gpus_leave_multimem_out():
    assert "multimem" not in re.sub(r"\w*_multimem\w*", "", compiled(STEM, "sm_80").text)
    try:
        text = code(OLDEST_CUDA12, SOURCES / f"{STEM}.cu", "sm_90")
    except CompileError as error:
        pytest.skip(str(error))
    assert "multimem" not in re.sub(r"\w*_multimem\w*", "", text)


MARKS = r"fence\.proxy\.alias|bar\.sync|st\.release\.sys|ld_reduce|multimem\.st|\.global\.v4"


def unfenced(lines):
    """Whether a signal is not preceded by a fence between aliases and a barrier, in this order."""
    marks = " ".join(re.findall(MARKS, "\n".join(lines)))
    fenced = marks.count("bar.sync fence.proxy.alias bar.sync st.release.sys")
    return not fenced or fenced != marks.count("st.release.sys")


@pytest.mark.parametrize("architecture", ["sm_90", "sm_120"])
def test_a_fence_between_aliases_precedes_every_signal(architecture):
    kernels = kernels_in(compiled(STEM, architecture).text, architecture)
    assert set(kernels) == set(ENTRIES)
    assert not [name for name, lines in kernels.items() if unfenced(lines)]
    without = [[line for line in lines if "proxy.alias" not in line] for lines in kernels.values()]
    assert all(map(unfenced, without))


def test_tune_tries_them_on_gpus_alone():
    for size, far_peers, tried in (
        (4096, True, set(ENTRIES)),
        (8 << 20, True, {ENTRIES[1]}),
        (4096, False, set()),
    ):
        assert {name for name in candidates(size, far_peers) if "multimem" in name} == tried
