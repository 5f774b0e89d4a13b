"""Which published rows docs/answer.md holds beside each other, by question: pairs of arrangements
of one machine, model and engine."""

import re

from reports.references.pairs import PairRow, admitted, pairs
from reports.references.published import PublishedServing, select, serving

Row = PublishedServing | PairRow
Evidence = tuple[str, Row, Row]  # what differs, a row, and the row that differs from it so
PLX, SECOND_PLX, NIKO, B70 = (
    "bkvargyas/r9700-stack@1871b502",
    "bkvargyas/dual-r9700-vllm-proxmox@0e06010a",
    "NikoCloud/r9700-local-inference-notes",
    "hotschmoe/b70_ai_things",
)


def served(source: str, note: str = "", **values: object) -> PublishedServing:
    """The one row of this source whose note has this text and whose fields have these values."""
    rows = select(serving(), **{name: {value} for name, value in values.items()})
    (row,) = [row for row in rows if row.source.startswith(source) and note in row.note]
    return row


def of_pair(pair_id: str, *kinds: str, gpus: int) -> Evidence:
    """Two rows of pairs.csv by their kinds of split; the second has so many cards, and no part that
    another row of this kind lacks."""
    found = [
        (each.one, each.other)
        for each in admitted(pairs())
        if each.one.pair_id == pair_id
        and (each.one.kind, each.other.kind) == kinds
        and each.other.gpus == gpus
    ]
    one, other = min(found, key=lambda rows: len(rows[1].split.variant))
    before = "one card" if kinds[0] == "single" else "two by layer"
    return f"{before} to {'two' if gpus == 2 else gpus} by tensor", one, other


def in_note(row: PublishedServing, pattern: str) -> float:
    """A figure that stands in a row's note."""
    found = re.search(pattern, row.note)
    assert found, row
    return float(found[1])


def fits() -> list[Evidence]:
    xt = {"source": "cadamcat/dual-radeon-vllm", "engine": "vLLM"}
    kyuz0 = {"source": "kyuz0/amd-r9700-vllm-toolboxes@18a88f1", "statistic": "median"}
    niko = {"source": NIKO, "engine": "llama.cpp server"}
    depth = {"source": "daimonionnn", "engine": "llama.cpp"}
    tensor = [
        [served(**xt, model=model, split=split) for split in ("single", "tp2")]
        for model in ("Qwen3-8B", "gemma-4-12B")
    ]
    tensor += [
        [served(**kyuz0, model=model, engine=engine, split=split) for split in ("single", "tp2")]
        for model, engine in (
            ("Llama-3.1-8B", "vLLM, Triton attention"),
            ("Llama-3.1-8B", "vLLM, ROCm attention"),
            ("gemma-3-12B", "vLLM, ROCm attention"),
        )
    ]
    tensor += [
        [served(NIKO, engine="vLLM", split=split) for split in ("single", "tp2")],
        [served("ggml-org/llama.cpp#28863", "GB/s", split=split) for split in ("single", "tensor")],
        [served(B70, streams=1, weights="W4A8", split=split) for split in ("single", "tp2")],
        [served("vllm-project/vllm#54766", split=split) for split in ("single", "tp2")],
    ]
    layer = [
        [served(**rows, split=split) for split in ("single", "layer")] for rows in (niko, depth)
    ]
    return [
        *(("one card to two by tensor", one, two) for one, two in tensor),
        of_pair("H104a", "single", "tensor", gpus=2),
        *(("one card to two by layer", one, two) for one, two in layer),
    ]


def does_not_fit() -> list[Evidence]:
    found = [
        {"source": "sudoingX/qwen38-mtp", "gpu": "RTX 5060 Ti"},
        {"source": "stew675/llama-cpp-rdna-boosts#27"},
        {"source": "ggml-org/llama.cpp#25051", "gpu": "RX 7900 XTX"},
        {"source": "cadamcat/dual-radeon-vllm@c12d4002", "context_tokens": 0},
        {"source": "cadamcat/dual-radeon-vllm@c12d4002", "context_tokens": 8192},
    ]
    rows = [[served(**row, split=split) for split in ("layer", "tensor")] for row in found]
    rows.append([served(B70, weights="int4 AutoRound", split=split) for split in ("pp2", "tp2")])
    return [("two by layer to by tensor", *both) for both in rows]


def many_streams() -> list[Evidence]:
    eight = [served(B70, streams=8, split=split) for split in ("single", "tp2")]
    ways = [
        (f"one card to {way_of(each.other)}", each.one, each.other)
        for each in admitted(pairs())
        if (each.one.pair_id, each.one.kind) == ("H120b", "single")
    ]
    return [*ways, ("one card to two by tensor", *eight)]


def way_of(row: PairRow) -> str:
    """`4 copies`, `2 copies of 2 by tensor`, `2 by tensor`."""
    split = row.split
    copies = f"{split.replicas} copies" if split.replicas > 1 else ""
    tensor = f"{split.tensor} by tensor" if split.tensor > 1 else ""
    return " of ".join(filter(None, [copies, tensor]))


def experts() -> list[Evidence]:
    coder = {"source": "kyuz0/amd-r9700-vllm-toolboxes", "model": "Qwen3-Coder-30B-A3B"}
    return [
        (
            "one card to two by tensor",
            served(**coder, split="single"),
            served(**coder, split="tp2"),
        ),
        *(of_pair(name, "layer", "tensor", gpus=2) for name in ("H06", "H08")),
    ]


def drafted() -> list[Evidence]:
    stack = {"source": PLX, "streams": 1}
    second = {"source": SECOND_PLX, "streams": 1, "context_tokens": 500}
    rccl = served(**stack, note="all-reduce by RCCL")
    return [
        ("RCCL to own exact kernel", rccl, served(**stack, note="own exact r9k kernel")),
        ("RCCL to libr4d, 6 bits if large", rccl, served(**stack, note="LOSSY 6-bit")),
        (
            "P2P off, RCCL to on, libr4d",
            served(**second, peer_access="off"),
            served(**second, peer_access="on"),
        ),
    ]


def peers() -> list[Evidence]:
    phase = {"source": "VectorAnvil/apex-r9700"}
    kernel = {"source": "vllm-project/vllm-xpu-kernels#570"}
    four = {"source": "local-inference-lab/rtx6kpro", "gpus": 4}
    patched = {"source": "noonghunna/club-3090#873"}
    moved = [
        (f"P2P off to on, {each.other.streams} streams", each.one, each.other)
        for each in admitted(pairs())
        if each.axis == "transport" and each.other.gpu == "R9700" and each.other.gpus == 2
    ]
    return [
        ("through the host to P2P", served(**phase, note="stock"), served(**phase, note="only")),
        *((name.replace("1 streams", "1 stream"), one, other) for name, one, other in moved),
        (
            "P2P off, NCCL to on, vLLM's kernel",
            served(**patched, peer_access="off"),
            served(**patched, peer_access="on"),
        ),
        (
            "oneCCL to own kernel",
            served(**kernel, all_reduce="oneccl"),
            served(**kernel, note="own kernel"),
        ),
        (
            "NCCL to PCIe one-shot, four cards",
            served(**four, all_reduce="nccl"),
            served(**four, all_reduce="PCIe one-shot"),
        ),
    ]


def gain(before: Row, after: Row) -> float:
    """How many times as fast the second row decodes, by tokens/s or by the time of a token."""
    if before.decode_tok_s and after.decode_tok_s:
        return after.decode_tok_s / before.decode_tok_s
    assert isinstance(before, PublishedServing)
    assert isinstance(after, PublishedServing)
    return (before.tpot_ms or 0) / (after.tpot_ms or 1)
