"""What nobody has measured, by the tables: each question of docs/answer.md stands until a row
answers it."""

import re

from answer_calls import sizes_text
from answer_measured import boards, of_r9700s
from answer_pairs import between, dense_70b
from answer_rows import range_text, served_text, source_text
from answer_text import sources

from reports.advice.even_calls import TOKEN_BYTES
from reports.references.published import PublishedCall, calls, select
from reports.tables.sentences import number, size_text
from wiretax.common.program import SEND_ARCHIVE

TEXT = """## What nobody has measured

{questions}

If you have two R9700s, `wiretax survey --quick` measures their calls in minutes, and `wiretax
survey` a decode step of the 70B's shapes too: [send its archive]({send}). A figure that contradicts
this page changes it ([how a row gets in](references.md#how-a-row-gets-in)).
"""
NONE_OPEN = "Nothing of what was asked here: all of it has an answer."
ANSWERED = "Asked here, and answered since:"


def text() -> str:
    found = questions()
    still = "\n".join(f"- {question}" for question, answer in found.items() if not answer)
    answered = [f"- {question} {answer}." for question, answer in found.items() if answer]
    parts = [still or NONE_OPEN]
    if answered:
        parts += [ANSWERED, "\n".join(answered)]
    return TEXT.format(questions="\n\n".join(parts), send=SEND_ARCHIVE)


def questions() -> dict[str, str]:
    """What was asked, and what the tables answer: nothing as long as nobody has measured it."""
    served = dense_70b()
    return {
        f"An all-reduce of {size_text(TOKEN_BYTES)} between two R9700s over PCIe.": of_token(),
        "An all-reduce of any size between two R9700s over PCIe 5 x16 with P2P.": of_calls(
            of_r9700s(fabric={"PCIe 5 x16"}, transport={"p2p"})
        ),
        "A dense 70B on two R9700s, split either way. Other dense models larger than one card are "
        "measured there [by layer](#does-not-fit-one-chat).": served and served_text(served),
        "The decode of one model split by tensor and by layer, in one engine, on two R9700s.": (
            of_splits()
        ),
        "A call between two cards of which one is behind the chipset.": of_calls(chipset_calls()),
    }


def of_token() -> str:
    return "; ".join(
        f"{each.times} over {each.board}, {each.modes} ({sources(each.rows)})"
        for each in boards(TOKEN_BYTES)
    )


def of_calls(rows: list[PublishedCall]) -> str:
    """`16 KiB to 32 MiB, up to 26.1 GB/s (archive 1a2b3c4d5e6f of NAME)`."""
    if not rows:
        return ""
    most = max(call.gb_s for call in rows)
    return f"{sizes_text(rows)}, up to {number(most)} GB/s ({sources(rows)})"


def of_splits() -> str:
    found = [
        pair
        for pair in between("layer", "tensor")
        if pair.other.gpu == "R9700" and pair.decode_gain
    ]
    return f"{range_text(found, 'by layer')}, {source_text(found[0])}" if found else ""


def chipset_calls() -> list[PublishedCall]:
    """All-reduces of two cards of which one has four lanes, as behind the chipset."""
    rows = select(calls(), gpus={2}, hosts={1}, collective={"all_reduce"})
    return [row for row in rows if re.search(r"PCIe \d x4\b", row.fabric) and row.size_bytes]
