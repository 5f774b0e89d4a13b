"""The test of docs/answer.md that a reader makes: two thresholds of a call alone, and the engine's
own benchmark."""

from collections.abc import Callable, Iterable, Sequence
from statistics import quantiles

from answer_calls import even_chunk_us
from answer_pairs import Row, arrangement, drafts, is_chat, is_pcie, machine_votes, step_of
from answer_text import markdown_table, percent
from figures_answer import even_us

from reports.advice.even_calls import CHUNK_BYTES, TOKEN_BYTES
from reports.advice.reduce_times import ReduceTimes
from reports.advice.serving import Deployment
from reports.advice.specs import (
    GB,
    Gpu,
    Transformer,
    bits_of,
    model_called,
    sheet_of,
    weights_called,
)
from reports.references.pairs import pairs
from reports.references.published import serving
from reports.tables.sentences import counted, number, size_text
from tests.references_page import span
from wiretax.common.program import REPOSITORY, SEND_ARCHIVE
from wiretax.record.case import bus_factor

TEXT = """## Test your own cards in three minutes

In a checkout (`git clone {repository} && cd wiretax`), in a shell where your engine runs, in its
container too ([how](gpu.md#two-commands)). The first line installs for a minute or more, the second
answers in three:

```sh
pip install '.[rocm]'     # or rocm10, cuda13, cuda12
wiretax survey --quick
```

**[Send the archive]({send})** that its last line names, `results/survey-TIME.tar.gz`: its calls
become rows of [the published figures](references.md#from-owners-archives) and of this page. It
names no host, user or folder.

Or measure one threshold by itself, {seconds} s each; the first run compiles its kernels too, for up
to a minute:

```sh
{decode_command}
{prefill_command}
```

Without `mpirun`, `wiretax allreduce -n 2` takes the same options, and so does `torchrun
--nproc-per-node 2 -m wiretax allreduce`. Without GPUs leave out `[rocm]` and
`--cudagraph 1`. Take the time of what your engine calls: of the library, or of its own kernel
(`--contender vllm`).

{threshold_table}

At these times both splits of a dense 70B of {weights} on two R9700s are equal; where a call takes
longer, by layer decodes faster, or shows the first token earlier. The data sheet is the strict
case: an engine that reaches less of it takes longer for all else, and leaves a call more time. With
one card at work engines reached {decode_shares} of the memory's bandwidth in decode ({decode_rows};
dense models from {least} weights on), and {prefill_shares} of the peak rate in prefill
({prefill_rows}). So a call below the first figure passes with any engine, and one above the last
with none that is published. The slower the card and the larger the model, the more time a call has;
`{command}` prints it, for any card and model.

**To pass is necessary, not sufficient**: an engine adds to a call. In {dearer} of {beside} a call
inside cost more than the slowest that its owner measured alone. So {passing_us} alone passes, and
inside an engine the same call cost {failing_us} ([counter-examples](#counter-examples)). The
sufficient test is your engine's own benchmark in each split that fits; none of these lines was run
here:

```sh
{engine_commands}
```

It implies what a call cost: **(step by tensor - step of one card / 2) / calls**; `wiretax
breakdown` computes it, and [says from traces](breakdown.md) where it goes. A step is vLLM's median
TPOT, or 1000 ms / (t/s) of llama-bench; if one card is too small, take the step by layer
for it. Calls are 2 x layers, in vLLM one more. An archive has no figures of engines: paste these
into an [issue]({issues}), and they become a row too:

```text
date, and a link if it is published; the archive of your survey, if you sent it:
engine, version, container; from a graph or eager; its all-reduce (library, own kernel):
model, weights (such as Q4_K_M), layers; drafter, its k, tokens a step:
streams, tokens of context, of prompt and of answer:
ms a token and ms to the first token: one card ...  two by layer ...  two by tensor ...
without an archive: cards, slots, peer access, driver, CUDA or ROCm, variables that you set:
```
"""

ENGINE_COMMANDS = (
    "vllm serve MODEL --tensor-parallel-size 2  # then 1, and 1 with --pipeline-parallel-size 2",
    "vllm bench serve --model MODEL --dataset-name random --random-input-len 512 "
    "--random-output-len 256 --max-concurrency 1 --num-prompts 8",
    "llama-bench -m MODEL.gguf -sm none,layer,tensor -p 2048 -n 128 -o json > llama.json",
    "wiretax breakdown --one llama.json --two llama.json",
)
LEAST_PARAMETERS = 20e9  # of a model whose decode is bound by memory on the cards of the tables
WIRE_COMMAND = "mpirun -n 2 python -m bench.allreduce --algorithm auto,library --sizes "
SECONDS = 30
DECODE, PREFILL = "{} --mode chained --cudagraph 1", "{} --mode isolated"


def bandwidth_share(row: Row, card: Gpu, model: Transformer) -> float | None:
    """Of the memory's bandwidth, by the weights that a token reads; caches come on top. None for
    weights whose bits are not known."""
    weights, step = weights_called(row.weights), step_of(row)
    if not weights or weights.endswith("GB") or not step or drafts(row) or not is_chat(row):
        return None
    table = 0 if model.tied is True else model.vocab * model.hidden
    read_gb = (model.parameters * model.active_share - table) * bits_of(weights) / 8 / GB
    return read_gb / (step / 1e6) / card.bandwidth_gb_s


def compute_share(row: Row, card: Gpu, model: Transformer) -> float | None:
    """Of the peak rate, by 2 operations a weight and token; attention comes on top."""
    if not row.prefill_tok_s or arrangement(row) != "one card":
        return None
    load = Deployment(model, card, row.weights, ReduceTimes(1, "none"))
    return load.work_flop(row.prefill_tok_s) / load.tflops / 1e12


def shares(of: Callable[[Row, Gpu, Transformer], float | None]) -> list[tuple[Row, float]]:
    """The shares that published engines reached with large dense models, one card at work at a
    time. Of small models a step is launches rather than bytes."""
    rows: Iterable[Row] = [*serving(), *pairs()]
    return [
        (row, share)
        for row in rows
        if arrangement(row) in ("one card", "layer")
        and row.replay != "eager"
        and is_pcie(row)
        and "+" not in row.gpu  # unlike cards
        and (card := sheet_of(row.gpu))
        and (model := model_called(row.model))
        and model.experts == 1
        and model.parameters >= LEAST_PARAMETERS
        and (share := of(row, card, model))
    ]


def limits(exact: float, found: Sequence[tuple[Row, float]]) -> tuple[float, float, float, float]:
    """The thresholds at these shares of the data sheet: least and most of the rows, and the ends
    of the half between of the machines."""
    figures = [(row, exact / share) for row, share in found]
    values = [value for _, value in figures]
    low, _, high = quantiles(machine_votes(figures), n=4, method="inclusive")
    return min(values), max(values), low, high


def gb_s(ms: float) -> float:
    return CHUNK_BYTES * bus_factor("all_reduce", 2) / ms / 1e6


def figures() -> dict[str, str]:
    decode, prefill = even_us(), even_chunk_us() / 1e3
    read, computed = shares(bandwidth_share), shares(compute_share)
    sizes = size_text(TOKEN_BYTES), size_text(CHUNK_BYTES)
    commands = [
        f"{WIRE_COMMAND}{form.format(size.replace(' ', '').removesuffix('iB'))} "
        f"--max-time {SECONDS}"
        for form, size in zip((DECODE, PREFILL), sizes, strict=True)
    ]
    us, ms = limits(decode, read), limits(prefill, computed)
    rows = [
        [
            f"decode: {sizes[0]}, in a chain from a graph",
            f"**{number(decode)} us**",
            f"{span(us[:2], 'us')}; half of the machines {span(us[2:], 'us')}",
        ],
        [
            f"prefill: {sizes[1]}, one call",
            f"**{number(prefill)} ms** ({gb_s(prefill):.1f} GB/s)",
            f"{span(ms[:2], 'ms')}; half of the machines {span(ms[2:], 'ms')}; the last is "
            f"{gb_s(ms[1]):.1f} GB/s",
        ],
    ]
    heading = "break-even | at the data sheet | at what engines reach"
    return {
        "decode_command": commands[0],
        "prefill_command": commands[1],
        "engine_commands": "\n".join(ENGINE_COMMANDS),
        "least": f"{LEAST_PARAMETERS / 1e9:.0f} billion",
        "repository": REPOSITORY,
        "send": SEND_ARCHIVE,
        "issues": f"{REPOSITORY}/issues",
        "threshold_table": markdown_table(heading, rows),
        "decode_shares": percents(read),
        "decode_rows": rows_and_machines(read),
        "prefill_shares": percents(computed),
        "prefill_rows": rows_and_machines(computed),
        "seconds": str(SECONDS),
    }


def percents(found: Sequence[tuple[Row, float]]) -> str:
    values = [share for _, share in found]
    return f"{percent(min(values))} to {percent(max(values))}"


def rows_and_machines(found: Sequence[tuple[Row, float]]) -> str:
    """`19 rows on 12 machines`."""
    return f"{counted(len(found), 'row')} on {counted(len(machine_votes(found)), 'machine')}"
