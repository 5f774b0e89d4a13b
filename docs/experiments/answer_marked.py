"""The sentences of README.md and of docs/gpu.md that say what is measured between GPUs: each stands
between two marks, and `make figures` writes it anew from the tables."""

import re
import textwrap
from pathlib import Path

import answer_page
from answer_measured import boards, call_sentence, verdict
from drawing import HERE

from reports.advice.even_calls import TOKEN_BYTES
from reports.advice.specs import sheet_of
from reports.references.published import PublishedCall, calls
from reports.tables.sentences import some

ROOT = HERE.parents[1]
PAGES = ROOT / "README.md", ROOT / "docs" / "gpu.md"
QUESTION = "**Does tensor parallelism pay on two R9700s over PCIe?** "
OTHER_CASES = (
    "Many users and long prompts are other cases ([the answer by case](docs/answer.md), with its "
    "counter-examples)."
)
ARCHIVES = "references.md#from-owners-archives"


def wires() -> list[PublishedCall]:
    """What owners' archives have of several GPUs of one host."""
    return [call for call in calls() if call.archive and call.gpus > 1 and call.hosts == 1]


def answer() -> str:
    """README's sentence on two R9700s: their calls, or those of other cards."""
    if measured := boards(TOKEN_BYTES):
        token = measured[0]
        decided = verdict(token).replace("**", "")
        return f"{QUESTION}As far as calls tell, {decided} {call_sentence(token)} {OTHER_CASES}"
    figures = answer_page.wire_alone()
    return (
        f"{QUESTION}For one chat, if the engine decodes from a graph: alone, the all-reduces of a "
        f"70B's token take {figures['cost']} of the {figures['gain']} that the split saves, and "
        f"more inside an engine. {OTHER_CASES}"
    )


def wire() -> str:
    if not wires():
        return "**No wire between two GPUs has been measured yet.**"
    return f"**Wires between GPUs: of [owners' archives](docs/{ARCHIVES}) alone.**"


def pairs() -> str:
    """Which GPUs ran together, as far as archives tell."""
    if not (sent := wires()):
        return "**No pair of GPUs, and no AMD GPU, has run anything yet.**"
    names = dict.fromkeys(f"{call.gpus}x {call.gpu}" for call in sent)
    said = f"By owners' archives {some([*names])} ran Wiretax"
    sheets = [sheet_of(call.gpu) for call in sent]
    has_amd = any(sheet and sheet.library == "rccl" for sheet in sheets)
    return f"{said}." if has_amd else f"{said}. **No AMD GPU has run anything yet.**"


SENTENCES = {"answer": answer, "wire": wire, "pairs": pairs}


def renewed(text: str) -> str:
    """The page with each marked sentence as it follows from the tables. A sentence whose mark has a
    line of its own is a paragraph."""

    def sentence(found: re.Match[str]) -> str:
        name, gap = found[1], found[2]
        said = SENTENCES[name]()
        if gap:
            fill = {"break_on_hyphens": False, "break_long_words": False}
            said = textwrap.fill(said, width=120, **fill)
        return f"<!-- {name} -->{gap}{said}{gap}<!-- end of {name} -->"

    names = "|".join(SENTENCES)
    pattern = rf"<!-- ({names}) -->(\n?).*?<!-- end of \1 -->"
    return re.sub(pattern, sentence, text, flags=re.DOTALL)


def write() -> None:
    for page in PAGES:
        page.write_text(renewed(page.read_text()))


def stale() -> list[Path]:
    """The pages whose sentences and the tables disagree."""
    return [page for page in PAGES if page.read_text() != renewed(page.read_text())]
