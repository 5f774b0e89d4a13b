"""Finds the best all-reduce for `auto` on this machine: `mpirun -n 2 python -m bench.tune`

For each size, variant and mode it finds the algorithm, and how to compile and cut it, by successive
halving (Jamieson and Talwalkar, AISTATS 2016): all candidates are measured for a few rounds in
random order, then the better half, and so on, until the best are hard to distinguish. The untuned
`auto` takes part until the end, and only a candidate that is clearly faster, in a second launch
too, replaces its choice. A row serves the state of the link that the run was in. With --stable the
rows are for `auto_stable` alone, beside those of `auto`. Over both kinds of GPU memory a row names
its own."""

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

from bench.harness import tuned
from bench.harness.console import CANNOT, FINE
from bench.harness.options import RunOptions, SizeOptions, add_run_options, rank_parser
from bench.harness.parser import changes_cases, changes_nothing, fill
from bench.harness.run import RunPolicy, measure
from bench.harness.session import MEASURED, program_digest, start
from bench.sweep import requested_sizes
from bench.tuning import search
from bench.tuning.audit import audited
from bench.tuning.winners import find_winners
from reports.tables.run_text import more_time
from reports.tables.sentences import counted, size_text, some
from wiretax.common.owners import make_private
from wiretax.common.program import on_ranks
from wiretax.record.blocks import same_state
from wiretax.record.result import ResultError
from wiretax.record.schema import Result, Winner

ABOUT = "Finds what auto should run on this machine, by size."


@dataclass(frozen=True)
class TuneOptions:
    """What a search tries: the sizes in bytes, and which algorithms."""

    sizes: tuple[int, ...]
    audit: bool = changes_nothing(
        ["--audit"],
        group="what",
        default=False,
        help="change no table: print how much longer auto takes than the best",
    )
    stable: bool = changes_cases(
        ["--stable"],
        default=False,
        help="tune auto_stable: try only what sums in rank order",
    )


def parse() -> tuple[RunOptions, TuneOptions]:
    """The options, or the end of the process with status 2."""
    example = f"{on_ranks(2, 'tune')} --max-time 300"
    parser = rank_parser("tune", ABOUT, example, "auto gets no table")
    parser.add(SizeOptions)
    parser.add(TuneOptions)
    add_run_options(parser, "graph", "graph_nodes", "max_time_s", "table", "samples")
    parser.set_defaults(stepfactor=4, max_time_s=180.0)
    namespace = parser.parse_args()
    sizes = requested_sizes(parser, fill(SizeOptions, namespace))
    parser.require_ranks()
    try:
        path = Path(namespace.table) if namespace.table else tuned.default_folder()
        if os.path.isfile(path) and os.path.getsize(path):
            tuned.read(path)  # no other file of the user is replaced
    except ResultError as error:
        parser.error(f"--table: {error}")
    run_options = fill(RunOptions, namespace, tuned=None if namespace.audit else "none")
    return run_options, fill(TuneOptions, namespace, sizes=sizes)


def store(
    table: str | None, program: str, sizes: tuple[int, ...], result: Result
) -> tuple[str, int]:
    """Stores the winners that the rounds decided, even if time ran out; the last lines of the
    output, which name the other sizes, and the exit status. Raises OSError."""
    if result.end is None or result.end.reason == "interrupted" or result.end.n_wrong:
        return "table: none\n", FINE
    settled = [each for each in result.winners if each.is_settled]
    # What `auto` chose in another state of the link, and a candidate beat, it would not choose now.
    run, rtt_ns = result.run, result.counted.rtt_ns
    is_for_state = not run.clock_shared or bool(same_state(run.link["auto_rtt_ns"], rtt_ns))
    rows = [search.row_of(result, each) for each in settled if each.is_confirmed or is_for_state]
    decided = {each.size_bytes for each in settled}
    decided -= {each.size_bytes for each in result.winners if not each.is_settled}
    open_ = [size_text(size) for size in sizes if size not in decided]
    left = f"INCOMPLETE: too few rounds at {some(open_)}{more_time(result)}\n" if open_ else ""
    if not rows:
        return f"{left}table: none\n", CANNOT
    path = tuned.path_of(table, run)
    if table is None:
        make_private(path.parent)
    head = tuned.Head(run.machine_id, run.software_id, run.run_id, program)
    tuned.add(path, head, rows)
    waiting = sum(not winner.is_confirmed for winner in result.winners)
    more = (
        f", {counted(waiting, 'candidate')} (?): run the command again to confirm"
        if waiting
        else ""
    )
    return f"{left}table: {path}{more}\n", FINE


def main() -> NoReturn:
    """The search, from its command line to its exit status."""
    run_options, options = parse()
    table = run_options.table
    program = program_digest(*MEASURED)  # of the code that is measured: it may change meanwhile

    def conclude(result: Result) -> tuple[str, int]:
        if options.audit:
            return audited(result), FINE
        return store(table, program, options.sizes, result)

    def winners(result: Result) -> list[Winner]:
        """By what an earlier launch found, too, unless only `auto` is audited."""
        if options.audit:
            return find_winners(result)
        rows = tuned.own_rows(tuned.path_of(table, result.run), result.run, program)
        return find_winners(result, search.found_before(result, rows))

    policy = RunPolicy(go_on=search.go_on, conclude=conclude, find_winners=winners)
    suite = partial(search.prepare, options.sizes, options.stable)
    start(run_options, lambda session: measure(session, suite, policy))


if __name__ == "__main__":
    main()
