"""All-reduces over a multicast address, on the software GPU: a driver with multicast, and every way
to fail."""

import re
from itertools import product

import pytest

from collectives.algorithms.allreduce_multimem import COMBINED
from collectives.collective import DATATYPES, REDOPS
from tests import fake_gpu
from tests.bench.launches import launch, stored
from tests.bench.test_cli import assert_refused
from tests.kernels.gpu_builds import compiled
from tests.kernels.kernel_code import kernels_in
from tests.launch import ROOT, assert_right, few

STEM = "allreduce_multimem"
ENTRIES = "one_shot_multimem", "two_shot_multimem"


OPTIONS = "-b 4K -e 4K -n 2 -w 0 --max-time 90 --mode isolated --algorithm"


def started(folder, device="cuda", **faults):
    """The end of a run of two ranks on GPUs with multicast and these faults."""
    settings = fake_gpu.environment(**{"multicast": 1, **faults})
    return launch(folder, f"{OPTIONS} {','.join(ENTRIES)} --device {device}", **settings)


def performed(ranks, examples, folder=ROOT):
    """Draws sums with tails, shifts and launches in a row; the number that was performed."""
    how = fake_gpu.environment(multicast=1, count=ranks)
    return assert_right(
        ranks, "collective", examples, str(ranks), "cuda", "auto", *ENTRIES, tree=folder, **how
    )


@pytest.mark.parametrize("ranks", few([3, 2, 4], 1))
def test_sums_are_right_with_tails_shifts_and_launches_in_a_row_on_a_fake_gpu(ranks):
    assert performed(ranks, 240) > 10


STEPS = (
    "cuMulticastBindMem:rank1",
    "cuMemExportToShareableHandle",
    "cuMulticastCreate",
    "cuMemImportFromShareableHandle:rank1",
    "cuMemCreate:rank0",
    "cuMemMap:rank1",
)


@pytest.mark.parametrize(
    ("options", "faults", "sentence"),
    [
        *(
            (
                "cuda",
                {"fail": step},
                rf"rank \d: on GPU \S+, {step.partition(':')[0]} fails: error 999",
            )
            for step in few(STEPS, 1)
        ),
        (
            "cuda",
            {"multicast": 0},
            "the driver offers no multicast: this GPU is on no NVSwitch that can sum",
        ),
        (
            "cuda --ranks-share-gpus",
            {"count": 1},
            "ranks share a GPU, and a multicast address takes each GPU once",
        ),
        (
            "hip",
            {"vendor": "hip"},
            "the hip device has no multicast; NVIDIA GPUs on an NVSwitch have it",
        ),
    ],
    ids=str,
)
def test_a_driver_that_refuses_a_step_leaves_the_reason_on_a_fake_gpu(
    tmp_path, options, faults, sentence
):
    done = started(tmp_path, options, **faults)
    assert_refused(done, 3, f"no case can be measured: {sentence}; --list says", tmp_path)


def test_a_run_times_and_checks_both_with_a_bound_on_a_fake_gpu(tmp_path):
    assert started(tmp_path).returncode == 0
    measured = stored(tmp_path).cases
    assert [(case.algorithm, case.status, case.n_wrong) for case in measured] == [
        (entry, "ok", 0) for entry in ENTRIES
    ]
    assert all(case.bound_us for case in measured)


@pytest.mark.parametrize(
    ("name", "redop"),
    few(
        [("float32", "sum"), ("float64", "sum"), ("float32", "min"), *product(DATATYPES, REDOPS)], 3
    ),
)
def test_what_has_an_instruction_is_offered_and_nothing_else(name, redop):
    macros = (("WT_ELEMENT", DATATYPES[name].element), ("WT_REDOP", redop.capitalize()))
    text = compiled(STEM, "sm_90", macros).text
    assert ("multimem.ld_reduce" in text) == (redop in COMBINED.get(name, ())), (name, redop)


def test_a_single_16_bit_element_is_shifted_out_of_the_word_that_the_switch_sums():
    """The software GPU has no such instruction, and sums by words of its own."""
    text = compiled(STEM, "sm_90", (("WT_ELEMENT", "Bfloat16"), ("WT_REDOP", "Sum"))).text
    entry = text[text.index(f".entry {ENTRIES[0]}") : text.index(f".entry {ENTRIES[1]}")]
    words = re.findall(r"multimem.ld_reduce[\w.:]*\.bf16x2 (%r\d+),", entry)
    shifted = {word: re.findall(rf"shr.u32\s+(%r\d+), {word}, %r\d+;", entry) for word in words}
    assert words
    assert all(
        len(places) == 1 and re.search(rf"st\S*\.u16\s+\[%rd\d+\], {places[0]};", entry)
        for places in shifted.values()
    ), shifted


def test_older_gpus_leave_multimem_out():
    assert "multimem" not in re.sub(r"\w*_multimem\w*", "", compiled(STEM, "sm_80").text)


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
