"""The search for the best build of each size, and what it stores for `auto`."""

import json
import os
import re
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec.structs import replace

from bench import tune
from bench.harness import tuned
from bench.tuning import search
from bench.tuning.audit import audited
from bench.tuning.winners import FINALISTS, Candidate, find_winners
from collectives.auto_table import parsed
from collectives.operation import ChoiceRow
from reports.tables.tune_table import render
from tests.bench.launches import launch, run
from tests.reports.synthetic_run import write_run
from wiretax.record.blocks import count_blocks
from wiretax.record.schema import Block, Winner

# A search that ends after 30 rounds of short blocks, however busy the machine is.
FEW_CANDIDATES = """
import bench.tune as tune
from bench.harness import schedule
from bench.tuning import search
from bench.tuning.winners import find_winners
schedule.LONGEST_BLOCK_S = 2e-3
from collectives.auto_table import parsed
go_on = search.go_on
search.go_on = lambda run, active, rounds: go_on(run, active, rounds) if rounds < 30 else []
names = "one_shot_pull", "two_shot_direct+nt"
search.candidates = lambda world, size: [parsed(name, search.KNOWN) for name in names]
tune.main()
"""
MACHINE = cast(Any, SimpleNamespace(machine_id="m", software_id="s"))
FAST, SLOW = (100.0, 101.0), (500.0, 505.0)  # round trips


# -- the candidates


@pytest.mark.parametrize(("is_cpu", "ranks"), [(True, 2), (False, 4)])
def test_every_candidate_has_a_meaning_and_a_unique_name(is_cpu, ranks):
    device = SimpleNamespace(is_cpu=is_cpu)
    world: Any = SimpleNamespace(
        device=device, ranks=ranks, memory="mapped", node=None, other_memory=()
    )
    for size in (1 << power for power in range(10, 27)):
        names = [algorithm.name for algorithm in search.candidates(world, size)]
        assert len(set(names)) == len(names) >= 4
        for name in names:
            algorithm = parsed(name, search.KNOWN)
            assert algorithm.name == name
            assert (algorithm.build.chunk_bytes or 0) < size
            assert not is_cpu or algorithm.build.blocks is algorithm.build.threads is None


# -- which candidates go on


def test_the_better_half_goes_on_and_the_finalists_are_measured_to_the_end():
    """Without this, the search would spend most of its time on clear losers."""

    def going_on(*rounds):
        """Of candidates with these numbers of rounds, the fastest first and the untuned last."""
        heat = [
            Candidate(number, "", dict.fromkeys(range(count), 10.0 + number), number == 15)
            for number, count in enumerate(rounds)
        ]
        return sorted(search.survivors(heat))

    finalists = [*range(FINALISTS), 15]
    assert len(going_on(*[2] * 16)) == 16, "two blocks must not drop a candidate"
    assert going_on(*[3] * 16) == [*range(8), 15]
    assert going_on(*[6] * 8, *[3] * 7, 6) == finalists
    last = search.LAST_ROUNDS
    assert going_on(*[last - 1] * FINALISTS, *[6] * (15 - FINALISTS), last - 1) == finalists
    assert going_on(*[last] * FINALISTS, *[6] * (15 - FINALISTS), last) == [0]


# -- the winner, and the audit


def searched_run(folder, blocks):
    """A run over 16 KiB with these blocks: (round, algorithm, us, state of the link)."""
    algorithms = list(dict.fromkeys(algorithm for _, algorithm, *_ in blocks))
    result = write_run(folder, sizes=[16384], algorithms=algorithms, modes=["isolated"], n_blocks=1)
    result.blocks = [
        Block(
            case=algorithms.index(algorithm),
            block=turn,
            round=turn,
            n=3,
            time_us=us,
            link_rtt_ns=state,
        )
        for turn, algorithm, us, state in blocks
    ]
    result.counted = count_blocks(result.run, result.blocks)
    result.winners = find_winners(result)
    return result


def test_the_audit_says_what_auto_costs_over_the_best_in_lines_of_a_terminal(tmp_path):
    costs_us = {"auto": 6.0, "ring": 5.0, "two_shot": 7.5}
    blocks = [(turn, *cost, FAST) for turn in range(8) for cost in costs_us.items()]
    result = searched_run(tmp_path, blocks)
    result.cases[1].algorithm = "one_shot_pull+nt+slabs+128K"
    text = audited(result)
    assert max(map(len, text.splitlines())) <= 80
    row = r"^16 KiB +1.20 +one_shot_push +one_shot_pull\+nt\+slabs\+128K$"
    assert re.search(row, text, re.MULTILINE)
    assert "auto: mean regret 20.0 %, largest 20 %, of 1 cells" in text
    result.blocks = result.blocks[:6]
    result.counted = count_blocks(result.run, result.blocks)
    assert audited(result).startswith("audit: no case was measured")


def test_the_headline_is_on_one_variant_and_mode(tmp_path):
    """It had the isolated call of the first row beside the chained one of the last."""
    result = searched_run(tmp_path, [(0, "auto", 6.0, FAST)])
    result.winners = [
        Winner(variant=variant, mode=mode, size_bytes=size, name=name, cost_us=us, gain=gain)
        for variant, size, mode, name, us, gain in (
            ("copied", 16384, "chained", "ring", 4.0, None),
            ("copied", 16384, "isolated", "ring", 5.0, (1.2, 1.1, 1.3)),
            ("copied", 1 << 20, "chained", "ring", 49.0, None),
            ("copied", 1 << 20, "isolated", "ring", 50.0, None),
            ("registered", 1 << 20, "chained", "ring", 30.0, (1.4, 1.3, 1.5)),
        )
    ]
    headline = "16 KiB copied isolated 5.0 us (1.20x untuned), 1 MiB copied isolated 50 us"
    assert render(result).replace("\n", " ").startswith(f"allreduce: {headline} ")


@pytest.mark.parametrize(
    ("costs_us", "rounds", "winner"),
    [
        ({"ring": [5.9, 5.9, 6.2, 6.2], "two_shot": [6.5]}, 12, "one_shot_push"),
        ({"two_shot": [4.0]}, 5, "one_shot_push"),  # too few rounds for an interval
        # the ring's median is the lowest
        ({"ring": [4.0] * 7 + [20.0] * 5, "two_shot": [5.0]}, 12, "two_shot"),
    ],
)
def test_the_default_wins_unless_another_is_clearly_faster(tmp_path, costs_us, rounds, winner):
    """Otherwise a table would make `auto` slower than it is without one. The default costs 6 us.
    Another one is a candidate until a second launch finds it faster too."""
    blocks = [
        (turn, algorithm, us[turn % len(us)], FAST)
        for turn in range(rounds)
        for algorithm, us in ({"auto": [6.0]} | costs_us).items()
    ]
    result = searched_run(tmp_path, blocks)
    (first,) = result.winners
    assert (first.name, first.is_settled) == ("one_shot_push", rounds > 5)
    if winner == "one_shot_push":
        assert (first.candidate, first.gain) == (None, None)
        return

    gain = 6 / costs_us[winner][0]
    assert (first.candidate, first.gain and first.gain[0]) == (winner, pytest.approx(gain))
    waiting = search.row_of(result, first)
    assert waiting.algorithm == "one_shot_push"
    for was, name in ((gain, winner), (2 * gain, "one_shot_push")):  # launches that agree, or not
        row = replace(waiting, candidate=(winner, was))
        (second,) = find_winners(result, search.found_before(result, [row]))
        assert second.name == name


def test_the_rounds_that_choose_a_candidate_do_not_test_it(tmp_path):
    """Of equal builds the luckiest would seem faster: here each is in some odd rounds."""
    luck = {"ring": 1, "two_shot": 3}
    blocks = [
        (turn, algorithm, 5.0 if turn % 4 == luck.get(algorithm) else 6.0, FAST)
        for turn in range(48)
        for algorithm in ("auto", "ring", "two_shot")
    ]
    (best,) = searched_run(tmp_path, blocks).winners
    assert (best.name, best.candidate) == ("one_shot_push", None)


def test_a_second_launch_confirms_by_all_of_its_rounds(tmp_path):
    """None of them chose the candidate. By the even ones alone, whose interval of six values has
    nearly all, two slow blocks lost a true winner."""
    costs_us = [5.4 + 0.1 * (turn % 5) + 1.2 * (turn in (2, 6)) for turn in range(12)]
    blocks = [
        (turn, algorithm, us, FAST)
        for turn in range(12)
        for algorithm, us in (("auto", 6.0), ("ring", costs_us[turn]))
    ]
    result = searched_run(tmp_path, blocks)
    (first,) = result.winners
    assert (first.name, first.candidate) == ("one_shot_push", None), "tested by even rounds"
    row = replace(search.row_of(result, first), candidate=("ring", 1.08))
    (second,) = find_winners(result, search.found_before(result, [row]))
    assert second.name == "ring"


def test_the_runs_state_has_the_winner_and_a_lucky_early_loser_never_wins(tmp_path):
    blocks = []
    for turn in range(24):
        state, ring_us = ((FAST, 5.0), (SLOW, 9.0))[turn % 3 == 2]
        blocks += [(turn, "ring", ring_us, state), (turn, "two_shot", 6.0, state)]
        blocks += [(turn, "one_shot_pull", 1.0, state)] * (turn < 4)
    result = searched_run(tmp_path, blocks)
    assert [each.name for each in find_winners(result)] == ["ring"]
    settled = [search.row_of(result, each) for each in result.winners if each.is_settled]
    ((least_ns, most_ns),) = (each.where["round_trip_ns"] for each in settled)
    assert least_ns < 100 < most_ns < 200


# -- the table


def row(size_bytes, round_trip_ns, name, **where):
    """A row for one size and state of the link."""
    where = {"variant": "copied", "round_trip_ns": search.state_range(round_trip_ns), **where}
    where |= {"memory": "mapped", "ranks": 2, "hosts": 1}
    return ChoiceRow("all_reduce", name, (size_bytes, size_bytes), where, ["run"])


def loaded(path, machine):
    return tuned.load(path, tuned.read(path, machine)[1])


def test_a_table_keeps_its_rows_for_other_sizes_and_states(tmp_path):
    """A link that changes once in several minutes needs more than one search."""
    path = tmp_path / "tables" / "table.toml"

    def names(found, program="1.0 (a)"):
        rows = [row(*each) for each in found]
        tuned.add(path, tuned.Head("m", "s", "run", program), rows)
        return {each.algorithm for each in loaded(path, MACHINE)}

    first = [(1024, 100.0, "ring")]
    assert names(first) == {"ring"}
    assert names([(1024, 120.0, "two_shot"), (2048, 500.0, "ring+nt")]) == {"two_shot", "ring+nt"}
    assert names([(1024, 500.0, "ring")]) == {"two_shot", "ring+nt", "ring"}
    assert names(first, program="1.0 (b)") == {"ring"}, "rows of other code must go"
    path.write_text("spoiled")
    assert names(first) == {"ring"}


# -- real searches


def test_an_unwritable_table_or_another_file_is_refused_before_the_search(tmp_path):
    notes = tmp_path / "notes.txt"
    notes.write_text("mine\n")
    done = launch(tmp_path, f"-b 16K -e 16K --table {notes}", command="tune")
    assert (done.returncode, done.stdout, notes.read_text()) == (2, "", "mine\n")
    assert "notes.txt is not a table of bench.tune" in done.stderr
    done = launch(tmp_path, "-b 16K -e 16K --table /nowhere/table.json", command="tune")
    why = "cannot be written: No such file or directory"
    refusal = f"bench.tune: rank 0: /nowhere/table.json {why}\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", refusal)


def test_a_search_that_finds_nothing_does_not_look_like_one_that_tuned(tmp_path):
    """A script would go on to measure an untuned `auto`."""
    program = FEW_CANDIDATES.replace("< 30", "< 1")
    options = "-b 16K -e 64K --max-time 15 --table"
    done = launch(tmp_path / "tune", options, tmp_path / "table.toml", program=program)
    assert (done.returncode, (tmp_path / "table.toml").exists()) == (3, False)
    open_ = r"INCOMPLETE: too few rounds at 16 KiB, 64 KiB: --max-time \d+\ntable: none\n"
    assert re.search(f"{open_}$", done.stdout)


@pytest.fixture(scope="module")
def search_done(tmp_path_factory):
    """The printed text and the run of a search, and the table that it has stored."""
    folder = tmp_path_factory.mktemp("search")
    table = folder / "table.toml"
    options = "-b 16K -e 16K --max-time 40 --table"
    printed, result = run(folder / "tune", options, table, program=FEW_CANDIDATES)
    return printed, result, table


def with_table(folder, table, options="--mode isolated"):
    """The run of `auto` over 16 KiB with a table."""
    options = f"--sizes 16K --algorithm auto -n 2 {options} --tuned"
    return run(folder, options, table)[1]


def test_auto_uses_the_choices_that_the_search_stored(search_done, tmp_path):
    """Without this, the search would have no effect."""
    printed, result, table = search_done
    assert result.complete
    assert {case.n_wrong for case in result.cases} == {0}
    assert f"table: {table}" in printed  # and how many candidates a second launch must confirm
    assert str(table) not in json.dumps(result.run.argv)
    head, rows = tuned.read(table, result.run)[0], loaded(table, result.run)
    assert rows
    assert {(each.where["variant"], each.where["mode"]) for each in rows} <= {
        (variant, mode) for variant in ("copied", "registered") for mode in ("isolated", "chained")
    }
    assert all(each.algorithm in printed for each in rows)
    assert {each.name for each in result.winners} >= {each.algorithm for each in rows}
    result = with_table(tmp_path, table)
    made = f"bench.tune made in {head.run_id} with Wiretax {head.program}"
    assert f"auto uses the table that {made}." in result.run.notes
    assert {(case.status, case.n_wrong) for case in result.cases} == {("ok", 0)}


def test_what_auto_chose_for_another_state_of_the_link_is_not_stored_if_it_lost(
    search_done, tmp_path
):
    """A table kept a build for 441 ns that took 2.5 times as long at the run's 100 ns."""
    result, table = search_done[1], str(tmp_path / "table.toml")
    lost, held = (
        Winner(
            variant="copied",
            size_bytes=size_bytes,
            mode="isolated",
            name=result.winners[0].name,
            cost_us=2.5,
            candidate=candidate,
            gain=(2.5, 2.4, 2.6) if candidate else None,
        )
        for size_bytes, candidate in ((1024, "ring"), (2048, None))
    )

    def stored(factor):
        link = {"auto_rtt_ns": factor * result.counted.rtt_ns}
        run = replace(result.run, link=link)
        tune.store(table, "p", (1024, 2048), replace(result, run=run, winners=[lost, held]))
        return [row.size_bytes[0] for row in loaded(tmp_path / "table.toml", run)]

    assert stored(4.0) == [2048]
    assert stored(1.1) == [1024, 2048]


def test_the_folders_of_the_table_are_made_for_this_user_alone(search_done, tmp_path, monkeypatch):
    """By the umask of Ubuntu's users ~/.local was one that other users could write to."""
    result = search_done[1]
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    before = os.umask(0o002)
    try:
        said, _ = tune.store(None, "p", (16384,), result)
    finally:
        os.umask(before)
    assert f"table: {tmp_path}/.local/share/wiretax/tuned-" in said
    for folder in (".local", ".local/share", ".local/share/wiretax"):
        assert (tmp_path / folder).stat().st_mode & 0o777 == 0o700


def test_a_search_for_stable_bits_tries_sums_in_rank_order_and_keeps_the_rows_of_auto(
    search_done, tmp_path
):
    """Otherwise each of both searches would undo the other."""
    table = tmp_path / "table.toml"
    table.write_text(search_done[2].read_text())
    program = FEW_CANDIDATES.replace('"one_shot_pull"', '"ring", "one_shot_pull"')
    options = "-b 16K -e 16K --stable --max-time 40 --table"
    _, result = run(tmp_path / "tune", options, table, program=program)
    tried = {case.algorithm for case in result.cases}
    assert tried == {"auto_stable", "one_shot_pull", "two_shot_direct+nt"}
    rows = [(each.where.get("stable"), each.where["mode"]) for each in loaded(table, result.run)]
    assert {(stable, mode) for stable in (None, True) for mode in ("isolated", "chained")} == {
        *rows
    }
