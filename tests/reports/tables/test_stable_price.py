"""What stable bits cost in the text of a layer's run and of a step's, with known costs."""

import re

import pytest
from msgspec.structs import replace

from reports.tables.show import text
from tests.reports.synthetic_together import FUSED, MPI, STEP, THEN, Made, always
from wiretax.record.case import COMPUTE

pytestmark = pytest.mark.unit

STABLE, PUSH = "fused_stable", "fused_push"
TENSOR, TENSOR_MPI, TENSOR_STABLE = (
    "tensor_parallel",
    "tensor_parallel_library",
    "tensor_parallel_stable",
)
SENTENCE = "The same bits at 1, 2, 4 and 8 ranks cost"


def words(made, costs_us):
    printed = text(made.run({name: us if callable(us) else always(us) for name, us in costs_us}))
    assert max(map(len, printed.splitlines())) <= 80
    return " ".join(printed.split())


def layer(folder, *more, **settings):
    usual = (COMPUTE, 10.0), (THEN, 15.0), (MPI, 20.0)
    return words(Made(folder, **settings), [*usual, *more])


@pytest.fixture
def change(monkeypatch):
    """A function that gives the headers of a run's cases with this name other facts."""

    def change(made, name, **facts):
        planned = made.planned

        def changed(of):
            return replace(planned(of), **facts if of == name else {})

        monkeypatch.setattr(made, "planned", changed)

    return change


def test_the_price_is_the_difference_within_a_round(tmp_path):
    """The machine slows down from round to round by more than the price."""
    printed = layer(
        tmp_path,
        (FUSED, lambda turn: 10.0 * 2**turn),
        (STABLE, lambda turn: 12.5 * 2**turn),
    )
    assert "stable beside fused" in printed
    assert "25.0 [25.0 25.0]" in printed


def test_a_layer_has_a_price_in_us_and_percent_beside_fused_and_the_library(tmp_path):
    printed = layer(tmp_path, (FUSED, 11.0), (STABLE, 16.5))
    assert "price price us % stable beside fused 5.50 [5.50 5.50] 50.0 [50.0 50.0]" in printed
    assert "stable beside then MPICH 5.0.2 -3.50 [-3.50 -3.50] -17.5 [-17.5 -17.5]" in printed
    said = f"{SENTENCE} 5.50 [5.50 5.50] us a call beside fused, 50.0 % [50.0 50.0]."
    assert printed.endswith(said)


def test_the_price_is_beside_the_fastest_fused_form(tmp_path, change):
    """Not beside a slower one, nor beside a contender's, whose bits nobody promises."""
    made = Made(tmp_path)
    change(made, "fused_theirs", library="theirs 1.0")
    costs_us = {
        COMPUTE: 10.0,
        FUSED: 14.0,
        PUSH: 12.0,
        "fused_theirs": 11.0,
        STABLE: 18.0,
    }
    printed = words(made, costs_us.items())
    assert "stable beside fused_push 6.00 [6.00 6.00] 50.0 [50.0 50.0]" in printed
    assert printed.count("stable beside") == 1


def test_a_stable_form_with_wrong_results_has_no_price(tmp_path):
    printed = layer(tmp_path, (FUSED, 11.0), (STABLE, 16.5), wrong={STABLE: 3})
    assert "WRONG RESULTS in 1 of 5 cases, the worst: fused_stable 32 KiB" in printed
    assert "price" not in printed
    assert SENTENCE not in printed


def test_a_price_without_an_interval_makes_no_sentence(tmp_path):
    printed = layer(tmp_path, (FUSED, 11.0), (STABLE, 16.5), rounds=3)
    assert "stable beside fused 5.50" in printed
    assert SENTENCE not in printed


def test_a_run_without_a_stable_form_has_no_price(tmp_path):
    printed = layer(tmp_path, (FUSED, 11.0))
    assert "price" not in printed
    assert SENTENCE not in printed


def test_costs_that_scatter_widely_make_no_price(tmp_path):
    printed = layer(tmp_path, (FUSED, lambda turn: 9.0 * 9 ** (turn % 2)), (STABLE, 16.5))
    assert "stable beside fused" not in printed


def test_on_one_card_a_price_compares_no_two_kinds_of_memory(tmp_path):
    """The library stays within the card's memory while ours goes through the host."""
    costs_us = {
        COMPUTE: 10.0,
        FUSED: 11.0,
        MPI: 20.0,
        STABLE: 16.5,
    }
    result = Made(tmp_path).run({name: always(us) for name, us in costs_us.items()})
    for case in result.cases:
        case.memory = "private" if case.library else "host_staged"
    for rank in result.run.world["ranks"]:
        rank["pci_bus_id"] = "0000:00:06.0"
    assert re.findall(r"stable beside (\w+)", text(result)) == ["fused"]


def test_a_step_has_a_price_for_itself_and_for_each_call(tmp_path):
    """64 all-reduces: 0.8 ms of 10 ms are 12.5 us each."""
    costs_ms = {
        COMPUTE: 9.0,
        TENSOR: 10.0,
        TENSOR_STABLE: 10.8,
        TENSOR_MPI: 12.0,
        "pipeline_parallel": 20.0,
    }
    made = Made(
        tmp_path,
        benchmark="decode",
        shape=STEP,
        chosen={TENSOR_STABLE: "gemv_allreduce_stable"},
    )
    printed = words(made, [(name, 1e3 * ms) for name, ms in costs_ms.items()])
    assert "tensor_parallel_stable, gemv_allreduce_stable 10800 1800 [1800 1800]" in printed
    assert "stable beside tensor_parallel 800 [800 800] 8.0 [8.0 8.0]" in printed
    assert "stable beside tensor_parallel MPICH 5.0.2 -1200 [-1200 -1200] -10.0" in printed
    assert printed.endswith(
        f"{SENTENCE} 800 [800 800] us a step beside tensor_parallel, 8.0 % [8.0 8.0]: "
        "12.5 us for each of 64 calls."
    )
    assert "2 slots: TP is faster, PP/TP 2.00" in printed  # the usual splits' verdict


def test_a_stable_form_that_cannot_run_is_listed_in_one_sentence(tmp_path, change):
    made = Made(tmp_path)
    reason = "3 ranks cannot share 8 leaves"
    change(made, STABLE, status="unsupported", reason=reason)
    printed = words(made, [(COMPUTE, 10.0), (FUSED, 11.0), (STABLE, lambda turn: None)])
    assert f"- unsupported: fused_stable: {reason}" in printed
    assert "price" not in printed
