"""What an engineer reads of a bill: the finding first, and what was left out is said."""

import pytest

from reports.breakdown.breakdown_page import bill_text
from reports.breakdown.text import bill_fields, call_rows, finding, ms_text, names_of
from tests.reports.breakdown.bills import (
    STEP_MS,
    call_bill,
    many_kinds,
    step_parts,
    two_cards,
    without_calls,
)

pytestmark = pytest.mark.unit


def test_the_first_line_names_the_part_the_rank_and_the_time():
    said = "24 % of a step of 15.0 ms is waiting: rank 1 comes last in 98 % of calls, by 45.5 us"
    assert finding(two_cards()) == said
    shown = " ".join(bill_text(two_cards(tokens=1)).split())
    assert shown.startswith(
        f"{said} 2 of 2 ranks, R9700; 12 steps of 1 token; calls of NCCL or RCCL"
    )


def test_the_late_rank_has_its_own_number_and_the_weight_of_its_calls():
    """Traces of ranks 6 and 7: places in a list would accuse rank 0 or 1."""
    rare = call_bill(
        n_calls=10,
        last_share=[1.0, 0.0],
        late_ranks=[7],
    )
    assert "rank 7 comes last in 97 % of calls" in finding(
        two_cards(ranks=[6, 7], calls=[rare, call_bill(late_ranks=[7])])
    )


def test_the_first_line_agrees_with_the_verdict():
    """Of two ranks the late one does not wait: the mean over both is below transport."""
    parts = step_parts(
        compute=10.0,
        transport=3.0,
        waiting=2.0,
    )
    assert "is waiting: rank 1 comes last in 98 % of calls" in finding(two_cards(parts=parts))
    calls = [call_bill(verdict="transfer")]
    assert "is transport: " in finding(two_cards(parts=parts, calls=calls))


def test_ranks_that_are_late_by_turns_are_not_blamed_in_the_first_line():
    call = call_bill(last_share=[0.45, 0.55], late_ranks=[])
    assert finding(two_cards(calls=[call])).endswith("no single rank holds the others up")


def test_idle_time_of_a_late_rank_is_its_own():
    parts = step_parts(compute=9, waiting=3)
    parts.us["idle"][1] = 12e3
    said = "idle: the device of rank 1 has nothing to run, and the others wait for it"
    assert said in finding(two_cards(parts=parts))


def test_a_command_stands_on_a_line_of_its_own_and_once():
    command = "mpirun -n 2 python -m bench.allreduce -b 5760 -e 5760 --out alone"
    call = call_bill(next_step=f"measure the same call alone: `{command}`")
    note = f"An all-reduce of 5.62 KiB alone: none is published: `{command}`."
    lines = bill_text(two_cards(calls=[call], notes=[note])).splitlines()
    assert [line for line in lines if command in line] == [f"  {command}"]


def test_kinds_that_share_a_verdict_do_not_share_the_firsts_figures():
    why = "a call takes 35.1 us of transport"
    kinds = [call_bill(why=why), call_bill(32768, n_calls=9, why="another")]
    text = " ".join(bill_text(two_cards(calls=kinds)).split())
    assert f"waiting (all_reduce 16 KiB, all_reduce 32 KiB): of the first, {why}." in text


def test_less_than_a_nanosecond_of_a_part_is_nothing():
    assert ms_text((5.7e-4, 4e-4, 7e-4), True) == "0"


@pytest.mark.parametrize(
    ("ms", "said"),
    [
        (
            {
                "compute": 9,
                "idle": 6,
                "waiting": 1,
            },
            "38 % of a step of 16.0 ms is idle: the device",
        ),
        (
            {"compute": 9, "transport": 7},
            "44 % of a step of 16.0 ms is transport: 161 calls of 35.1",
        ),
        ({"compute": 9, "overlap": 7}, "44 % of a step of 16.0 ms is overlap: calls run beside"),
        ({"compute": 19, "idle": 1}, "95 % of a step of 20.0 ms is compute"),
    ],
)
def test_the_largest_part_beside_compute_is_the_finding(ms, said):
    assert finding(two_cards(parts=step_parts(**ms))).startswith(said)


def test_one_ranks_trace_claims_bounds_and_blames_nobody():
    call = call_bill(
        is_bound=True,
        waiting_us=[(45.1, None, None)],
        last_share=[1.0],
    )
    alone = two_cards(
        parts=step_parts(1, **STEP_MS),
        calls=[call],
        ranks=[0],
    )
    assert (
        finding(alone)
        == "at least 24 % of a step of 15.0 ms is waiting, as far as traces of 1 of the ranks show"
    )
    (row,) = call_rows(alone)
    assert row["transport\nus [95 %]"].startswith("<= 35.1")
    assert row["waiting us\nby rank"] == ">= 45.1"


def test_no_collective_is_an_answer():
    text = bill_text(without_calls())
    assert text.startswith("no collective in 3 steps; 10 % of a step of 15.0 ms is idle\n")
    assert "the calls" not in text


def test_parts_and_the_step_stand_in_ms_and_percent():
    lines = [line.split() for line in bill_text(two_cards()).splitlines()]
    for part, ms in STEP_MS.items():
        row = next(line for line in lines if line[:1] == [part])
        assert float(row[1]) == pytest.approx(ms, rel=0.01)
        assert float(row[-1]) == pytest.approx(100 * ms / sum(STEP_MS.values()), abs=0.5)
    assert ["step", "15.0", "[15.0", "15.0]", "100"] in lines


def test_a_row_of_calls_has_the_call_alone_and_the_waiting_of_each_rank():
    (row,) = call_rows(two_cards())
    assert [*row.values()] == [
        "all_reduce 16 KiB",
        "161",
        "35.1 [34.2 36.0]",
        "31.2",
        "45.1 0.40",
        "waiting",
    ]


def test_names_have_the_library_the_group_and_the_stream_only_where_kinds_differ():
    kinds = [
        call_bill(),
        call_bill(group="dp"),
        call_bill(group="dp", stream=20),
        call_bill(32768, group="dp"),
        call_bill(0),
        call_bill(0, by="vLLM or SGLang"),
    ]
    names = names_of(kinds)
    assert [names[id(kind)] for kind in kinds] == [
        "all_reduce 16 KiB group tp stream 7",
        "all_reduce 16 KiB group dp stream 7",
        "all_reduce 16 KiB group dp stream 20",
        "all_reduce 32 KiB",
        "all_reduce (NCCL or RCCL)",
        "all_reduce (vLLM or SGLang)",
    ]


def test_of_many_kinds_the_costliest_stand_and_the_rest_is_counted():
    text = bill_text(many_kinds())
    assert max(map(len, text.splitlines())) <= 80
    shown = [line for line in text.splitlines() if line.startswith("all_reduce ")]
    assert len(shown) == 10
    assert "1 KiB" in shown[0]  # they have the most calls
    n_calls = [call.n_calls for call in many_kinds().calls]
    share = 100 * sum(n_calls[10:]) / sum(n_calls)
    said = f"30 more kinds of calls, {share:.1f} % of the time of all calls, are in --json"
    assert said in " ".join(text.split())
    assert "waiting (all_reduce 1 KiB, all_reduce 2 KiB, all_reduce 4 KiB and 37 more)" in " ".join(
        text.split()
    )


def test_eight_ranks_waiting_stands_from_the_least_to_the_most():
    assert call_rows(many_kinds())[0]["waiting us\nby rank"] == "0.00 to 70.0"


def test_hostile_names_send_nothing_to_a_terminal():
    hostile = "\x1b[31m\u202eevil"
    kinds = [call_bill(group=hostile), call_bill(group="dp", collective=hostile), call_bill()]
    text = bill_text(
        two_cards(
            title=hostile,
            calls=kinds,
            notes=[hostile],
        )
    )
    assert not {"\x1b", "\u202e"} & set(text)


def test_the_fields_begin_with_the_finding():
    bill = two_cards()
    fields = bill_fields(bill)
    assert next(iter(fields)) == "finding"
    assert fields["finding"] == finding(bill)
    parts_us = [fields[f"{part}_us"] for part in STEP_MS]
    assert sum(parts_us) == pytest.approx(fields["step_us"])
