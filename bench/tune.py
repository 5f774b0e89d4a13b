"""Finds, on this machine, what `auto` should run: for each size and each state of the link the best algorithm, and how
it is built and cut. `mpirun -n 2 python -m bench.tune`

Successive halving (Jamieson and Talwalkar, AISTATS 2016): all that is worth trying is measured for a few rounds in
random order, the better half of it goes on, and so on, so that most of the time goes to what is hard to tell apart. A
state of the link that comes up later has a search of its own, from all candidates on.
"""

import signal
import time

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while imports go on there is nothing to keep, nor to say

from argparse import Namespace
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.harness import options as cli
from bench.harness import picks
from bench.harness.head import Machine
from bench.harness.plan import Prepared, prepare_collective
from bench.harness.run import Manner, Session
from bench.harness.timing import Bench
from collectives.allreduce_two_shot_quantized import QUANTIZED
from collectives.collective import COLLECTIVES, DATATYPES
from collectives.communicator import launched_rank
from collectives.operation import Pick
from reports.case import find_states
from reports.result import Result
from reports.tune import FINALISTS, costs_of, winners

ABOUT = "Finds what auto should run on this machine, by size and state of the link."
ROUNDS_A_HEAT = 3  # before the worse half goes
LAST_ROUNDS = 24  # for those that are left
CHUNKS = ("32K", "64K", "128K", "256K", "1M")  # and what the device has for itself
STORES = ("", "nt", "ntr", "nt+ntr")


def candidates(size_bytes: int, gpu: bool, lossy: bool = False) -> Iterator[str]:
    """What is worth trying at a size. Where a message is in cache, the reader of a result that went around the caches
    pays more than its writer has saved; a chunk has to be shorter than the message."""
    stores = STORES if size_bytes >= 1 << 20 else STORES[:2]
    chunks = [chunk for chunk in CHUNKS if cli.size_bytes(chunk) < size_bytes]
    grids = ("8b", "32b", "256t") if gpu else ()
    if size_bytes <= 32 << 10:
        yield "one_shot_ll"
    for algorithm, most, cuts in (("one_shot_push", 2 << 20, []), ("one_shot_pull", 2 << 20, []),
                                  ("two_shot", cli.MOST_BYTES, chunks), ("ring", cli.MOST_BYTES, chunks),
                                  *((one.name, cli.MOST_BYTES, chunks) for one in QUANTIZED if lossy)):
        if size_bytes <= most:
            for words in stores:
                for more in ("", *cuts, *grids):
                    yield "+".join(word for word in (algorithm, words, more) if word)


def parse(argv: Sequence[str] | None = None) -> Namespace:
    """The options, or the end of the process with status 2 and one sentence."""
    p = cli.parser_of_ranks(
        "tune", ABOUT,
        "example:\n  mpirun -n 2 python -m bench.tune --max-time 300\n\nexit status:\n  0 fine; 1 a result was "
        "wrong or a rank was lost; 2 the command line;\n  3 this machine cannot run that; 130 interrupted: auto gets "
        "nothing of it")
    what, how, where = (p.add_argument_group(title).add_argument for title in ("what", "how", "output"))
    cli.size_options(what, "32M", 2, "2")
    cli.lossy_option(what)
    cli.run_options(how, max_time_s=180.0)
    where("--table", default=None, metavar="FILE", help="keep what was found there (where auto looks for it)")
    cli.output_options(where)
    p.set_defaults(
        cudagraph=0, slowed_percent=None, list=False, check=1, warmup_iters=None, dispatch="native", iters=0,
        output_file=None, long=False, mpi_thread_level=None, tuned="none", format="table", lean=True,
        beside=None, collective=COLLECTIVES["all_reduce"], datatype="float32", op="sum", mode="as_used", in_place=False,
        arrival_skew=[0.0], sizes=None)
    options = p.parse_args(argv)
    if not DATATYPES[options.datatype].size_bytes <= options.minbytes <= options.maxbytes:
        p.error(f"there is no size of whole elements from {options.minbytes} B to {options.maxbytes} B")
    if launched_rank() is None:
        p.error("this is one process, and a collective needs ranks: mpirun -n 2 python -m bench.tune")
    options.sizes = cli.sizes_of(options)
    return options


def prepare(options: Namespace, bench: Bench) -> Prepared:
    """Every candidate at every size, without the link's parts: nothing here is held against a bound."""
    with bench.world.communicator.together(picks.NotOurs):  # not after all that was measured
        if not options.table:
            picks.default_folder()
    is_gpu = bench.world.device.name != "cpu"
    options.algorithm = {size: list(candidates(size, is_gpu, options.lossy is not None)) for size in options.sizes}
    planned, subjects, _ = prepare_collective(options, bench)
    for number, case in enumerate(planned):
        if case.snr_db and (worst := min(case.snr_db.values())) < options.lossy:
            case.status, case.reason = "unsupported", f"{worst} dB on its worst data, below --lossy {options.lossy:g}"
            subjects.pop(number, None)
    return planned, subjects, {}


def go_on(session: Session, active: list[int], rounds: int) -> list[int]:
    """The cases that have another round, on all ranks by rank 0's figures. Each state of the link has a search of its
    own, of which that of the state the last round was in goes on: what has not been seen in it thrice, and of each size
    and variant the best, fewer of them the longer it has held. The very best go on to the end of the time, on the watch
    for another state."""
    kept: set[int] = set()
    if session.file:
        states = find_states(session.blocks)
        last = [its for block, its in zip(session.blocks, states.of_block, strict=True) if block.round == rounds - 1]
        held = Counter(its for its in last if its is not None).most_common(1)
        now = held[0][0] if held else 0
        costs_us = costs_of(session.blocks, states).get(now, {})
        seen = Counter(block.case for block, its in zip(session.blocks, states.of_block, strict=True)
                       if its == now or states.longest is None)
        heats: dict[tuple[int, str, bool], list[int]] = {}
        for number in session.subjects:
            case = session.planned[number]
            heats.setdefault((case.size_bytes, case.variant, case.snr_db is not None), []).append(number)
        for heat in heats.values():
            places = max(FINALISTS, len(heat) >> (max(seen[number] for number in heat) // ROUNDS_A_HEAT))
            ranked = sorted((number for number in heat if number in costs_us), key=costs_us.__getitem__)
            kept |= {number for number in heat if seen[number] < ROUNDS_A_HEAT}
            kept |= {number for number in ranked[:places] if seen[number] < LAST_ROUNDS} or {*ranked[:1]}
    return list(session.bench.world.communicator.broadcast(sorted(kept)))


def conclude(result: Result, machine: Machine, options: Namespace) -> str:
    """Keeps what was found, also where time ran out over what is hard to tell apart. Raises OSError."""
    if result.end is None or result.end.reason == "interrupted" or result.end.n_wrong:
        return "table: none\n"
    found = [Pick("all_reduce", result.run.world["size"], w.size_bytes, w.variant, w.link_rtt_ns, w.name)
             for w in winners(result)]
    if not found:
        return "table: none, nothing was measured often enough; it needs more time (--max-time)\n"
    path = Path(options.table) if options.table else picks.default_path(machine)
    picks.add(path, machine, result.run.run_id, found, options.lossy is not None)
    return f"table: {path}\n"


if __name__ == "__main__":
    started_s = time.monotonic()
    from bench.harness.session import start

    start("tune", parse(), prepare, started_s, Manner(16, ROUNDS_A_HEAT, go_on, conclude))
