"""Synthetic runs of compute and communication with known figures: the exposed time, its table, and the break-even time
of a whole step."""

import re

import pytest

from reports.store.case import COMPUTE
from reports.tables.exposed_table import compare, groups, interval_text
from reports.tables.show import text
from tests.reports.synthetic_together import FUSED, LAYER, MPI, STEP, THEN, Made, always, steps

pytestmark = pytest.mark.unit


def by_name(result):
    return {f"{case.algorithm} {case.variant}": case for case in result.cases}


def words(result):
    """The printed text without line ends; every line fits a terminal of 80 columns."""
    printed = text(result)
    assert max(map(len, printed.splitlines())) <= 80
    return " ".join(printed.split())


def test_exposed_time_is_the_difference_within_a_round(tmp_path):
    """The machine slows down from round to round. Medians over different rounds would differ by the slowdown."""
    result = Made(tmp_path).run(
        {
            COMPUTE: lambda turn: 10.0 + 3 * turn,
            FUSED: lambda turn: 11.0 + 3 * turn if turn > 5 else None,
            THEN: lambda turn: 14.0 + 3 * turn,
        }
    )
    cases = by_name(result)
    assert (cases["fused copied"].exposed_us.median, cases["fused copied"].exposed_us.n_blocks) == (
        1.0,
        6,
    )
    assert cases["fused copied"].compute_us.median == 10.0 + 3 * 8.5
    assert (
        cases[f"{THEN} copied"].exposed_us.median,
        cases[f"{THEN} copied"].exposed_us.n_blocks,
    ) == (4.0, 12)
    assert (cases["compute copied"].exposed_us, cases["compute copied"].compute_us) == (None, None)
    assert (
        cases[f"{THEN} copied"].exposed_us.ci_low,
        cases[f"{THEN} copied"].exposed_us.ci_high,
    ) == (4.0, 4.0)


def test_exposed_time_comes_from_the_longest_state_of_the_link(tmp_path):
    """In the other state the cores share no cache: all times are longer, and the exposed time is a different
    quantity."""

    def fused(turn):
        return 90.0 if turn < 4 else 12.0

    made = Made(tmp_path, slow=(0, 1, 2, 3))
    result = made.run(
        {COMPUTE: lambda turn: 30.0 if turn < 4 else 10.0, FUSED: fused, THEN: always(15.0)}
    )
    exposed = by_name(result)["fused copied"].exposed_us
    assert (exposed.median, exposed.ci_high, exposed.n_blocks) == (2.0, 2.0, 8)
    assert "fused 12.0 2.00 [2.00 2.00]" in words(result)


def test_a_form_that_was_never_measured_in_that_state_has_no_exposed_time(tmp_path):
    result = Made(tmp_path, slow=(0, 1, 2, 3)).run(
        {COMPUTE: always(10.0), FUSED: lambda turn: 90.0 if turn < 4 else None, THEN: always(15.0)}
    )
    fused = by_name(result)["fused copied"]
    assert (fused.state, fused.exposed_us) == ("own", None)
    assert "not all forms were measured" in words(result)


def test_a_named_build_is_shown_and_judged(tmp_path):
    result = Made(tmp_path).run(
        {COMPUTE: always(10.0), "fused+nt": always(11.0), f"{THEN}+nt": always(15.0)}
    )
    assert "fused+nt 11.0 1.00" in words(result)
    assert (
        "fused exposes 4.00 [4.00 4.00] us less than unfused one-shot pull, built +nt, 80% of its"
        in words(result)
    )


def test_every_block_counts_if_the_link_never_settled(tmp_path):
    """Three ranks on two cores would otherwise get a table without a row."""
    result = Made(
        tmp_path, trips=lambda turn: (100.0 + 400 * (turn % 2), 500.0 - 400 * (turn % 2))
    ).run({COMPUTE: always(10.0), FUSED: always(12.0), THEN: always(15.0)})
    exposed = by_name(result)["fused copied"].exposed_us
    assert (exposed.median, exposed.n_blocks) == (2.0, 12)
    assert "never settled; every block counts" in words(result)
    assert "fused exposes 3.00 [3.00 3.00] us less than unfused one-shot pull" in words(result)


def test_a_negative_exposed_time_is_kept(tmp_path):
    result = Made(tmp_path).run({COMPUTE: always(10.0), FUSED: always(9.0), THEN: always(12.0)})
    assert by_name(result)["fused copied"].exposed_us.median == -1.0
    assert "fused 9.00 -1.00 [-1.00 -1.00]" in words(result)


def test_the_best_is_chosen_on_odd_rounds_and_reported_on_even_ones(tmp_path):
    """In the rounds that choose it, the chosen form looks better than it is."""
    result = Made(tmp_path).run(
        {
            COMPUTE: always(10.0),
            "then_one_shot_pull copied": always(13.0),
            "then_one_shot_push copied": lambda turn: 30.0 if turn % 2 else 5.0,
            "fused copied": lambda turn: 11.0 if turn % 2 else 40.0,
            "fused registered": always(12.0),
        }
    )
    forms = groups(result)[0][1]
    assert [form.name for form in forms.values()] == [
        "compute",
        "then_one_shot_pull",
        "fused copied",
    ]
    assert list(forms[FUSED].report_us) == [0, 2, 4, 6, 8, 10]
    assert compare(forms, FUSED, COMPUTE) == (30.0, 30.0, 30.0)
    assert list(forms[COMPUTE].report_us) == list(range(12))


def test_a_row_names_the_build_or_the_number_of_chunks(tmp_path):
    """Otherwise a reader would take a figure of streaming stores for one of ordinary stores."""
    chosen = {"fused registered": "fused+nt", THEN: THEN, "fused copied": "fused"}
    result = Made(tmp_path, chosen=chosen).run(
        {
            COMPUTE: always(10.0),
            "fused registered": always(11.0),
            "fused copied": always(13.0),
            THEN: always(14.0),
        }
    )
    forms = groups(result)[0][1]
    assert [form.name for form in forms.values()] == [
        "compute",
        "then_one_shot_pull",
        "fused registered, nt",
    ]
    chunks = Made(tmp_path / "chunks", chosen={FUSED: "4 chunks"}).run(
        {COMPUTE: always(10.0), FUSED: always(11.0)}
    )
    forms = groups(chunks)[0][1]
    assert forms[FUSED].name == "fused, 4 chunks"


VERDICTS = {
    "wins": (
        11.0,
        15.0,
        "fused exposes 4.00 [4.00 4.00] us less than unfused one-shot pull, 80% of its "
        "communication.",
    ),
    "loses": (18.0, 15.0, "fused exposes 3.00 [3.00 3.00] us more than unfused one-shot pull."),
}


@pytest.mark.parametrize("name", VERDICTS)
def test_the_verdict_names_the_form_to_use(tmp_path, name):
    fused, then, sentence = VERDICTS[name]
    result = Made(tmp_path).run(
        {COMPUTE: always(10.0), MPI: always(20.0), THEN: always(then), FUSED: always(fused)}
    )
    printed = words(result)
    assert (
        "model llama-3.1-70b, layer attention output, tokens 1, hidden 8192, inner 64, weights float16, "
        f"scale 1/64: {sentence}"
    ) in printed
    # hidden: the share of the library's exposed 10 us that this form does not expose
    exposed = interval_text((fused - 10, fused - 10, fused - 10))
    assert f"fused {fused:.1f} {exposed} {(20 - fused) / 10:.0%} 0" in printed


def test_the_verdict_says_if_two_forms_do_not_clearly_differ(tmp_path):
    result = Made(tmp_path).run(
        {COMPUTE: always(10.0), FUSED: lambda turn: 14.0 + turn % 4, THEN: always(15.5)}
    )
    printed = words(result)
    assert re.search(
        r"fused and unfused one-shot pull do not clearly differ \(-?0\.00 \[-1\.\d\d 1\.\d\d\] us\)",
        printed,
    )


def test_too_few_rounds_give_no_interval_and_no_winner(tmp_path):
    result = Made(tmp_path, rounds=4).run(
        {COMPUTE: always(10.0), FUSED: always(11.0), THEN: always(15.0)}
    )
    printed = words(result)
    assert "do not clearly differ (4.00 us)" in printed
    assert "fused 11.0 1.00 - 0" in printed


def test_a_form_with_wrong_results_is_named_and_never_wins(tmp_path):
    result = Made(tmp_path, wrong={FUSED: 3}).run(
        {COMPUTE: always(10.0), FUSED: always(1.0), THEN: always(15.0)}
    )
    printed = words(result)
    assert printed.startswith("WRONG RESULTS: fused")
    assert "not all forms were measured" in printed
    assert by_name(result)["fused copied"].exposed_us is None


@pytest.mark.parametrize(
    ("command", "shape", "title"),
    [
        ("gemm_reduce_scatter", {**LAYER, "tokens": 256}, "tokens 256, hidden 8192, inner 64"),
        (
            "allgather_gemm",
            {**LAYER, "layer": "gate_up", "columns": 448},
            "layer gate_up, tokens 1, hidden 8192",
        ),
        (
            "allreduce_rmsnorm",
            {"tokens": 2048, "hidden": 12345},
            "tokens 2048, hidden 12345; 32 KiB",
        ),
    ],
)
@pytest.mark.parametrize("scale", [1e-4, 1e7])
def test_extreme_figures_stay_within_80_columns(tmp_path, command, shape, title, scale):
    made = Made(tmp_path, benchmark=command, shape=shape, chosen={"fused registered": "8 chunks"})
    result = made.run(
        {
            COMPUTE: always(10 * scale),
            MPI: lambda turn: (90 - 3 * turn) * scale,
            "then_direct_pull copied": lambda turn: (20 + turn) * scale,
            "then_direct_pull registered": lambda turn: (16 + turn % 5) * scale,
            "fused registered": lambda turn: (12 + turn % 4) * scale,
            "fused copied": always(17 * scale),
        }
    )
    printed = words(result)
    assert title in printed
    assert "…" not in printed
    assert "fused registered, 8 chunks" in printed


def test_the_break_even_time_follows_from_three_times(tmp_path):
    """64 all-reduces: (12 - 10) ms are 31.2 us each, and (20 - 10) ms would be 156 us each."""
    printed = words(steps(tmp_path, 10.0, 12.0, 20.0))
    assert (
        "slots 2: TP is faster, PP/TP 1.67 [1.67 1.67] (TP by gemv allreduce). The answer flips where an "
        "all-reduce exposes 156 us; here it exposes 31.2 us."
    ) in printed
    assert "tensor_parallel 12.0 167 2.00 [2.00 2.00] 17% 0" in printed  # 2 chats / 12 ms
    assert "tensor_parallel, MPICH 5.0.2 24.0 83.3 14.0 [14.0 14.0] 58% 0" in printed
    assert "pipeline_parallel 20.0 100 - - 0" in printed
    assert printed.endswith(
        "This holds for these cores, which share one memory; cards have one each."
    )


def test_a_slow_all_reduce_makes_the_pipeline_faster(tmp_path):
    printed = words(
        steps(tmp_path, 10.0, 40.0, 16.0, devices=[{"rank": 0, "device": "cuda", "gpu": "NVIDIA"}])
    )
    assert "PP is faster, PP/TP 0.40 [0.40 0.40] (TP by gemv allreduce)." in printed
    assert "flips where an all-reduce exposes 93.8 us; here it exposes 469 us." in printed
    assert "share one memory" not in printed


def test_a_ratio_whose_interval_says_nothing_is_not_printed(tmp_path):
    made = Made(tmp_path, benchmark="decode", shape=STEP)
    result = made.run(
        {
            COMPUTE: always(10e3),
            "tensor_parallel": lambda turn: 12e3 * 8 ** (turn % 3),
            "pipeline_parallel": lambda turn: 20e3 * 8 ** (turn % 5 - 2),
        }
    )
    printed = words(result)
    assert "no clear difference, PP/TP too noisy." in printed
    assert printed.startswith("decode: slots 2 96 ms a step decode: "), (
        "the headline must not name a ratio either"
    )


def test_the_break_even_time_uses_differences_within_rounds(tmp_path):
    """Three medians, each over its own rounds, would contradict the table's exposed time."""

    def drifting(ms, rounds):
        return lambda turn: 1e3 * (ms + turn) if turn in rounds else None

    made = Made(tmp_path, benchmark="decode", shape=STEP)
    result = made.run(
        {
            COMPUTE: drifting(10.0, range(12)),
            "tensor_parallel": drifting(12.0, range(6, 12)),
            "pipeline_parallel": drifting(20.0, range(9)),
        }
    )
    assert "flips where an all-reduce exposes 156 us; here it exposes 31.2 us." in words(result)


@pytest.mark.parametrize(
    ("times", "sentence"),
    [
        (
            (10.0, 12.0, 9.0),
            "TP's compute alone is no faster than PP: no all-reduce is fast enough.",
        ),
        (
            (10.0, 9.5, 20.0),
            "The answer flips where an all-reduce exposes 156 us; here it exposes -7.81 us.",
        ),
        (
            (10.0, 16.0, 16.1),
            "no clear difference, PP/TP 1.01 [1.01 1.01] (TP by gemv allreduce). The answer flips "
            "where an all-reduce exposes 95.3 us; here it exposes 93.8 us.",
        ),
    ],
)
def test_other_sentences_about_a_step(tmp_path, times, sentence):
    assert sentence in words(steps(tmp_path, *times))


def test_splits_that_were_never_measured_in_the_same_round_have_no_verdict(tmp_path):
    """A link that never settles leaves rounds out; the command must not end with a traceback."""

    def in_rounds(rounds):
        return lambda turn: 900.0 if turn in rounds else None

    result = Made(tmp_path, benchmark="decode", shape=STEP).run(
        {
            COMPUTE: always(500.0),
            "tensor_parallel": in_rounds(range(6)),
            "pipeline_parallel": in_rounds(range(6, 12)),
        }
    )
    assert "no verdict, compute, tensor and pipeline have no round in common." in words(result)


def test_an_incomplete_step_or_a_step_without_a_split_has_no_verdict(tmp_path):
    made = Made(
        tmp_path / "a", benchmark="prefill", shape={**STEP, "tokens": 1024, "timed_layers": 4}
    )
    result = made.run(
        {
            COMPUTE: always(1e6),
            "tensor_parallel": always(2e6),
            "pipeline_parallel": always(None),
            "sequence_parallel": always(1.5e6),
        },
        finish=False,
    )
    printed = words(result)
    assert "INCOMPLETE: the run was cut off." in printed
    assert (
        "tokens 1024: no verdict, compute, tensor and pipeline have no round in common." in printed
    )
    assert (
        "layers 32, hidden 4096, inner [64, 128], weights float16, scale 1/64, timed_layers 4;"
        in printed
    )
    assert "sequence_parallel 1500 683 500 [500 500] 33% 0" in printed
    assert {case.algorithm: case.exposed_us.median for case in result.cases if case.exposed_us} == {
        "tensor_parallel": 1e6,
        "sequence_parallel": 5e5,
    }


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_steps_stay_within_80_columns(tmp_path, scale):
    printed = words(steps(tmp_path, 10.0 * scale, 12.3 * scale, 45.6 * scale))
    assert "…" not in printed
