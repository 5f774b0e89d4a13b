"""Writes runs of overlapped compute and communication, of whole steps, and of links, with known
figures through the real store."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.reports.synthetic_run import head_of, without_fsync
from wiretax.record.case import COMPUTE
from wiretax.record.result import read
from wiretax.record.schema import Block, CaseHeader, End
from wiretax.record.writing import RunFile

FAST_NS, SLOW_NS = (105.0, 105.0), (540.0, 540.0)
LAYER = {
    "model": "llama-3.1-70b",
    "layer": "attention_output",
    "tokens": 1,
    "hidden": 8192,
    "inner": 64,
    "weights": "float16",
    "scale": "1/64",
}
STEP = {
    "model": "llama-3.1-8b",
    "layers": 32,
    "hidden": 4096,
    "inner": [64, 128],
    "weights": "float16",
    "scale": "1/64",
    "slots": 2,
}
THEN, MPI, FUSED = "then_one_shot_pull", "then_library", "fused"


@dataclass
class Made:
    """Writes a run. `costs[name](round)` is a form's time in a round in microseconds, or None; a
    name may end with a variant."""

    folder: Path
    benchmark: str = "gemv_allreduce"
    shape: dict = field(default_factory=lambda: LAYER)
    rounds: int = 12
    trips: Callable = lambda turn: FAST_NS
    devices: list | None = None
    chosen: dict = field(default_factory=dict)
    wrong: dict = field(default_factory=dict)
    waits: dict = field(default_factory=dict)  # by form, what its cost has beside its time

    @without_fsync
    def run(self, costs, finish=True):
        cases = [self.planned(name) for name in costs]
        head = head_of(cases, benchmark=self.benchmark)
        head.world["ranks"] = self.devices or head.world["ranks"]
        file = RunFile.create(self.folder, head)
        for turn in range(self.rounds):
            for number, (name, cost) in enumerate(costs.items()):
                if (total_us := cost(turn)) is not None:
                    block = Block(
                        case=number,
                        block=turn,
                        round=turn,
                        n=20,
                        time_us=total_us,
                        total_us=total_us + self.waits.get(name, 0.0),
                        link_rtt_ns=self.trips(turn),
                        n_wrong=None if name == COMPUTE else self.wrong.get(name, 0),
                    )
                    file.append(block)
        end = End(status="complete", elapsed_s=2.0)
        return file.finish({}, end) if finish else read(file.path)

    def planned(self, name):
        algorithm, _, variant = name.partition(" ")
        return CaseHeader(
            collective=self.benchmark,
            shape=self.shape,
            size_bytes=32768,
            count=8192,
            datatype="float32",
            redop="sum",
            algorithm=algorithm,
            variant=variant or "copied",
            chosen=self.chosen.get(name),
            library="MPICH 5.0.2" if "library" in name else None,
        )


def always(cost):
    return lambda turn: cost


def layer(folder, **costs_us):
    """A run of a fused product of 11 us and of an unfused one of 15 us; the compute alone takes 10
    us."""
    forms = {COMPUTE: 10.0, FUSED: 11.0, THEN: 15.0} | costs_us
    return Made(folder).run({name: always(us) for name, us in forms.items()})


def steps(folder, compute_ms, tensor_ms, pipeline_ms, sequence_ms=None, **words_of_run):
    ways = {
        COMPUTE: compute_ms,
        "tensor_parallel": tensor_ms,
        "tensor_parallel_library": 2 * tensor_ms,
        "pipeline_parallel": pipeline_ms,
        "one_rank": 30.0,
    }
    if sequence_ms:
        ways["sequence_parallel"] = sequence_ms
    chosen = {"tensor_parallel": "gemv_allreduce"}
    made = Made(folder, benchmark="decode", shape=STEP, chosen=chosen, **words_of_run)
    return made.run({name: always(1e3 * ms) for name, ms in ways.items()})
