"""`python -m tests.layer_bits_table` writes the table of layers in docs/experiments/bits.md from
the archived records."""

import tempfile
import textwrap
from functools import cache
from pathlib import Path

from reports.tables.bits_shares import changes, share_of
from reports.tables.layer_bits_table import compared_at
from reports.verdicts.bits_report import with_all_rows
from tests.launch import ROOT
from tests.marked_pages import markdown_table, with_part
from tests.reports.archived import unpack
from wiretax.common.grouped import grouped
from wiretax.record.bits_record import Bits, LayerBits, read_bits

ARCHIVE, PAGE = "layer-bits", ROOT / "docs/experiments/bits.md"
START, END = "<!-- layers: python -m tests.layer_bits_table -->\n", "<!-- end of layers -->\n"
LAYERS = "attention_output", "mlp_down"
TPS = 2, 4, 8
MOST_LETTERS = 76  # of an order
HEADS = [
    "form",
    "type",
    *(f"{layer} at TP 2, 4, 8" for layer in LAYERS),
    "in a batch",
    "cause",
    "order of mlp_down, one token",
]


@cache
def record() -> Bits:
    """The records of the archive as one."""
    with tempfile.TemporaryDirectory() as folder:
        unpacked = unpack(Path(folder), ARCHIVE, ".bits.json")
        return with_all_rows([read_bits(path) for path in sorted(unpacked.glob("*.bits.json"))])


def shares_text(layer: LayerBits) -> str:
    """`75, 78, 79 %` at TPS, or `same`."""
    shares = [share_of(compared_at(layer, tp)) for tp in TPS]
    if not any(shares):
        return "same"
    return ", ".join("<1" if 0 < share < 0.005 else f"{100 * share:.0f}" for share in shares) + " %"


def outcome_of(layers: list[LayerBits]) -> tuple[str, ...]:
    """What both layers of a form and a type say."""
    by_name = {layer.layer: layer for layer in layers}
    causes = dict.fromkeys(cause for layer in layers for tp in layer.tps for cause in tp.causes)
    orders = [by_name["mlp_down"].at[tp].orders.get("1", "-") for tp in (1, 4)]
    said = [textwrap.shorten(order, MOST_LETTERS, placeholder=" ...") for order in orders]
    return (
        *(shares_text(by_name[name]) for name in LAYERS),
        "other bits" if any("batch" in changes(layer) for layer in layers) else "same",
        ", ".join(causes) or "-",
        "; at TP 4: ".join(dict.fromkeys(said)),
    )


def table() -> str:
    forms = grouped(record().measured_layers, lambda layer: (layer.label, layer.datatype))
    by_outcome = grouped(forms, lambda form: outcome_of(forms[form]))
    rows = [
        [", ".join(dict.fromkeys(names)) for names in zip(*own, strict=True)] + [*outcome]
        for outcome, own in by_outcome.items()
    ]
    rows.sort(key=lambda row: row[2] != "same")
    return markdown_table(HEADS, rows)


def with_table(page: str) -> str:
    """The page with the table between its two marks."""
    return with_part(page, START, table(), END)


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text()))
