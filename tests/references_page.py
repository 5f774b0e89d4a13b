"""`python -m tests.references_page > docs/references.md` writes the page of the published figures
from the tables in reports/references."""

import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

from reports.advice.reduce_times import LEAST_LAUNCHES
from reports.references.published import (
    PublishedCall,
    PublishedServing,
    calls,
    near_size,
    select,
    serving,
)
from reports.tables.sentences import counted, number, size_text
from tests.references_archives import ANCHOR, of_archives
from tests.references_pairs import of_pairs
from wiretax.common.grouped import grouped
from wiretax.common.program import SEND_ARCHIVE
from wiretax.common.untrusted import markdown_text
from wiretax.record.case import bus_factor

KEPT_APART = "&#8203;"  # no host makes a link of what is in a link
PAGE = Path(__file__).parents[1] / "docs" / "references.md"
HEAD = """# Published figures

For buyers and owners, before they measure: what others have published about all-reduces between
GPUs, and about engines that split a model over them. `reports expect` answers from the same rows:

```bash
python -m reports expect --gpu r9700 --gpus 2 --size 32M
python -m reports expect results/RUN.jsonl --plot expect.png --html expect.html
python -m reports expect --model qwen3.8-27b --gpu r9700
```

Figures are compared within one transport and one fabric: long messages also by lanes, short ones by
eager or graph. A machine has one vote, however many rows it printed. If nobody measured such a
machine, `expect` takes the nearest and says in what it differs: sockets, fabric, half to twice as
many of these cards, any other number, other cards over the same fabric. A card without rows may
have the chip of one with rows (RX 9070 XT: R9700); the answer says so first, as it does for a run
without peer access. History is shown, but left out of medians. `--model` shows engines that serve
it.

`reports/references/calls.csv` has {calls} figures of collectives on {machines} machines,
`serving.csv` has {serving} of serving; together they have {sources} sources. [Owners'
archives](#from-owners-archives) gave {sent}. `make figures` writes this page (`python -m
tests.references_page > docs/references.md` this one alone), and a test compares it with the tables.
Nobody here has repeated these measurements.

## Columns

What a source does not say is empty or `unknown`; nothing is computed, estimated or interpolated.

| column | what it is |
|---|---|
| `gpus`, `hosts` | all ranks, and their hosts; ranks of MPI have no GPU (`gpu` is none) |
| `fabric` | the link inside a host, PCIe with generation and lanes; `+network` with several hosts |
| `transport`, `protocol` | what ran: peer access, host memory, the network; LL, LL128 or Simple |
| `mode` | `eager`, or `graph`: replayed from a CUDA or HIP graph |
| `kind` | `library` (NCCL, RCCL, oneCCL, MPI), `tuned` (a kernel), `lossy` (sends fewer bits) |
| `library`, `variant`, `version` | what ran, its settings or kernel, and its printed version |
| `valid_until` | a change since which the library chooses otherwise here: the row is history |
| `time_us`, `busbw_gb_s` | as printed; busbw as nccl-tests defines it |
| `power_w` | the power cap of a card, W |
| `replay` | of serving: decode from a `graph`, or `eager` |
| `all_reduce` | of serving: the library or the kernel that reduces between the cards |
| `drafter` | of serving: what proposed several tokens a step; `none` if nothing did |
| `decode_tok_s`, `prefill_tok_s` | of serving: tokens/s, of several `streams` their sum |
| `total_tok_s` | of serving: prompt and generated tokens together: no figure of decode |
| `tpot_ms`, `ttft_ms` | of serving: a token after the first, and the first, ms |
| `grade` | `table`: of several sizes; `figure`: of one or two; `hearsay`: see the note |
| `statistic` | of one measurement; nccl-tests prints the mean |

A row is `hearsay` if its source says "about" or mentions another machine in passing, or if a
reader had to assume its unit, size or card. `expect` converts a busbw to a time, or back, where
only one is printed.

`reports/references/machines.csv` says over how many sockets a machine's cards are spread, where its
source does; `same_chip.csv` names cards without rows that have the chip of one with rows.

Versions bound what a figure says. On gfx12 (R9700) RCCL had no LL from
[rccl#1268](https://github.com/ROCm/rccl/pull/1268) on, and has had it again since
[rccl#2095](https://github.com/ROCm/rccl/pull/2095) (December 2025).
[rocm-systems#7183](https://github.com/ROCm/rocm-systems/pull/7183) (June 2026) keeps LL from
hanging through host memory, where it stays slow.
[rocm-systems#8666](https://github.com/ROCm/rocm-systems/pull/8666) (July 2026) ends LL at 16 KiB
a rank, not at 913,532 bytes: of larger messages older figures still hold.
"""

CAVEATS = """## Caveats

- A speed-up from 69 to 3 us that circulates divides unlike things: a call under load, by the
  shorter of both ranks' kernel times in another trace. The same trace has 10.4 us as rank 0
  observes it.
- bkvargyas/r9700-stack prints GiB/s as GB/s in one script: its bandwidths are left out, its times
  are here.
- A card reports its own slot as PCIe 5 x16 also on a PCIe 4 host: believe the link under load.
- Host launch is in some eager times: the figures of meta-pytorch/torchcomms begin at 40 us for
  that reason.
- Eager and graph, warm and unknown caches, other clocks and power caps are side by side. Two
  rows of one machine need not agree.
- cadamcat's times from a graph are the mean of replays of many calls; those of 2026-09-04 seem to
  be medians over several message sizes.
- vllm-project/vllm#57767 has ratios native / RCCL of four cards of gfx1201, 0.83 to 3.9, and no
  times: they are not here.

## Contradictions

- waynehacking8/nccl-collectives-bench: the report says NCCL 2.18.3, the header of its log 2.29.2.
- ROCm/rocm-systems#9049 prints other busbw than #9040, which measured again: 52.3 and 57.7 GB/s
  on two cards, 146.7 and 165.9 on four, 361.0 on eight.
- local-inference-lab/rtx6kpro has two tables of other times for 1 and 4 MB on one machine, and
  gives 37.6 GB/s once for 32 MB and once for a sweep; its 71.2 us at 64 KB is an outlier.
- gardenlinux/gardenlinux#4556 compares peer access with none; which of both the table is could
  not be read.

Figures of equal card, number, fabric, transport, library and mode that differ by a factor of 1.5
or more; machines and networks may explain them:

"""

ROW = """## How a row gets in

**From your machine**: `bench.survey` measures it and packs an archive. Attach that to an
[issue]({send_archive}), or check it first:

```bash
python -m reports references check survey-TIME.tar.gz
```

It prints the rows that the archive gives, and every reason against it; with a reason it gives none
(exit status 1). A maintainer writes them with `references add ARCHIVE --name ACCOUNT` into
`contributed.csv`, and `make figures` renews the pages that read the tables. Without `--name` nobody
is named. `references withdraw SHA256 --reason TEXT` takes an archive's rows out of every page; they
stay in the table with the reason, and it cannot be added again.

| rows | |
|---|---|
| which | RCCL or NCCL as it is, and `auto`, of each size that has {least} launches |
| `mode` | `graph`: a call in a chain from a graph; `eager`: a single call |
| `time_us` | the median over launches of their medians; `busbw_gb_s` follows from it |
| `time_low_us`, `time_high_us` | its 95 % interval: Student's, of the logarithms, over launches |
| `machine` | cards, slots, peers, sockets, CPU, a digest of these: equal machines vote once |
| `archive`, `contributor` | the SHA-256 of the archive, and who sent it |

| what speaks against an archive | |
|---|---|
| files | another schema or a newer version, a file without its hash, a run of no step |
| launches | a wrong or unchecked result, fewer than {least}, one that failed or was cut off |
| copies | a launch that is there twice, also with other times but the same probes of the link |
| machine | several machines, hosts or models; ranks that share a card; a CPU |
| cards | without a data sheet, of another vendor or with another memory than they say |
| library | variables or a file that change what NCCL or RCCL does by itself |
| figures | other than their blocks give, or than the steps of a block |
| time | calls that add up to more than the run took; fewer us than half a flag's way takes |
| bandwidth | a launch with more GB/s than the link's data sheet, or than the survey's own run |
| dates | a run that began outside of the survey, and a survey of tomorrow or before archives |
| names | markup, paths and addresses |
| table | the archive, or the same figures, are there already, or were withdrawn |

Nothing is signed: invented figures that agree with all others in their archive are not found. So
each row says which archive it came from, and a withdrawn one is used nowhere.

**From a page that others can read**: add a line to `calls.csv` or `serving.csv`, by hand, with the
figure as its source prints it, and the source as `owner/repository@commit path` or
`owner/repository#number`; the commit fixes what was read. Convert nothing: leave empty what is not
printed, and say in `note` what you had to assume; such a row has the grade `hearsay`. Then write
this page anew.

`pytest tests/reports/references` checks of all rows the vocabulary, the units (busbw = size / time
x factor within 3 % and the rounding of what is printed), that each has a source, and that none
is there twice.
"""


def table(headings: str, rows: Iterable[Iterable[str]]) -> str:
    """Rows of a Markdown table; their cells are text, the last one links."""
    lines = [f"| {headings} |", "|---" * (headings.count("|") + 1) + "|"]
    for row in rows:
        *texts, links = row
        lines.append(f"| {' | '.join(map(markdown_text, texts))} | {links} |")
    return "\n".join([*lines, ""])


def span(values: Iterable[float], unit: str) -> str:
    texts = [number(value) for value in sorted(values)]
    return f"{' to '.join(dict.fromkeys([texts[0], texts[-1]]))} {unit}" if texts else ""


def busbw(call: PublishedCall) -> float:
    size = call.size_bytes or 0
    return call.busbw_gb_s or size * bus_factor(call.collective, call.gpus) / call.us / 1e3


def found_calls() -> list[PublishedCall]:
    return select(calls(), archive={""})


def sources() -> dict[str, int]:
    """The number of each source that was found."""
    names = dict.fromkeys(row.source for row in [*found_calls(), *serving()])
    return {name: place for place, name in enumerate(sorted(names, key=str.lower), 1)}


def links_of(own: Iterable[PublishedCall], numbers: dict[str, int]) -> str:
    """`[3](#sources) [archive 1a2b3c4d5e6f](#from-owners-archives)`."""
    found = sorted({numbers[call.source] for call in own if not call.archive})
    archives = sorted({markdown_text(call.archive[:12]) for call in own if call.archive})
    texts = [f"[{number}](#sources)" for number in found]
    return " ".join([*texts, *(f"[archive {name}]({ANCHOR})" for name in archives)])


def address(source: str) -> str:
    repository, _, rest = source.partition("@" if "@" in source else "#")
    if "@" not in source:
        return f"https://github.com/{repository}/issues/{rest.split()[0]}"
    commit, _, path = rest.partition(" ")
    path = quote(re.split(r" \(|, | l\.[0-9]", path)[0])  # without what is said of the file
    return f"https://github.com/{repository}/blob/{commit}/{path}"


def by_fabric() -> str:
    numbers, parts = (
        sources(),
        [
            "## By fabric and machine\n\nTimes near 16 KiB and bandwidths near 32 MiB are of "
            "all-reduces of any mode; those of other sizes from half to twice.\n"
        ],
    )
    for fabric, rows in sorted(grouped(calls(), lambda call: call.generation).items()):
        parts.append(f"### {fabric}\n")
        lines = []
        by_machine = grouped(rows, lambda call: (call.machine, call.gpus, call.kind, call.library))
        for (machine, gpus, kind, library), own in sorted(by_machine.items()):
            reduces = [call for call in select(own, collective={"all_reduce"}) if call.size_bytes]
            ran = dict.fromkeys(call.transport for call in own if call.transport != "unknown")
            lines.append(
                [
                    machine,
                    str(gpus),
                    ", ".join(ran),
                    library + (f" ({kind})" if kind != "library" else ""),
                    ", ".join(dict.fromkeys(call.mode for call in own if call.mode != "unknown")),
                    str(len(own)),
                    span([call.us for call in near_size(reduces, 16384)], "us"),
                    span([busbw(call) for call in near_size(reduces, 32 << 20)], "GB/s"),
                    links_of(own, numbers),
                ]
            )
        heading = "machine | GPUs | transport | library | mode | figures | 16 KiB | 32 MiB | source"
        parts.append(table(heading, lines))
    return "\n".join(parts)


def contradictions() -> str:
    lines = []
    numbers = sources()
    keys = [
        "gpu",
        "gpus",
        "hosts",
        "fabric",
        "transport",
        "library",
        "variant",
        "mode",
        "collective",
        "size_bytes",
    ]
    alike = grouped(calls(), lambda call: tuple(getattr(call, key) for key in keys))
    for (gpu, gpus, _, fabric, _, library, _, mode, _, size), own in alike.items():
        times = [call.us for call in own]
        if size and max(times) >= 1.5 * min(times):
            lines.append(
                [
                    f"{gpus}x {gpu}, {fabric}",
                    f"{library}, {mode}",
                    size_text(size),
                    span(times, "us"),
                    links_of(own, numbers),
                ]
            )
    return table("cards | library | size | times | source", lines)


def of_serving() -> str:
    numbers = sources()
    lines = [
        [
            f"{row.gpus}x {row.gpu}, {row.fabric} ({row.machine})",
            f"{row.model} {row.weights}",
            f"{row.engine} {row.version}".strip(),
            row.split,
            row.peer_access,
            "" if row.streams is None else str(row.streams),
            number(row.decode_tok_s).replace("-", ""),
            number(row.prefill_tok_s).replace("-", ""),
            other_figures(row),
            f"[{numbers[row.source]}](#sources)",
        ]
        for row in serving()
    ]
    heading = "cards | model | engine | split | peer access | streams | decode, tokens/s | "
    return "## Serving\n\n" + table(
        heading + "prefill, tokens/s | how it ran, other figures | source", lines
    )


def other_figures(row: PublishedServing) -> str:
    """What says how a row ran, and its figures that are no tokens/s of decode or prefill."""
    texts = [
        row.replay if row.replay != "unknown" else "",
        row.all_reduce,
        f"drafter {row.drafter}" if row.drafter not in ("", "none") else "",
        f"{number(row.total_tok_s)} tokens/s with prompts" if row.total_tok_s else "",
        f"{number(row.tpot_ms)} ms a token" if row.tpot_ms else "",
        f"{number(row.ttft_ms)} ms to the first" if row.ttft_ms else "",
    ]
    return ", ".join(filter(None, texts))


def page() -> str:
    head = HEAD.format(
        calls=len(found_calls()),
        machines=len({call.machine for call in found_calls()}),
        serving=len(serving()),
        sources=len(sources()),
        sent=counted(len(calls()) - len(found_calls()), "figure"),
    )
    listed = [
        f"{place}. [{markdown_text(name).replace(KEPT_APART, '')}]({address(name)})"
        for name, place in sources().items()
    ]
    row = ROW.format(send_archive=SEND_ARCHIVE, least=LEAST_LAUNCHES)
    parts = [head, by_fabric(), of_archives(), of_serving(), of_pairs()]
    parts += [CAVEATS + contradictions(), row]
    return "\n".join([*parts, "## Sources\n", *listed, ""])


def write() -> None:
    PAGE.write_text(page())


if __name__ == "__main__":
    print(page(), end="")
