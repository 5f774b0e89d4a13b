"""Writes docs/answer.md.

Every figure of the page is computed here from `reports/references`, the formulas of
`reports/advice` and the archived runs, so that none goes stale."""

import answer_boards
import answer_calls
import answer_cases
import answer_counter
import answer_measured
import answer_open
import answer_thresholds
from answer_text import first_rows, fold, sources
from drawing import HERE, path_of
from figures_answer import (
    CARD,
    OURS,
    advised,
    even_us,
    h100_us,
    is_setting,
    of_two,
    points,
    small_calls,
    step_ms,
)

from reports.advice.even_calls import CONTEXT, MODEL, TOKEN_BYTES, WEIGHTS, by_layer
from reports.advice.serving import break_even_us
from reports.advice.specs import GB, engine_calls
from reports.tables.sentences import number, size_text
from tests.references_page import span

PAGE = HERE.parent / "answer.md"
SHOWN = 6  # calls before a click
Q4_K_M_BITS = 4.8  # of Llama 2 70B: llama.cpp, tools/quantize/README.md

FIRST_SCREEN = """# The answer

**You own two cards that are joined by PCIe, or may buy the second. Is a model faster by tensor, by
layer, or as a copy on each card?** By tensor both cards read their half of the weights at once, and
wait for each other twice a layer: {calls} all-reduces a token in a 70B. By layer they take turns.

{cases_table}

**Next**: find your board in [this table](#which-board), and [test your own
cards](#test-your-own-cards-in-three-minutes).

- `1.70 x` is so many times the tokens a second. All such figures are other owners', and nobody here
  has repeated them: each case below lists its pairs, a *pair* being the same model, weights and
  engine on one machine in two arrangements. *Computed* and *inference* mark what is ours.
- Ends of a range are of single pairs. In *half of the machines* each machine has one vote, the
  median of its pairs. Cards whose link is not printed are taken for cards over PCIe.
- From a *graph* an engine records a token's kernels once and replays them, as vLLM does by default.
  *Eager* it launches each kernel of each token anew (vLLM's `--enforce-eager`). A pair is listed as
  eager, or with a drafter, if its source says so.

{r9700_pair}
"""
TEMPLATE = """## The model

`{command}`: a token
reads {weights} of weights and the cache of {context} tokens at the {bandwidth} of the data sheet.
Split by layer, one card works at a time, and sends its result to the next: {layer}. Split by
tensor, both do: {tensor}, and {calls} all-reduces of {size}. Both are equal if a call takes
**{even}** ({no_handoffs} without the two hand-offs). A file of {other_weights} ({bits} bits a
weight) takes {other_layer}, and its break-even is {other_even}. vLLM makes {engine} calls.

## A call near {size}

**The wire alone: at each published time near {size} and at default settings ({us}), the all-reduces
of a 70B's token take {cost} of the {gain} that the split saves{dearest}.** Inside an engine they
cost more ([counter-examples](#counter-examples)). Between two R9700s {r9700_small}.

Exact all-reduces, as printed by their owners: of two cards, of R9700s, and of single kernels on up
to four cards, the slowest first. The columns of the wire alone put the slowest time into the model.

{call_table}

A name ends with the variable that somebody set. {slowest} is what most recipes for the Arc B70 set;
`NCCL_SHM_USE_CUDA_MEMCPY=1` makes large messages faster, and costs decode, as its author says.
The four R9700s over PCIe were on two switches. `r9k` is a kernel of
its owner, `libr4d` one of StillDeadcode's. The time of `libr4d` is from a serving trace and
contains the wait for the later card. The time of RCCL without a size is of a message in decode.
Times depend on the library's version and protocol ([columns](references.md#columns)).
"""


def call_table() -> str:
    layer_ms, lines = step_ms(by_layer(advised())), []
    for name, own in small_calls().items():
        sizes = sorted({call.size_bytes for call in own if call.size_bytes})
        lines.append([name, " to ".join(map(size_text, sizes)), [call.us for call in own], own])
    lines.append([f"{OURS}, ours, host memory, graph", size_text(TOKEN_BYTES), h100_us(), []])
    rows = []
    for name, size, times_us, own in sorted(lines, key=lambda line: -max(line[2])):
        tensor_ms = step_ms(of_two(max(times_us)))
        kind = {"library": "", "tuned": " (kernel)"}[own[0].kind] if own else ""
        rows.append(
            [
                name + kind,
                size or "not printed",
                span(times_us, "").strip(),
                number(MODEL.all_reduces * max(times_us) / 1e3),
                number(tensor_ms),
                f"{layer_ms / tensor_ms:.2f}",
                sources(own) if own else "[here](experiments/gpu.md)",
            ]
        )
    heading = (
        "who | size | us a call | the wire alone: calls, ms | the wire alone: a token, ms | "
        "the wire alone: times by layer | source"
    )
    return first_rows(heading, rows, SHOWN, "rows, down to the fastest")


def wire_alone() -> dict[str, str]:
    """What the calls of a token cost at each published time, beside what the split saves."""
    calls = [call for own in small_calls().values() for call in own if not is_setting(call)]
    token_ms = [MODEL.all_reduces * call.us / 1e3 for call in calls]
    gain_ms = step_ms(by_layer(advised())) - step_ms(of_two(0))
    return {
        "us": span([call.us for call in calls], "us"),
        "cost": span(token_ms, "ms"),
        "gain": f"{number(gain_ms)} ms",
        "dearest": ": the dearest cost more than it saves" if max(token_ms) > gain_ms else "",
    }


def figures() -> dict[str, str]:
    """The figures of the page's sentences by name."""
    file_gb = MODEL.parameters * Q4_K_M_BITS / 8 / GB
    none, load, other = of_two(0), advised(), advised(f"{file_gb:.1f}GB")
    small = [call for own in small_calls().values() for call in own]
    settings = [call for call in small if is_setting(call) and not call.archive]
    slowest = max(settings, key=lambda call: call.us)
    texts = {
        "command": f"python -m reports advise --model {MODEL.name} --weights {WEIGHTS} "
        f"--gpu {CARD.name} --gpus 2",
        "calls": str(MODEL.all_reduces),
        "engine": str(engine_calls(MODEL)),
        "size": size_text(TOKEN_BYTES),
        "weights": f"{WEIGHTS[:-2]} GB",
        "context": f"{CONTEXT:,}",
        "bandwidth": f"{number(CARD.bandwidth_gb_s)} GB/s",
        "slowest": f"`{slowest.variant}` ({number(slowest.us)} us)",
        "layer": f"{number(step_ms(by_layer(load)))} ms",
        "tensor": f"{number(step_ms(none))} ms",
        "even": f"{number(break_even_us(load, by_layer(load)))} us",
        "no_handoffs": number(even_us()),
        "other_weights": f"{file_gb:.1f} GB",
        "bits": f"{Q4_K_M_BITS:g}",
        "other_layer": f"{number(step_ms(by_layer(other)))} ms",
        "other_even": f"{number(break_even_us(other, by_layer(other)))} us",
    }
    small = answer_open.of_token()
    texts["r9700_small"] = (
        f"it took {small}"
        if small
        else "over PCIe nobody has published an all-reduce this small with its size"
    )
    return texts | wire_alone() | {"call_table": call_table()}


def page() -> str:
    """The page, in lines of at most 100 letters outside its tables, links and commands."""
    own, asked = figures(), answer_calls.figures()
    cases, counter = answer_cases.figures(), answer_counter.figures()
    tested = answer_thresholds.figures() | {
        "passing_us": counter["blocked"],
        "failing_us": counter["blocked_inside"],
        "dearer": counter["dearer"],
        "beside": counter["beside"],
    }
    texts = [
        FIRST_SCREEN.format(**(own | cases), r9700_pair=answer_measured.pair_text(cases)),
        answer_thresholds.TEXT.format(**(own | tested)),
        answer_counter.TEXT.format(**(asked | counter)),
        answer_cases.TEXT.format(**(own | asked | counter | cases)),
        TEMPLATE.format(**own),
        answer_boards.text(),
    ]
    blocks = [block for text in texts for block in text.strip().split("\n\n")]
    return "\n\n".join(map(fold, blocks)) + "\n"


def write() -> None:
    """Writes the page and the table of its picture."""
    source = "# reports/references, and docs/experiments/runs/h100-wire: see figures_answer.py\n"
    path_of("answer").write_text(source + points().to_csv(index=False))
    PAGE.write_text(page())
