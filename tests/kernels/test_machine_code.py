"""The bars of tests.kernels.machine_code on the all-reduces, and builds that must miss them."""

import re

import pytest

from kernels.devices.compile_cache import CompileError
from tests.kernels.broken_kernels import CUDA, HIP, PACKETS, Patch, copy_kernels
from tests.kernels.gpu_builds import compiled
from tests.kernels.machine_code import figures, misses, nvdisasm, sass_in

LL, SENTINEL, MULTIMEM = (
    "allreduce_one_shot_ll",
    "allreduce_one_shot_sentinel",
    "allreduce_multimem",
)


@pytest.fixture(autouse=True)
def disassembler(request):
    if request.node.callspec.params["architecture"].startswith("sm_"):
        try:
            nvdisasm()
        except CompileError as error:
            pytest.skip(str(error))


@pytest.mark.parametrize(
    "architecture", ["sm_80", "sm_90", "sm_120", "gfx942", "gfx1100", "gfx1201"]
)
@pytest.mark.parametrize(
    "stem", [LL, SENTINEL, "allreduce_one_shot", "allreduce_two_shot", MULTIMEM]
)
def test_every_kernel_meets_the_bars(stem, architecture):
    rows = figures(stem, architecture)
    assert rows
    assert [sentence for row in rows for sentence in misses(row)] == []


@pytest.mark.parametrize("architecture", ["sm_90", "sm_120"])
@pytest.mark.parametrize(
    ("element", "sum"), [("Float32", r"ADD\.F32x4"), ("Bfloat16", r"(F32|HP)ADD\.BF16x8")]
)
def test_a_switch_sums_16_bytes_at_once_in_fp32(element, sum, architecture):
    """LDGMC is the load of multimem; four of 16 bytes are in flight in the main loop."""
    for name, lines in sass_in(
        compiled(MULTIMEM, architecture, (("ELEMENT", element),)).binary
    ).items():
        loads = [
            i
            for i, line in enumerate(lines)
            if re.match(rf"LDGMC\.E\.{sum}\.RN\.STRONG\.SYS", line)
        ]
        assert len(loads) >= 5, name
        stores = [
            i for i, line in enumerate(lines) if re.match(r"STG?\.E\.128", line) and i > loads[0]
        ]
        assert len([i for i in loads if i < stores[0]]) == 4, name


HALVES = (
    "st.relaxed.sys.global.v2.u64 [%0], {%1,%2};",
    "st.relaxed.sys.global.u64 [%0], %1; st.relaxed.sys.global.u64 [%0+8], %2;",
)
AFTER_EACH = (
    "          load_packets_system(x[u][k], place(rank, u, k));",
    "{ load_packets_system(x[u][k], place(rank, u, k));"
    " if (WIRE::missing(x[u][k][0], epoch)) return false; }",
)
UNITS = (
    "epoch) + i * 2, x);",
    "epoch) + (i % step * ((units + step - 1) / step) + i / step) * 2, x);",
)
BROKEN = {
    "stores of 8 bytes": ("sm_90", CUDA, *HALVES, "stores of 8 bytes"),
    "a wait after each load in SASS": ("sm_90", PACKETS, *AFTER_EACH, "2 round trips"),
    "a wait after each load in assembly": ("gfx1201", PACKETS, *AFTER_EACH, "3 round trips"),
    "a lane's units side by side": ("sm_90", PACKETS, *UNITS, "bytes apart"),
    "an acquire": (
        "gfx1201",
        HIP,
        "k, __ATOMIC_RELAXED, __HIP",
        "k, __ATOMIC_ACQUIRE, __HIP",
        "round trips",
    ),
}


@pytest.mark.parametrize(
    ("architecture", "path", "old", "new", "sentence"), BROKEN.values(), ids=BROKEN
)
def test_a_broken_build_misses_a_bar(architecture, path, old, new, sentence, tmp_path):
    [row] = figures(LL, architecture, (), copy_kernels(tmp_path, [Patch(path, old, new)]))
    assert any(sentence in missed for missed in misses(row)), (row, misses(row))
