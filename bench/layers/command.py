"""The commands of compute and communication together: their shared options, and their start."""

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any, NoReturn

from bench.harness import options
from bench.harness.options import AddOption, Parser, RunOptions, comma_separated, whole_number
from bench.harness.run import ROUNDS as LEAST_ROUNDS
from bench.harness.run import Run, RunPolicy, measure, unfinished
from bench.harness.session import Session, start
from bench.harness.suite import Suite
from collectives.collective import DATATYPE_ALIASES, DATATYPES
from collectives.communicator import Disagreement
from collectives.layers.fused import WEIGHTS
from collectives.layers.models import MODELS
from collectives.operation import Algorithm, Unsupported

CPU_SCALE = Fraction(1, 64)  # of a layer's columns, because a CPU computes slowly
MOST_TOKENS = 4096
# Many short blocks close in time, so that a disturbance hits both sides of a difference.
ROUNDS = 256


@dataclass(frozen=True)
class LayerOptions:
    """The cases of a run; a command fills the fields that it has options for.

    `scale` None: by the device. `algorithm` None: all forms that suit a size. `model` is empty if
    --hidden replaces it. `slots` are the chats of a decode step, `layers` the timed ones of a
    prefill.
    """

    datatype: str
    model: str
    scale: Fraction | None = None
    hidden: int = 0
    tokens: Sequence[int] = ()
    slots: Sequence[int] = ()
    layers: int = 0
    weights: str = "float16"
    output: str | None = None
    algorithm: Sequence[str] | None = None


def parser_for(command: str, about: str) -> tuple[Parser, AddOption]:
    """The parser of `python -m bench.<command>`, and its group for the command's own options."""
    example = f"mpirun -n 2 python -m bench.{command} --model llama-3.1-8b"
    parser = options.rank_parser(command, about, example, "the results so far are stored")
    return parser, parser.add_argument_group("what").add_argument


def scale(text: str) -> Fraction:
    """`1`, `1/64` or `0.25`."""
    is_number = re.fullmatch(r"\d{1,9}(/[1-9]\d{0,8}|\.\d{1,9})?", text)
    if not is_number or not 0 < Fraction(text) <= 1:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a fraction such as 1/64, above 0 and at most 1")
    return Fraction(text)


def add_model(add: AddOption, scaled: bool, default: str = "llama-3.1-70b") -> None:
    """--model, and --scale where the matrices are multiplied."""
    names = list(MODELS)
    add("--model", type=partial(options.name_among, "model", names), default=default,
        metavar="NAME", help=f"{', '.join(names[:-1])} or {names[-1]} ({default})")
    if scaled:
        add("--scale", type=scale, default=None, metavar="N",
            help="shrink the matrices' columns, but no message (1/64 on a CPU, 1 on a GPU)")


def add_wire(add: AddOption, default: str = "float") -> None:
    """-d."""
    names = [name for name, datatype in DATATYPES.items()
             if datatype.is_float and name != "float64"]
    add("-d", "--datatype", default=DATATYPE_ALIASES[default], metavar="TYPE",
        type=partial(options.name_among, "datatype", names, aliases=DATATYPE_ALIASES),
        help=f"on the wire: float, half or bfloat16 ({default})")


def add_weights(add: AddOption) -> None:
    """--weights."""
    add("--weights", default="float16", metavar="TYPE",
        type=partial(options.name_among, "type of weights", list(WEIGHTS),
                     aliases=DATATYPE_ALIASES),
        help="half, bfloat16 or int8 with a scale a row (half)")


def add_counts(add: AddOption, flag: str, most: int, default: str, text: str) -> None:
    """An option with several numbers, such as --tokens."""
    add(flag, type=partial(comma_separated, partial(whole_number, 1, most=most)), metavar="A,B",
        default=[int(number) for number in default.split(",")], help=f"{text} ({default})")


def add_algorithms(add: AddOption, forms: Mapping[str, Algorithm]) -> None:
    """--algorithm."""
    name = partial(options.algorithm_name, forms)
    add("--algorithm", type=partial(comma_separated, name), default=None, metavar="A,B",
        help="fused, then_library or then_ALGORITHM, next to compute (all that suit the size)")


def finish(parser: Parser, argv: Sequence[str] | None, max_time_s: float = 60.0,
           graph: int | None = 0, **more: Any) -> tuple[RunOptions, LayerOptions]:
    """Adds the options of every run, and parses; or ends the process with status 2 and one
    sentence. `more` are fields of the RunOptions."""
    add, add_to_output = (parser.add_argument_group(title).add_argument
                          for title in ("how", "output"))
    options.add_iterations(add, "as many as fit the time")
    text = "where the device has graphs" if graph is None else graph
    add("-G", "--cudagraph", type=partial(whole_number, 0), default=graph, metavar="N",
        help=f"launch from a graph, GPUs only ({text})")
    options.add_run_options(add, max_time_s)
    add_to_output("--format", choices=("table", "csv"), default="table", metavar="FORMAT",
                  help="table or csv (table)")
    add_to_output("--long", action="store_true", help="one table row for each form and variant")
    options.add_output(add_to_output)
    namespace = parser.parse_args(argv)
    parser.require_ranks()
    graphs = None if namespace.cudagraph is None else namespace.cudagraph > 0
    name = parser.prog.removeprefix("bench.")
    fields = {field: value for field, value in vars(namespace).items()
              if field in LayerOptions.__dataclass_fields__ and value is not None}
    return (options.run_options(name, namespace, graph=graphs, **more),
            LayerOptions(**fields))


def require_mapped(session: Session) -> None:
    """Raises Disagreement if the ranks cannot map each other's memory."""
    if isinstance(session.world.peers, Unsupported):
        raise Disagreement("a fused kernel needs its peers' memory, and "
                           f"{session.world.peers.reason}")


def scale_for(requested: Fraction | None, session: Session) -> Fraction:
    """The requested scale of the columns, or one that suits the device."""
    return requested or (CPU_SCALE if session.world.device.near_peers else Fraction(1))


def go_on(run: Run, active: list[int], rounds: int) -> list[int]:
    """All cases have as many rounds as fit the time, unless -n limits them: a difference of two
    times needs more rounds than either time."""
    if run.session.options.iterations:
        return unfinished(run, active, rounds)
    return active if rounds < ROUNDS else []


POLICY = RunPolicy(ROUNDS, LEAST_ROUNDS, go_on)


def run(parsed: tuple[RunOptions, LayerOptions], started_s: float,
        prepare: Callable[[LayerOptions, Session], Suite], policy: RunPolicy = POLICY) -> NoReturn:
    """Measures the suite that `prepare` builds, and exits."""
    run_options, layer_options = parsed
    start(run_options, started_s, lambda session: measure(
        session, partial(prepare, layer_options), policy))
