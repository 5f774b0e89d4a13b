"""The HTML page of a record of bench.bits and of its verdict."""

import shlex
from collections.abc import Mapping, Sequence

from reports.kit.chart import heat
from reports.kit.page import Banner, Page, Row, Section
from reports.tables.bits_shares import changes, share_of, steady_in
from reports.tables.bits_table import HEAD, groups_of, headline, moved_in, sentences_of, texts_of
from reports.tables.layer_bits_table import (
    LAYERS_HEAD,
    causes_of_layers,
    orders_of_layers,
    rows_of_layers,
)
from reports.tables.sentences import capitalised
from reports.verdicts.bits_checks import Check
from reports.verdicts.layer_checks import findings_of
from wiretax.common.program import REPORTS, RUN, on_ranks
from wiretax.record.bits_record import (
    INVARIANCES,
    Bits,
    Difference,
    LayerBits,
    RowBits,
    SubjectBits,
)

ACCEPT = f'{RUN}{REPORTS} accept --baseline BASELINES --current RECORD --reason "..."'


def page_of(
    record: Bits,
    line: str,
    checks: Sequence[Check],
    notes: Sequence[str],
    baseline: Bits | None,
) -> Page:
    """The verdict; what to do next, which is to keep these bits, or after a failure to repeat the
    record, also if another version is why; what failed; and the rows in groups."""
    failed = findings_of([check for check in checks if check.failed])
    command = f"{on_ranks(record.ranks, 'bits')} {shlex.join(record.argv)}".rstrip()
    todo, to_type = "Keep these bits, to tell when they change:", ACCEPT
    if failed:
        todo, to_type = "Repeat the record, to see if it is chance:", command
        if baseline and baseline.version != record.version:
            todo = f"Wiretax changed from {baseline.version} to {record.version}. {todo}"

    rows, layers = record.measured, record.measured_layers
    moved = [*moved_in(rows), *(layer for layer in layers if changes(layer))]
    word, _, sentence = line.partition(": ")
    if not checks and moved:
        word = f"{len(moved)} of {len(rows) + len(layers)} rows change their bits"
    elif not checks:
        word = "The same bits"
    compared_in = {name for row in record.every_row for name in row.differences}
    role = "steady"
    if failed:
        role = "worse"
    elif checks:
        role = "better"
    sections = [
        Section("What to do next", [todo], text=to_type),
        Section("What failed", failed),
        *([of_layers(layers)] if layers else []),
        *([of_rows(rows)] if rows else []),
        Section("In which order a layer's columns are added", orders_of_layers(layers)),
        Section("Notes", [*notes, *record.notes]),
        Section(
            "What was compared",
            [
                *(
                    f"{name}: {text}{'' if name in compared_in else ' (not compared)'}"
                    for name, text in INVARIANCES.items()
                ),
                *record.reasons,
            ],
        ),
    ]
    facts = [f"{headline(record)}."] if checks else []
    if baseline:
        facts.append(f"Baseline: {baseline.run_id}, Wiretax {baseline.version}.")
    if moved:  # of which the headline names the first
        facts.append(f"Changed: {', '.join(dict.fromkeys(row.label for row in moved))}.")
    facts.append(f"{record.run_id}, Wiretax {record.version}, machine {record.machine_id}.")
    banner = Banner(word, f"{sentence}.", facts, role)
    return Page(line, banner, sections, {"command": command})


def of_rows(rows: Sequence[RowBits]) -> Section:
    """The rows of a collective, those of equal bits together."""
    groups = groups_of(rows)
    pictures = [
        heated(texts, row.differences)
        for texts, (row, *_) in zip(texts_of(groups), groups, strict=True)
    ]
    heading = "What changes the bits: rows of equal bits together"
    return Section(heading, [*head_of(HEAD, rows), *sentences_of(groups)], rows=pictures)


def of_layers(layers: Sequence[LayerBits]) -> Section:
    """The layers at each number of ranks, those of equal outcome together."""
    return Section(
        "Layers by the number of ranks: rows of equal outcome together",
        [*head_of(LAYERS_HEAD, layers), *causes_of_layers(layers)],
        rows=[heated(row.texts, row.compared) for row in rows_of_layers(layers)],
    )


def head_of(head: str, rows: Sequence[SubjectBits]) -> list[str]:
    same = ", ".join(steady_in(rows)) or "-"
    return [f"Same in every row: {same}.", f"{capitalised(head)}."]


def heated(texts: dict[str, str], compared: Mapping[str, Sequence[Difference]]) -> Row:
    """The texts, those of shares on the colour of a heat map."""
    shares = {name: each for name, each in compared.items() if name in texts and each}
    return texts | {name: heat(share_of(each), texts[name], 1) for name, each in shares.items()}
