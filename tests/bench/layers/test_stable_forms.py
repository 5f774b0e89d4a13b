"""`--stable`: the form of a layer whose bits are the same at 1, 2, 4 and 8 ranks."""

import re
from types import SimpleNamespace
from typing import Any, cast

import pytest

from collectives.layers.fused_forms import FUSED
from collectives.layers.stable import gemv_stable
from collectives.operation import Unsupported
from tests.bench.launches import launch
from wiretax.record.case import FUSED_STABLE

# A stable form that leaves the result as it was, where all others are right.
WRONG = """from bench.layers.layers_command import main
from dataclasses import replace
from bench.harness.iteration import nothing
from collectives.layers.fused_forms import FUSED
from wiretax.record.case import FUSED_STABLE
from collectives.operation import Operation
forms = FUSED["gemv_allreduce"]
wrong = replace(forms[FUSED_STABLE], perform=lambda world, case: Operation(nothing(world)))
forms[FUSED_STABLE] = wrong
main("gemv_allreduce")
"""


def test_a_stable_form_with_wrong_results_is_told_and_has_no_price(tmp_path):
    options = "--model llama-3.1-8b --scale 1/1024 -n 3 --max-time 100 --stable"
    done = launch(tmp_path, options, program=WRONG, ranks=1)
    assert done.returncode == 1, done.stderr
    assert re.search(r"WRONG RESULTS in \S+ of \S+ cases, the\s+worst:\s+fused_stable", done.stdout)
    assert re.search(r"^fused +\d", done.stdout, re.MULTILINE)
    assert "stable beside" not in done.stdout


@pytest.mark.unit
@pytest.mark.parametrize("ranks", [3, 5, 6, 7, 16])
def test_other_numbers_of_ranks_have_no_stable_form(ranks):
    world: Any = SimpleNamespace(node=None, ranks=ranks)
    bound = gemv_stable(world, cast(Any, None))
    assert isinstance(bound, Unsupported)
    assert bound.reason == (
        f"{ranks} ranks cannot share the 8 leaves of a sum: it takes 1, 2, 4 or 8"
    )


@pytest.mark.unit
@pytest.mark.parametrize("threads", [4, 48])
def test_blocks_without_whole_groups_of_threads_have_no_stable_form(threads):
    """On a GPU 32 threads have a tile."""
    device = SimpleNamespace(is_cpu=False, threads=threads)
    world: Any = SimpleNamespace(
        node=None,
        ranks=2,
        device=device,
    )
    bound = gemv_stable(world, cast(Any, None))
    assert isinstance(bound, Unsupported)
    assert f"a block of {threads} threads does not consist of groups of 32" in bound.reason


@pytest.mark.unit
def test_a_stable_form_is_timed_on_request_only():
    """It costs more than the form that a run without options shows."""
    from bench.layers.forms import USUAL

    assert FUSED_STABLE in FUSED["gemv_allreduce"]
    assert FUSED_STABLE not in USUAL
