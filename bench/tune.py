"""Finds the best all-reduce for `auto` on this machine: `mpirun -n 2 python -m bench.tune`

For each size, mode and state of the link it finds the algorithm, and how to compile and cut it, by
successive halving (Jamieson and Talwalkar, AISTATS 2016): all candidates are measured for a few
rounds in random order, then the better half, and so on, until the best are hard to distinguish.
A state of the link that appears later gets its own search. The untuned `auto` takes part until the
end, and only a candidate that is clearly faster replaces its choice."""

from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median, mode
from typing import NoReturn

from bench.harness import options, tuned
from bench.harness.command import requested_sizes
from bench.harness.head import Machine
from bench.harness.options import RunOptions
from bench.harness.run import Run, RunPolicy, measure
from bench.harness.session import MEASURED, Session, program_digest, start
from bench.harness.suite import Suite
from bench.harness.suite import prepare as prepare_sweep
from bench.harness.sweep import SweepOptions
from collectives.algorithm import BETWEEN_HOSTS
from collectives.allreduce_copy_engine import LEAST_BYTES
from collectives.allreduce_multimem import ENTRIES as MULTIMEM
from collectives.allreduce_two_shot import DIRECT
from collectives.collective import COLLECTIVES
from collectives.operation import TunedChoice
from reports.store.case import costs_in, find_states
from reports.store.result import ResultError
from reports.store.schema import Result
from reports.tables.tune import FINALISTS, UNTUNED, chosen_in, winners

ABOUT = "Finds what auto should run on this machine, by size and state of the link."
ROUNDS_A_HEAT = 3  # before the worse half leaves
LAST_ROUNDS = 24  # for the finalists
CHUNKS = ("32K", "64K", "128K", "256K", "1M")  # besides the device's own
FAR_CHUNKS = ("256K", "1M", "2M", "4M")  # of a GPU: each costs a flag across the link
STORES: tuple[str, ...] = ("", "nt", "ntr", "nt+ntr")


def candidates(size_bytes: int, far_peers: bool, memory: str = "mapped") -> Iterator[str]:
    """The builds that are worth a trial at a size over this kind of memory."""
    # Small results stay in cache: a reader of stores around the caches loses more than the writer
    # gains. A chunk must be shorter than the message.
    stores = STORES if size_bytes >= 1 << 20 else STORES[:2]
    chunks = [
        chunk
        for chunk in (FAR_CHUNKS if far_peers else CHUNKS)
        if options.size_bytes(chunk) < size_bytes
    ]
    grids = ["8b", "32b", "256t"] if far_peers else []
    if memory == "host_staged":  # a GPU caches no stores to it, and each block polls over PCIe
        stores, grids = STORES[:1], ["2b", *grids]
    if size_bytes <= 32 << 10:
        yield "one_shot_ll"
    if size_bytes <= 64 << 10:
        yield "one_shot_sentinel"
    searched = [("two_shot", chunks), ("ring", chunks), (DIRECT.name, [])]
    if far_peers:
        searched = [("two_shot_push", chunks), *searched]
    if size_bytes <= 2 << 20:
        searched = [("one_shot_push", []), ("one_shot_pull", []), *searched]
    for algorithm, cuts in searched:
        # Direct sums gain from stores around the caches also at small sizes.
        own_stores = STORES if algorithm == DIRECT.name and len(stores) > 1 else stores
        for store, cut in product(own_stores, ("", *cuts, *grids)):
            yield "+".join(filter(None, (algorithm, store, cut)))
        if far_peers and algorithm != DIRECT.name:  # on CPUs every build swaps
            yield f"{algorithm}+swap"
        # Between cores that share no cache, a copy into lines that change hands pays off.
        if not far_peers and algorithm not in ("ring", DIRECT.name) and size_bytes <= 4 << 20:
            yield f"{algorithm}+slabs"
    if far_peers and memory == "mapped":
        yield from MULTIMEM if size_bytes <= 2 << 20 else MULTIMEM[1:]
    if far_peers and size_bytes >= LEAST_BYTES:
        for algorithm in ("two_shot_copy_engine", "ring_copy_engine"):
            yield algorithm
            if size_bytes >= 8 * LEAST_BYTES:  # a quarter of a segment of two ranks is this long
                yield f"{algorithm}+1M"


def parse() -> tuple[RunOptions, tuple[int, ...]]:
    """The options and the sizes to search, or the end of the process with status 2."""
    parser, what, how, output = options.rank_parser(
        "tune", ABOUT, "mpirun -n 2 python -m bench.tune --max-time 300", "auto gets no table"
    )
    options.add_sizes(what, "32M", 2, "2")
    options.add_run_options(how, max_time_s=180.0)
    output("--table", metavar="FILE", help="file for the table (where auto looks for it)")
    options.add_output(output)
    parser.set_defaults(sizes=None, datatypes=["float32"])
    namespace = parser.parse_args()
    sizes = requested_sizes(parser, namespace)
    parser.require_ranks()
    return options.run_options(namespace, lean=True), sizes


def prepare(sizes: tuple[int, ...], session: Session) -> Suite:
    """Every candidate at every size, without the parts of a bound. Raises Refusal."""
    with session.communicator.all_or_none(ResultError):  # before anything is measured
        if not session.options.table:
            tuned.default_folder()
    far_peers = not session.world.device.is_cpu
    sweep = SweepOptions(COLLECTIVES["all_reduce"], ["float32"], ["sum"], sizes)
    memory = session.world.memory
    between = [algorithm.name for algorithm in BETWEEN_HOSTS["all_reduce"]]
    suite = prepare_sweep(
        sweep,
        session,
        lambda size: [
            UNTUNED,
            *(between if session.world.node else candidates(size, far_peers, memory)),
        ],
    )
    suite.link_parts.clear()
    return suite


def go_on(run: Run, active: list[int], rounds: int) -> list[int]:
    """The cases that have another round, by rank 0's figures. Cases of one size, variant and mode
    compete in a search for each state of the link; the state of the last round continues its own.
    A candidate that the untuned `auto` also runs does not go on."""
    chosen: set[int] = set()
    if run.file:
        states = find_states(run.blocks)
        last_states = [
            state
            for block, state in zip(run.blocks, states.of_block, strict=True)
            if block.round == rounds - 1 and state is not None
        ]
        state = mode(last_states or [states.longest])
        costs_us = costs_in(run.blocks, states.of_block, state)
        builds = chosen_in(run.blocks, states.of_block, state)
        heats: dict[tuple[int, str, str], dict[int, list[float]]] = {}
        untuned: dict[tuple[int, str, str], int] = {}
        for number in run.suite.iterations:
            header = run.suite.headers[number]
            key = header.size_bytes, header.variant, header.mode
            if header.algorithm == UNTUNED:
                untuned[key] = number
            heats.setdefault(key, {})[number] = [*costs_us.get(number, {}).values()]
        for key, number in untuned.items():
            name = builds.get(number, run.suite.headers[number].chosen)
            heats[key] = {
                other: costs
                for other, costs in heats[key].items()
                if run.suite.headers[other].algorithm != name
            }
        chosen = set().union(*(survivors(heat, untuned.get(key)) for key, heat in heats.items()))
    return list(run.session.communicator.broadcast(sorted(chosen)))


def survivors(costs_us: dict[int, list[float]], untuned: int | None = None) -> set[int]:
    """The cases of a heat that have another round, by the costs of their blocks in one state of the
    link: cases with fewer than three blocks, and the best, fewer the longer the state has lasted.
    The finalists stay until the end, in case another state appears; so does `untuned`."""
    halvings = max(map(len, costs_us.values())) // ROUNDS_A_HEAT
    places = max(FINALISTS, len(costs_us) >> halvings)
    ranked = sorted(filter(costs_us.get, costs_us), key=lambda number: median(costs_us[number]))
    newcomers = {number for number, costs in costs_us.items() if len(costs) < ROUNDS_A_HEAT}
    finalists = {*ranked[:places], *(number for number in ranked if number == untuned)}
    unsettled = {number for number in finalists if len(costs_us[number]) < LAST_ROUNDS}
    return newcomers | (unsettled or set(ranked[:1]))


def conclude(table: str | None, program: str, result: Result, machine: Machine) -> str:
    """Stores the winners, even if time ran out; the last line of the output. Raises OSError."""
    if result.end is None or result.end.reason == "interrupted" or result.end.n_wrong:
        return "table: none\n"
    ranks = result.run.world["size"]
    memory = result.cases[0].memory  # all are ours, over one kind of memory
    hosts = result.run.world["hosts"]
    two_modes = {case.size_bytes for case in result.cases if case.mode == "chained"}
    choices: dict[bool, list[TunedChoice]] = {True: [], False: []}
    for winner in winners(result):
        calls = winner.mode if winner.size_bytes in two_modes else "any"
        choices[winner.is_settled].append(
            TunedChoice(
                "all_reduce",
                ranks,
                winner.size_bytes,
                winner.variant,
                winner.link_rtt_ns,
                winner.name,
                memory,
                hosts,
                calls,
            )
        )
    if not any(choices.values()):
        return "table: none, no case was measured often enough; allow more time (--max-time)\n"
    path = Path(table) if table else tuned.default_path(machine)
    tuned.add(path, machine, result.run.run_id, choices[True], program, choices[False])
    return f"table: {path}\n"


def main() -> NoReturn:
    """The search, from its command line to its exit status."""
    run_options, sizes = parse()
    program = program_digest(*MEASURED)  # of the code that is measured: it may change meanwhile
    policy = RunPolicy(16, ROUNDS_A_HEAT, go_on, partial(conclude, run_options.table, program))
    start(run_options, lambda session: measure(session, partial(prepare, sizes), policy))


if __name__ == "__main__":
    main()
