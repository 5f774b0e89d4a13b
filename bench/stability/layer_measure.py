"""Whether a row-parallel layer, its matrix product and its collective together, has the same bits
at any number of ranks and in any batch, and why not."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain

import numpy as np

from bench.harness.session import Session, require_memory
from bench.harness.suite import of_features
from bench.stability.layer_data import DISTINCT, TOKENS, Layer, Room, tokens_in, weights_for
from bench.stability.layer_orders import Key, Trees, add_orders
from bench.stability.subject import FUSED_FORMS, PLAIN, Subject
from bench.stability.sums import difference
from bench.stability.worlds import of_first, while_others_sleep
from collectives.collective import DATATYPES, Array
from collectives.communicator import Refusal
from collectives.layers.fused import COLLECTIVE
from collectives.layers.fused_forms import contender_forms
from collectives.operation import Algorithm, Unsupported, World
from kernels.devices.compilers import side_by_side
from wiretax.record.bits_record import TPS, BatchBits, Difference, LayerBits, SubjectBits, TpBits
from wiretax.record.case import FUSED, FUSED_STABLE, LIBRARY

GEMV = "gemv_allreduce"
USUAL = LIBRARY, "then_auto", FUSED, FUSED_STABLE


@dataclass
class Found:
    """What is known of each form, on rank 0. Others lack the numbers of ranks that they are not
    among. `results` of batches of tokens and `trees` are those of TP 1."""

    rows: dict[Key, LayerBits] = field(default_factory=dict)
    results: dict[tuple[Key, int], Array] = field(default_factory=dict)
    trees: dict[Key, Trees] = field(default_factory=dict)


def measure_layers(
    session: Session,
    layers: Sequence[Layer],
    datatypes: Sequence[str],
    algorithms: Sequence[Algorithm],
) -> list[LayerBits]:
    """Examines each layer in each datatype and form, by default the usual ones, and the contenders,
    at each of TPS that these ranks can form. All ranks call it; rank 0 gets the results. Raises
    Refusal."""
    _ = session.world.mapped  # refused here, before anything is allocated
    session.flight.note("map the peers")
    worlds, numbers = list[World | None](), list[int]()
    for ranks in [each for each in TPS if each <= session.world.ranks]:
        if reason := next(filter(None, (layer.reason_against(ranks) for layer in layers)), None):
            session.notes.append(f"{ranks} ranks cannot share {reason} alike")
        else:
            worlds.append(of_first(session.world, ranks))
            numbers.append(ranks)
    if session.world.ranks not in numbers:
        used = ", ".join(map(str, numbers))
        session.notes.append(f"of {session.world.ranks} ranks the first {used} are measured")
    found = Found()
    for layer in layers:
        matrix_bytes = 2 * layer.hidden * layer.inner + 8 * DISTINCT * layer.inner
        require_memory(session, matrix_bytes // session.world.ranks)
        for weights in dict.fromkeys(map(weights_for, datatypes)):
            own = [name for name in datatypes if weights_for(name) == weights]
            for world in worlds:
                work = partial(measure_tp, session, layer, own, algorithms, found)
                while_others_sleep(session, world, work)
    for row in found.rows.values():
        if not any(tp.batches for tp in row.tps):
            row.reason, row.tps = row.tps[0].reason, []
    nothing = None if any(row.tps for row in found.rows.values()) else [*found.rows.values()][:1]
    for row in session.communicator.broadcast(nothing) or []:
        raise Refusal(f"no bits can be compared: {row.algorithm}: {row.reason}")
    return [*found.rows.values()]


def measure_tp(
    session: Session,
    layer: Layer,
    datatypes: Sequence[str],
    algorithms: Sequence[Algorithm],
    found: Found,
    world: World,
) -> None:
    """Examines all forms of a layer between the ranks of `world`, which call it, and adds what is
    found. Raises Refusal."""
    notes = session.notes if world.ranks == session.world.ranks else []
    session = replace(session, world=world, notes=notes)  # said once
    flight = session.flight
    flight.note("allocate", text=f"{layer.name} TP {world.ranks}")
    room = Room(session, layer, weights_for(datatypes[0]))
    room.draw_weights()
    named = algorithms or [FUSED_FORMS[GEMV][name] for name in USUAL]
    forms = [*named, *contender_forms(GEMV, of_features(session))]
    subjects = [
        Subject(
            session,
            world,
            room.buffers[form.is_library],
            room.compute,
            COLLECTIVE[GEMV],
            form,
            variant,
            DATATYPES[name],
        )
        for name in datatypes
        for form in forms
        for variant in form.variants_in(world)
    ]
    with side_by_side(world.device):
        for subject in subjects:
            flight.note("compile", text=f"{layer.name} {subject.row().name} TP {world.ranks}")
            for batch in TOKENS:
                room.fill_activations(subject.datatype, batch)
                subject.bind(batch * layer.hidden, [PLAIN])
        with world.communicator.all_or_none():
            world.device.finish_builds()
    measured = list[tuple[Key, Subject, TpBits]]()
    for name in datatypes:
        exact = room.exact(DATATYPES[name])
        for subject in subjects:
            if subject.datatype.name == name:
                row = layer_row(subject, room)
                row = found.rows.setdefault(row.key, row)
                tp = measure_form(row, subject, room, exact, found)
                row.tps.append(tp)
                if tp.batches and not tp.reason:
                    measured.append((row.key, subject, tp))
    flight.note("bits", text=f"orders of {layer.name} TP {world.ranks}")
    add_orders(room, measured, found.trees)


def layer_row(subject: Subject, room: Room) -> LayerBits:
    """The row of a form, without numbers of ranks."""
    row, layer = subject.row(), room.layer
    shared = {name: getattr(row, name) for name in SubjectBits.__struct_fields__}
    return LayerBits(
        **shared,
        layer=layer.name,
        model=layer.model,
        hidden=layer.hidden,
        inner=layer.inner,
        weights=room.weight_type.name,
        tps=[],
    )


def measure_form(
    row: LayerBits, subject: Subject, room: Room, exact: tuple[Array, Array], found: Found
) -> TpBits:
    """Examines the form of a row for each batch of TOKENS that it can; `exact` are the sums that it
    must have, and what rounding may change them by. All ranks call it. Raises Refusal."""
    world, layer = subject.world, room.layer
    tp = TpBits(ranks=world.ranks, batches=[])
    text = f"{row.name} {row.datatype} TP {world.ranks}"
    shorter = list[Array]()
    for number, batch in enumerate(TOKENS):
        subject.session.flight.note("bits", text=f"{text}, {batch} tokens")
        subject.session.flight.progress.show("compare", text)
        operation = subject.bind(batch * layer.hidden, [PLAIN])
        if isinstance(operation, Unsupported):
            tp.reason = operation.reason
            continue
        room.fill_activations(subject.datatype, batch)
        plain = subject.performed(batch * layer.hidden).reshape(batch, -1)
        differ = partial(difference, datatype=subject.datatype, rounding=np.inf)
        compared = [
            (name, differ(got, expected))
            for name, got, expected in comparisons_of(subject, room, plain, shorter, number)
        ]
        shorter.append(plain)
        if world.ranks == 1:
            found.results[row.key, batch] = plain
        elif world.rank == 0 and (row.key, batch) in found.results:
            compared.append(("tp", differ(plain, found.results[row.key, batch])))
        sums, rounding = (each[tokens_in(batch)] for each in exact)
        expected = subject.datatype.encode(sums)
        wrong = difference(plain, expected, subject.datatype, rounding).wrong
        every = world.communicator.all_gather((compared, wrong, subject.failure()))
        all_compared, all_wrong, failures = zip(*every, strict=True)
        differences = dict[str, Difference]()
        for name, of_rank in chain(*all_compared):
            differences[name] = differences.get(name, Difference()) + of_rank
        result = BatchBits(
            tokens=batch,
            digest=hashlib.sha256(plain.tobytes()).hexdigest()[:16],  # rank 0 stores its own
            compared=differences,
            chosen=operation.choice,
        )
        tp.batches.append(result)
        if any(failures):  # a contender's failure stops loops
            tp.reason, world.watch.stop = next(filter(None, failures)), 0
            return tp
        if sum(all_wrong):
            elements = world.ranks * plain.size
            tp.reason = (
                f"its results are no sums ({sum(all_wrong):,} of {elements:,} elements for "
                f"{batch} tokens)"
            )
            return tp
    if tp.batches:
        tp.reason = None
    return tp


def comparisons_of(
    subject: Subject, room: Room, plain: Array, shorter: Sequence[Array], number: int
) -> Iterator[tuple[str, Array, Array]]:
    """What must be alike in a batch, whose results are `plain`, (tokens, hidden): of each its name,
    one of INVARIANCES, and both arrays. `shorter` are the results of batches of fewer tokens.
    `number` counts the batches. All ranks call it."""
    world, rows = subject.world, room.layer.rows
    # A batch of one is short. In longer ones the ranks come late in turn.
    late = [number % world.ranks] if number else [None, *range(world.ranks)]
    for rank in late:
        yield "run", subject.performed(plain.size, late=rank).reshape(plain.shape), plain
    yield "ranks", plain, world.communicator.broadcast(plain)
    yield "place", plain[:, rows:], plain[:, :-rows]
    if shorter:
        for token in (0, -1):
            yield "batch", plain[token], shorter[0][0]
        common = len(shorter[-1]) - 1  # the last token of a batch is the first one again
        if common > 1:
            yield "batch", plain[1:common], shorter[-1][1:common]
