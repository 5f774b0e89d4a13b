"""Tells whether the same input gives the same bits: `mpirun -n 4 python -m bench.bits`

Each algorithm gets the same data from call to call while ranks come late, as part of a longer
message, at other places and addresses, in place, in a chain, from a graph, after other
communicators, on other ranks, and on one rank fewer. The bits alone show the order of the sum, and
the sizes at which it changes."""

import sys
import time
from argparse import ArgumentTypeError, Namespace
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial
from itertools import product
from pathlib import Path
from typing import NoReturn

import msgspec

from bench import STARTED_S
from bench.features.contenders import Contenders
from bench.harness import head, options, tuned
from bench.harness.console import FINE, WRONG, print_out
from bench.harness.feature import add_features, requested
from bench.harness.iteration import allocated
from bench.harness.options import RunOptions, SizeOptions, SweepOptions
from bench.harness.parser import CASES, Option, Parser, fill, listed, name_among, size_bytes
from bench.harness.session import MEASURED, Session, program_digest, require_memory, start
from bench.harness.suite import of_features, worlds_for
from bench.layers.forms import WIRE, LayerOptions
from bench.machine.environment import scrub_argv
from bench.stability.layer_data import LAYER_DATA, Layer, layers_of
from bench.stability.layer_measure import GEMV, measure_layers
from bench.stability.measure import measure_row
from bench.stability.subject import (
    COMPUTES,
    FUSED_FORMS,
    LEAST_BYTES,
    MARGIN_BYTES,
    Compute,
    Subject,
)
from bench.stability.sums import DATA, MANTISSA_BITS
from bench.stability.worlds import without_last
from bench.sweep import requested_sizes
from collectives.collective import COLLECTIVES, DATATYPE_ALIASES, DATATYPES
from collectives.communicator import Refusal
from collectives.layers.fused import COLLECTIVE
from collectives.layers.fused_forms import contender_forms
from collectives.registry import ALGORITHMS, by_default
from kernels.devices.device import DeviceError
from wiretax.common.launched import launched_ranks
from wiretax.common.program import on_ranks
from wiretax.record.bits_record import SUFFIX, TPS, Bits, LayerBits, RowBits, compare_launch
from wiretax.record.writing import write_whole

KNOWN = {
    **{name: ALGORITHMS[name] for name, each in COLLECTIVES.items() if each.reduces},
    **FUSED_FORMS,
}
SIZES = {"minbytes": "64", "maxbytes": "4M"}  # as a user types them
LAYER_TYPES = "float32", "float16"
MOST_BYTES = 64 << 20  # rank 0 draws the data of all ranks


def subjects(
    bits: SweepOptions, session: Session
) -> Iterator[tuple[Subject, Subject, Subject | None]]:
    """Each algorithm in each variant and datatype; the same with other buffers and another
    communicator; and the same between all ranks but the last, on these. Raises Refusal."""
    world, communicator, seed = session.world, session.communicator, session.options.seed
    collective, contenders = bits.collective.name, of_features(session)
    compute_over = COMPUTES.get(collective)
    # All that `auto` chooses among, or the named ones; and the contenders.
    usual = FUSED_FORMS[collective].values() if compute_over else by_default(collective, world)
    algorithms = [*(bits.algorithms or usual)]
    algorithms += contender_forms(collective, contenders) if compute_over else contenders
    room_bytes = max(LEAST_BYTES, *bits.sizes) + MARGIN_BYTES
    require_memory(session, 6 * room_bytes)
    session.flight.note("allocate", text=f"{room_bytes} B")
    other_library = world.library.among(communicator.among(range(communicator.size)))
    few = without_last(world)
    worlds = [world, world, few] if few else [world, world]
    with communicator.all_or_none(Refusal):
        buffers = [allocated(each, seed, room_bytes) for each in worlds]
    for name in bits.datatypes:
        datatype = DATATYPES[name]
        with communicator.all_or_none(DeviceError, MemoryError, Refusal):
            rooms = [
                [
                    (each, compute_over(over, each, datatype) if compute_over else Compute())
                    for each in pair
                ]
                for over, pair in zip(worlds, buffers, strict=True)
            ]
        for algorithm in algorithms:
            own, others, *fewer = [
                for_library if algorithm.is_library else ours for ours, for_library in rooms
            ]
            for over, variant in product(
                worlds_for(algorithm, world), algorithm.variants_in(world)
            ):
                subject = partial(
                    Subject,
                    session,
                    collective=bits.collective,
                    algorithm=algorithm,
                    variant=variant,
                    datatype=datatype,
                )
                yield (
                    subject(over, *own),
                    subject(replace(over, library=other_library), *others),
                    subject(few, *fewer[0]) if few and over is world else None,
                )


def compare_bits(bits: SweepOptions, layers: Sequence[Layer], session: Session) -> int:
    """Measures all rows, or all forms of these layers, compares with the newest launch of the same
    in the folder, and reports. Returns the exit status, the same on every rank. Raises Refusal,
    ResultError."""
    communicator, options = session.communicator, session.options
    session.flight.note("describe the machine", text="")
    machine = head.examine(session)
    tuned.use_table(session, machine)
    rows, of_layers = list[RowBits](), list[LayerBits]()
    if layers:
        of_layers = measure_layers(session, layers, bits.datatypes, bits.algorithms)
    else:
        rows = measured_rows(bits, session)
    session.flight.note("results", text="")
    has_failed = False
    if communicator.rank == 0:
        from reports.tables.bits_table import text  # not at the top: other ranks never print

        record = Bits(
            run_id=session.flight.folder.stem,
            version=program_digest(*MEASURED),
            argv=scrub_argv(sys.argv[1:]),
            collective=bits.collective.name,
            ranks=communicator.size,
            hosts=communicator.hosts,
            device=session.world.device.name,
            seed=options.seed,
            data=LAYER_DATA if layers else DATA,
            machine_id=machine.machine_id,
            software_id=machine.software_id,
            environment=machine.facts,
            rows=rows,
            layers=of_layers,
            notes=session.notes,
            elapsed_s=time.monotonic() - STARTED_S,
        )
        folder = Path(options.out)
        compare_launch(record, folder)
        path = folder / f"{record.run_id}{SUFFIX}"
        write_whole(path, msgspec.json.encode(record))
        print_out(f"{text(record)}bits: {path}\n")
        has_failed = bool(record.failed)
    return WRONG if communicator.broadcast(has_failed) else FINE


def measured_rows(bits: SweepOptions, session: Session) -> list[RowBits]:
    """The rows of the collective, but those that cannot run here. Raises Refusal."""
    if session.communicator.size == 2:
        session.notes.append("With two ranks a sum has one order: 0+1 is 1+0.")
    rows = [measure_row(*each, bits.sizes) for each in subjects(bits, session)]
    if not any(row.sizes for row in rows):
        raise Refusal(f"no bits can be compared: {rows[0].name}: {rows[0].reason}")
    lacking = [row for row in rows if not (row.sizes or row.library or bits.algorithms)]
    rows = [row for row in rows if row not in lacking]
    names = ", ".join(row.name for row in lacking)
    if lacking:
        session.notes.append(f"cannot run here, as --algorithm NAME explains: {names}")
    return rows


def rounding_type(text: str) -> str:
    """A datatype whose sums round in a way that is known."""
    name = name_among("datatype", list(DATATYPES), text, DATATYPE_ALIASES)
    if not DATATYPES[name].is_float:
        raise ArgumentTypeError(f"{name} adds exactly in any order: no bits can differ")
    return name_among("datatype", list(MANTISSA_BITS), name)


def requested_layers(parser: Parser, namespace: Namespace) -> list[Layer]:
    """The layers of --model, [] without it, and the options that go with it; or the end of the
    process with status 2 and one sentence."""
    model = namespace.model
    if not model:
        if namespace.scale:
            parser.error("--scale shrinks the layers of a model: add --model NAME")
        return []
    if namespace.collective not in (None, GEMV):
        parser.error(f"--model compares {GEMV}, not {namespace.collective}")
    if fill(SizeOptions, namespace) != SizeOptions(*map(size_bytes, SIZES.values())):
        parser.error("-b, -e and -f are for a collective: a layer has batches of 1 to 8 tokens")
    if "," in namespace.memory:
        parser.error("--model: a layer is measured over one kind of --memory at a time")
    namespace.collective, namespace.datatypes = GEMV, namespace.datatypes or [*LAYER_TYPES]
    for name in namespace.datatypes:
        if name not in WIRE:
            parser.error(f"--model: a layer has no form for {name}, but for {', '.join(WIRE)}")
    layers = [*layers_of(model, namespace.scale or Fraction(1))]
    ranks = launched_ranks() or 1
    reasons = [layer.reason_against(ranks) for layer in layers if ranks in TPS]
    if reason := next(filter(None, reasons), None):
        parser.error(f"{ranks} ranks cannot share {reason} alike")
    return layers


def main() -> NoReturn:
    """The command, from its command line to its exit status; 2 and one sentence for a mistake."""
    parser = options.rank_parser(
        "bits",
        "Tells what changes the bits of a sum, finds its order, and measures its error.",
        f"{on_ranks(4, 'bits')} -d half --algorithm two_shot,library",
        "nothing is kept",
    )
    types = Option(
        CASES,
        ["-d", "--datatype"],
        **listed(rounding_type),
        help="float, half, bfloat16 or double (float; with --model float,half)",
    )
    collectives = options.collective_option([*KNOWN])
    parser.add(SweepOptions, "algorithms", collective=collectives)
    parser.add(SizeOptions)
    parser.add_option("datatypes", types)
    parser.add(LayerOptions, "model", "scale")
    add_features(parser, [Contenders])
    options.add_run_options(parser)
    parser.set_defaults(collective=None, model=None, tuned=None, **SIZES)
    parser.set_help(
        collective=f"{', '.join(KNOWN)} (all_reduce)",
        algorithms="only these (all but lossy ones)",
        model="in place of a collective, the row-parallel layers of a model such as "
        "llama-3.1-8b, at 1, 2, 4 and 8 ranks",
        scale="with --model: shrink the matrices' columns, as 1/64 (1: all of them)",
    )
    namespace = parser.parse_args()
    layers = requested_layers(parser, namespace)
    collective = (COLLECTIVES | COLLECTIVE)[namespace.collective or "all_reduce"]
    datatypes = namespace.datatypes or ["float32"]
    sizes = requested_sizes(parser, fill(SizeOptions, namespace), datatypes)
    if max(sizes) > MOST_BYTES:
        parser.error(f"-e {namespace.maxbytes} is above the {MOST_BYTES >> 20}M that are compared")
    algorithms = options.named_algorithms(parser, KNOWN[collective.name], namespace.algorithms)
    parser.require_ranks()
    if launched_ranks() == 1 and not layers:
        parser.error(f"one rank adds nothing: {on_ranks(4, 'bits')}")
    bits = fill(
        SweepOptions,
        namespace,
        collective=collective,
        sizes=sizes,
        datatypes=datatypes,
        algorithms=algorithms,
    )
    run = fill(RunOptions, namespace, features=requested([Contenders], namespace))
    start(run, partial(compare_bits, bits, layers))


if __name__ == "__main__":
    main()
