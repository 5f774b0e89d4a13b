"""`auto` and the tuning table: which choice a case takes, and which table is refused."""

import json
import os
from typing import Any, cast

import pytest

from bench.harness import tuned
from bench.harness.head import Machine
from bench.harness.session import MEASURED, program_digest
from collectives.algorithm import choices_for
from collectives.collective import COLLECTIVES, DATATYPES
from collectives.operation import Case, TunedChoice
from reports.store.result import ResultError
from tests import fake_gpu
from tests.bench.launches import launch
from tests.launch import mpirun

MACHINE = Machine({}, [], None, "a1b2c3", "d4e5f6")
TABLE = {"machine_id": "a1b2c3", "software_id": "d4e5f6", "run_id": "2026-tune"}
PICK = {
    "collective": "all_reduce",
    "ranks": 2,
    "size_bytes": 16384,
    "variant": "copied",
    "link_rtt_ns": 100.0,
    "algorithm": "ring",
}
# What `auto` runs over host memory without a table, and with one.
AUTO_OVER_HOST_MEMORY = """
from dataclasses import replace
from collectives.algorithm import ALGORITHMS
from collectives.collective import COLLECTIVES, DATATYPES
from collectives.communicator import Communicator
from collectives.operation import Case, TunedChoice
from collectives.peer_buffer import WaitPolicy
from collectives.world import open_device, open_world
from kernels.devices.device import Watch
ranks = Communicator()
device, _ = open_device(ranks, "cuda", False)
world = open_world(ranks, device, WaitPolicy(device.watch(Watch()), yields=True), "host_staged")
send, receive = (device.private(16384).address for _ in range(2))
case = Case(COLLECTIVES["all_reduce"], 4096, DATATYPES["float32"], "sum", send, receive)
choices = [TunedChoice("all_reduce", 2, 16384, "copied", 100.0, name, memory)
           for name, memory in (("ring", "mapped"), ("two_shot+2b", "host_staged"))]
chosen = [ALGORITHMS["all_reduce"]["auto"].bind(world, case).chosen for world in
          (world, replace(world, choices=choices))]
if ranks.rank == 0:
    print(world.memory, *chosen)
"""


# -- the choice for a case


def tuned_to(algorithm, **changes):
    return TunedChoice(**{**PICK, "algorithm": algorithm, **changes})


def picks(choices, count=4096, ranks=2, memory="mapped", collective="all_reduce", **case):
    """The algorithms of the choices for a case of `count` elements."""
    of = Case(COLLECTIVES[collective], count, DATATYPES["float32"], "sum", 0, 0, **case)
    return [choice.algorithm for choice in choices_for(choices, of, ranks, memory)]


def test_auto_uses_the_nearest_size_with_the_same_number_of_ranks():
    choices = [
        tuned_to("a"),
        tuned_to("b", size_bytes=1 << 20),
        tuned_to("c", size_bytes=1 << 20, ranks=4),
    ]
    near_a, near_b = (512, 4096, 32000), (33000, 1 << 21)
    assert [picks(choices, count) for count in near_a] == [["a"]] * 3
    assert [picks(choices, count) for count in near_b] == [["b"]] * 2
    # Far from all tuned sizes the default may be faster.
    assert picks(choices, 511) == picks(choices, (1 << 21) + 1) == []
    assert picks(choices, 1 << 18, ranks=4) == ["c"]
    assert picks(choices, ranks=3) == picks(choices, 0) == []


def test_each_kind_of_memory_uses_its_own_choices():
    choices = [tuned_to("a", memory="mapped"), tuned_to("b", memory="host_staged")]
    assert picks(choices) == ["a"]
    assert picks(choices, memory="host_staged") == ["b"]
    assert picks(choices, memory="same_device") == []


def test_each_mode_uses_its_own_choices():
    """A choice that won in a chain made single calls 1.2 to 1.4 times slower than without a
    table."""

    def of_each_mode(variant):
        choices = [
            tuned_to("a", mode="isolated", variant=variant),
            tuned_to("b", mode="chained", variant=variant),
            tuned_to("c", mode="any", variant=variant, size_bytes=1 << 20),
        ]
        return {
            (count, mode): picks(choices, count, mode=mode, variant=variant)
            for count in (4096, 1 << 18)
            for mode in ("isolated", "chained")
        }

    small = {(4096, "isolated"): ["a"], (4096, "chained"): ["b"]}
    assert of_each_mode("copied") == small | {
        (1 << 18, "isolated"): ["c"],
        (1 << 18, "chained"): ["c"],
    }
    # Far, a registered chain of 1 MiB took 2.9 times as long with what had won in single calls.
    assert of_each_mode("registered")[1 << 18, "chained"] == []


def test_auto_over_host_memory_uses_its_own_default_and_choices_on_a_fake_gpu():
    done = mpirun(2, "-c", AUTO_OVER_HOST_MEMORY, **cast(Any, fake_gpu.environment()))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["host_staged", "one_shot_push", "two_shot+2b"]


# -- the table of a run


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (
            {"machine_id": "0" * 12},
            "was made on another machine or with other software (000000000000, ",
        ),
        ({"software_id": "0" * 12}, ", 000000000000; this is "),
        ({"picks": [{"collective": "all_reduce"}]}, "is not a table of bench.tune: "),
        ({"algorithm": "two_shot+fast"}, "bench.tune: 'fast' is not one of nt, ntr"),
        ({"algorithm": "three_shot"}, "bench.tune: three_shot does not exist"),
        ({"mode": "as_used"}, "bench.tune: 'as_used' is not one of isolated, "),
        ({"size_bytes": 10**400}, "bench.tune: a size of 1000"),
    ],
    ids=["machine", "software", "fields", "build", "algorithm", "mode", "size"],
)
def test_a_table_from_another_machine_or_a_damaged_table_is_refused(tmp_path, changed, sentence):
    """Otherwise the run would measure another machine's best choice as this machine's."""
    table = tmp_path / "table.json"
    if not changed.keys() & {*TABLE, "picks"}:
        changed = {"picks": [PICK | changed]}
    table.write_text(json.dumps(TABLE | {"picks": []} | changed))
    with pytest.raises(ResultError) as refusal:
        tuned.load(table, MACHINE)
    assert sentence in str(refusal.value)


def test_a_table_that_is_a_pipe_is_refused(tmp_path):
    """The ranks would wait for a writer until the watchdog ends them."""
    os.mkfifo(tmp_path / "table.json")
    with pytest.raises(ResultError, match="it is not an ordinary file"):
        tuned.load(tmp_path / "table.json", MACHINE)


def test_this_machines_table_is_used_only_by_the_code_that_made_it(tmp_path, monkeypatch):
    """A table of another checkout was used silently: it chose up to 1.35 times slower than the
    best."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    own, path = program_digest(*MEASURED), tuned.default_path(MACHINE)
    choice, other = tuned_to("ring"), "0.1.0 (0000000)"
    assert tuned.find(None, MACHINE) == (None, "")

    def found(name, program):
        tuned.add(path, MACHINE, "2026-tune", [choice], program)
        table, sentence = tuned.find(name, MACHINE)
        return table and table.picks, sentence

    made = "the table that bench.tune made in 2026-tune with"
    assert found(None, own) == ([choice], f"auto uses {made} Wiretax {own}.")
    unused = (
        f"auto uses its defaults: this code is {own}, and {made} Wiretax {other}. "
        "Run python -m bench.tune for a new one."
    )
    assert found(None, other) == (None, unused)
    used = f"auto uses {made} Wiretax {other}; this code is {own}."
    assert found(str(path), other) == ([choice], used)
    # An older version knew algorithms that are gone.
    path.write_text(json.dumps(TABLE | {"picks": [PICK | {"algorithm": "three_shot"}]}))
    assert tuned.find(None, MACHINE)[0] is None


def test_the_program_of_a_table_depends_on_kernels_and_collectives_alone():
    assert program_digest("collectives", "kernels") == program_digest("kernels", "collectives")
    assert program_digest("collectives") != program_digest("collectives", "kernels")


def test_a_run_with_a_refused_table_prints_one_sentence_and_measures_nothing(tmp_path):
    done = launch(tmp_path / "out", "--sizes 16K --tuned", tmp_path / "table.json")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)
    assert "table.json cannot be read: No such file or directory" in done.stderr
    assert list((tmp_path / "out").iterdir()) == []
