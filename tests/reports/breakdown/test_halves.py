"""Tests which kernels of a rank take more than their share of one card's time, by steps whose
times are known."""

import json

import pytest

from reports.__main__ import main
from reports.breakdown.halves import short
from tests.reports.breakdown.small_trace import CALL, event

pytestmark = pytest.mark.unit

# (name, us): of a rank's products one fills the card less well, and the norm is whole.
ONE = [("norm", 6), ("gemm_128", 40), ("attend", 20), ("gemm_128", 30), ("sample", 4)]
SPLIT = [("norm", 6), ("gemm_64", 24), ("attend", 10), (CALL, 9), ("gemm_64", 16), ("sample", 4)]


def write(
    path,
    kernels,
    steps=8,
    world=None,
    name="ProfilerStep#{}",
    more=(),
    device="",
):
    """Steps of these kernels, one after another without a gap, each 0.1 us longer than the last."""
    events = []
    start_us = 1e6
    for step in range(steps):
        at_us = start_us
        for kernel, lasts_us in [*kernels, *(more if step == 3 else ())]:
            events.append(event("kernel", kernel, at_us, lasts_us + 0.1 * step, stream=7))
            at_us += lasts_us + 0.1 * step
        title = name.format(step)
        events.append(event("user_annotation", title, start_us, at_us - start_us))
        start_us = at_us
    head = {"distributedInfo": {"rank": world, "world_size": 2}} if world is not None else {}
    cards = {"deviceProperties": [{"id": 0, "name": device}]} if device else {}
    path.write_text(json.dumps({**head, **cards, "traceEvents": events}))
    return path


@pytest.fixture
def traces(tmp_path):
    return [write(tmp_path / f"rank{rank}.json", SPLIT, world=rank) for rank in range(2)]


def answer(capsys, traces, *one):
    status = main(["breakdown", *map(str, traces), "--one", *map(str, one), "--json"])
    said = capsys.readouterr()
    return (json.loads(said.out) if status == 0 else said.err), status


def test_another_card_and_a_model_of_more_layers_are_doubted(tmp_path, capsys):
    ranks = [write(tmp_path / f"rank{n}.json", SPLIT, world=n, device="A") for n in range(2)]
    one = write(tmp_path / "one.json", 2 * ONE, device="B")
    bill, _ = answer(capsys, ranks, one)
    notes = " ".join(bill["notes"])
    assert "one.json is of B, the ranks are of A" in notes
    assert "no more than their share, if the steps are alike" in notes


def by_name(halves):
    return {each["one"][0]: each for each in halves["kernels"]}


def test_the_excess_over_half_is_that_of_each_kernel(tmp_path, traces, capsys):
    """The products by their place: their tiles have other names."""
    bill, _ = answer(capsys, traces, write(tmp_path / "one.json", ONE))
    kernels = by_name(bill["halves"])
    assert {name: each["split"] for name, each in kernels.items()} == {
        "gemm_128": ["gemm_64"],
        "norm": ["norm"],
        "sample": ["sample"],
        "attend": ["attend"],
    }
    late_us = 0.35  # a kernel's mean beyond its first step
    assert kernels["gemm_128"]["excess_us"] == pytest.approx(5 + late_us)
    assert kernels["norm"]["excess_us"] == pytest.approx(3 + late_us / 2)
    assert kernels["attend"]["excess_us"] == pytest.approx(late_us / 2)
    assert {name for name, each in kernels.items() if not each["is_divided"]} == {"norm", "sample"}
    low, high = bill["halves"]["intervals"]["excess_us"]
    assert low < bill["halves"]["excess_us"] < high
    assert bill["halves"]["excess_us"] == pytest.approx(10 + 5 * late_us / 2)
    assert [each["excess_us"] for each in bill["halves"]["kernels"]] == sorted(
        (each["excess_us"] for each in kernels.values()), reverse=True
    )


def test_the_text_says_what_splitting_loses(tmp_path, traces, capsys):
    assert (
        main(["breakdown", *map(str, traces), "--one", str(write(tmp_path / "1.json", ONE))]) == 0
    )
    said = " ".join(capsys.readouterr().out.split())
    assert "us a step that no wire explains: gemm_128 5.35 us, norm 3.17 us" in said
    assert "Not divided at all: norm, sample" in said
    assert "gemm_128 70.7 40.7 5.35 [" in said


def test_the_page_has_the_kernels(tmp_path, traces):
    page = tmp_path / "step.html"
    one = write(tmp_path / "one.json", ONE)
    main(["breakdown", *map(str, traces), "--one", str(one), "--html", str(page)])
    assert ">gemm-128\n" in page.read_text().partition("Half is not half")[2]


def test_a_kernel_without_a_pair_is_told(tmp_path, traces, capsys):
    """A rank has an all-reduce with the norm inside, or copies more than one card."""
    one = write(tmp_path / "one.json", [("embed", 5), ("rotate", 2), *ONE])
    bill, _ = answer(capsys, traces, one)
    lone = {tuple(each["one"]) for each in bill["halves"]["kernels"] if not each["split"]}
    assert lone == {("embed",), ("rotate",)}
    notes = " ".join(bill["notes"])
    assert "A step has 7 kernels on one card and 5 on a rank" in notes
    assert (
        "Without a pair are kernels of 7.70 us a step on one card and of 0.00 us on a rank" in notes
    )


def test_the_last_product_of_a_long_step_has_its_pair(tmp_path, capsys):
    """As the logits of a model with many layers, behind thousands of kernels."""
    layers = [("norm", 1), ("gemm_128", 4), ("attend", 2), ("add", 1)] * 300
    short_layers = [(name.replace("128", "64"), us) for name, us in layers]
    rank = write(tmp_path / "rank0.json", [*short_layers, ("head_64", 9), ("sample", 1)], 2, 0)
    one = write(tmp_path / "one.json", [*layers, ("head_128", 16), ("sample", 1)], 2)
    bill, _ = answer(capsys, [rank], one)
    kernels = by_name(bill["halves"])
    assert (kernels["gemm_128"]["split"], kernels["head_128"]["split"]) == (
        ["gemm_64"],
        ["head_64"],
    )


def test_a_name_of_two_works_is_compared_with_both(tmp_path, capsys):
    """One card has a kernel for both products, and a rank one for each."""
    split = [("gemm_64", 24), ("attend", 10), (CALL, 9), ("gemm_32", 16)]
    rank = write(tmp_path / "rank0.json", split, world=0)
    one = write(tmp_path / "one.json", [("gemm_64", 40), ("attend", 20), ("gemm_64", 30)])
    bill, _ = answer(capsys, [rank], one)
    assert by_name(bill["halves"])["gemm_64"]["split"] == ["gemm_32", "gemm_64"]


def test_a_step_with_more_kernels_is_left_out(tmp_path, traces, capsys):
    """Such as one that takes a prompt in."""
    for steps in (8, 4):
        one = write(tmp_path / "one.json", ONE, steps, more=[("gemm_128", 900)] * 5)
        bill, _ = answer(capsys, traces, one)
        assert "one.json: 1 steps with other numbers of kernels are left out" in bill["notes"]
        assert by_name(bill["halves"])["gemm_128"]["one_us"] < 80


def test_a_rank_without_other_work_is_refused(tmp_path, capsys):
    rank = write(tmp_path / "rank0.json", [(CALL, 9)], world=0)
    said, status = answer(capsys, [rank], write(tmp_path / "one.json", ONE))
    assert ("rank0.json has no kernel but collectives" in said, status) == (True, 2)


def test_steps_of_other_tokens_are_not_compared(tmp_path, capsys):
    name = "execute_context_0(0)_generation_{}({})"
    rank = write(tmp_path / "rank0.json", SPLIT, world=0, name=name.replace("{}", "8"))
    one = write(tmp_path / "one.json", ONE, name=name.replace("{}", "1"))
    said, status = answer(capsys, [rank], one)
    assert status == 2
    assert "one.json has no step such as execute_context_0(0)_generation_8(8)" in said
    alike = write(tmp_path / "alike.json", ONE, name=name.replace("{}", "8"))
    assert answer(capsys, [rank], alike)[1] == 0


def test_steps_without_annotations_begin_with_the_same_kernel(tmp_path, capsys):
    """Otherwise a step of one card might be shifted against a rank's, or be of several."""
    rank = write(tmp_path / "rank0.json", SPLIT, world=0, name="none")
    one = write(tmp_path / "one.json", ONE, name="none")
    bill, _ = answer(capsys, [rank], one)
    assert by_name(bill["halves"])["gemm_128"]["one_us"] == pytest.approx(70 + 0.6)
    assert not any("on one card and 5 on a rank" in note for note in bill["notes"])


def test_a_rank_s_share_is_of_the_group_that_splits_the_step(tmp_path, capsys):
    """Two of four ranks split the tensor, and the others serve other requests."""
    ranks = [write(tmp_path / f"rank{rank}.json", SPLIT, world=rank) for rank in (0, 1)]
    groups = [{"pg_name": "tp", "ranks": [0, 1]}]
    for path in ranks:
        trace = json.loads(path.read_text())
        trace["distributedInfo"] |= {"world_size": 4, "pg_config": groups}
        for each in trace["traceEvents"]:
            if each["name"] == CALL:
                each["args"]["Process Group Name"] = "tp"
        path.write_text(json.dumps(trace))
    bill, _ = answer(capsys, ranks, write(tmp_path / "one.json", ONE))
    assert by_name(bill["halves"])["gemm_128"]["excess_us"] == pytest.approx(5.35)


def test_a_rank_of_unknown_many_is_refused(tmp_path, capsys):
    """Its share is unknown."""
    rank, one = write(tmp_path / "rank0.json", SPLIT), write(tmp_path / "one.json", ONE)
    said, status = answer(capsys, [rank], one)
    assert ("rank0.json does not say of how many ranks" in said, status) == (True, 2)


def test_kernels_that_gain_by_splitting_lose_nothing(tmp_path, traces, capsys):
    one = write(tmp_path / "one.json", [("norm", 20), ("gemm_64", 100), ("sample", 20)])
    bill, _ = answer(capsys, traces, one)
    assert bill["halves"]["excess_us"] < 0
    assert "Splitting loses nothing but calls" in " ".join(bill["notes"])


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (
            "void vllm::rotary_embedding_kernel<c10::BFloat16, true>(long const*)",
            "vllm::rotary_embedding_kernel",
        ),
        ("void (anonymous namespace)::store_kvcache<2048l>((anonymous)::P)", "store_kvcache"),
        ("Memcpy DtoH (Device -> Host)", "Memcpy DtoH"),
        ("\x1b" + "9" * 9999, "?" + "9" * 47),
        ("", ""),
    ],
)
def test_a_name_is_shown_without_its_arguments(name, shown):
    assert short(name) == shown


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        ([SPLIT], "has collectives: --one takes the trace of one card"),
        ([ONE, ONE], "--one takes a trace of one card, not of 2"),
        ([[("other", 5)]], "has no kernel that a rank's trace has too"),
    ],
)
def test_what_is_no_trace_of_one_card_is_refused(tmp_path, traces, one, reason, capsys):
    ones = [write(tmp_path / f"one{n}.json", kernels) for n, kernels in enumerate(one)]
    said, status = answer(capsys, traces, *ones)
    assert (reason in said, said.count("\n"), status) == (True, 1, 2)
