"""The counter-examples of docs/answer.md: what a call cost inside engines, and pairs in which a
faster call bought little."""

import re
from collections.abc import Sequence

from answer_pairs import Pair, Row, all_pairs, arrangement, between, drafts, gains, is_chat, is_pcie
from answer_text import change, in_note, markdown_table, rate_text, sources

from reports.advice.implied import draft_tokens
from reports.references.pairs import PairRow, pairs
from reports.references.published import (
    PublishedCall,
    PublishedServing,
    calls,
    near_size,
    select,
    serving,
)
from reports.tables.sentences import number, size_text
from tests.references_page import span

TEXT = """## Counter-examples

Inside an engine a call costs more than alone. What it costs there is implied by whole steps,
**(step of n cards - step of one / n) / calls**, where cards by layer stand for one
(`reports/advice/implied.py`). It contains launches, waits, skew, and all else that the split does
not divide. Here are all published pairs of one chat that allow it, the dearest first. By tensor
loses where the cost is above the pair's own break-even: in {losing} of {all_two} pairs on two cards
over PCIe, of which {losing_eager} are eager. `Alone` is the same owner's call near the size of the
message.

![What a call cost inside engines and alone](experiments/answer.png)

{implied_table}

With a drafter the figure is of a token: a call costs 1 to k + 1 times as much, by how many tokens
of k were accepted. kyuz0's rows are of {few} chats at once. A pair below 0 ({super}) gained more
than its cards: something else than the split changed there too.

### Peers, or a faster kernel

A faster call often buys little: the smallest gain first. A kernel whose call is {faster} times as
fast gave {kernel} the tokens on two R9700s; peer access alone gave R9700s {peers}.

{faster_table}

- ACS that redirects peers through the CPU costs {acs_prefill} of prefill and {acs_step} of a step
  ({acs_ms} for {acs_size} and not {direct_ms}).
- A translating IOMMU cost nearly all: {iommu} tokens/s at {iommu_context} tokens of context, and
  {passed} with `iommu=pt`; short ones did not suffer
  ([mattbucci](https://github.com/mattbucci/2x-R9700-RDNA4-GFX1201-sglang-inference)).

### What makes the difference

- **Graph or eager.** Two RTX 3090s decoded {graph} tokens/s from a graph and {eager} eager, with
  the same split ({graph_source}).
- **A library that blocks the host.** On two Arc B70s a call of {blocked_size} took {blocked} alone,
  and so did a barrier without data ({blocked_source}): each of {blocked_calls} calls a token stops
  the host, which then launches late. Inside, a call cost {blocked_inside}.
- **Waits that sleep.** Two R9700s decoded {backoff} tokens/s with a back-off of 20 to 200 us in
  ROCr's waits and {no_backoff} without ({backoff_source}).
- **Launches.** Four MI50s went from {unfused} to {fused} tokens/s when a fused kernel cut the
  launches of a token from {launches} to {fewer_launches} ({launch_source}).
- **Skew.** In a trace of two R9700s a call took {own_us} in the rank that came later, and {seen_us}
  as rank 0 saw it: half of the calls began more than {skew_us} apart ({skew_source}). A call alone
  has no such wait; `--arrival-skew` adds one.
"""

PRINTED_US = r"([\d.]+) us a call"  # in a note


def implied_pairs() -> list[Pair]:
    """The pairs of a chat that tell what a call cost inside the engine, the dearest first."""
    many = range(2, 65)
    found = [*between("one card", "tensor", many), *between("layer", "tensor", many)]
    told = [pair for pair in found if is_chat(pair.other) and pair.implied_us is not None]
    return sorted(told, key=lambda pair: -(pair.implied_us or 0))


def owner_of(row: Row | PublishedCall) -> str:
    return row.source.partition("/")[0]


def calls_alone(pair: Pair) -> list[PublishedCall]:
    """All-reduces of a library that this owner measured on these cards, near the size of the pair's
    messages; in the pair's mode, if there are some in it."""
    row, model = pair.other, pair.model
    if not model:
        return []
    own = [
        call
        for call in select(calls(), collective={"all_reduce"}, kind={"library"}, gpu={row.gpu})
        if owner_of(call) == owner_of(row)
        and (call.gpus, call.hosts) == (row.gpus, 1)
        and not (row.peer_access == "off" and call.transport == "p2p")
    ]
    near = near_size(own, model.all_reduce_bytes(1))
    return select(near, mode={pair.replay}) or near


def cards_text(row: Row) -> str:
    """`2x R9700, PCIe 4 x8, no peer access`."""
    parts = [f"{row.gpus}x {row.gpu}"]
    parts += [row.fabric] if row.fabric != "unknown" else []
    parts += {"on": ["peer access"], "off": ["no peer access"]}.get(row.peer_access, [])
    return ", ".join(parts)


def engine_text(pair: Pair) -> str:
    """`vLLM, graph, DFlash2 k=7, 80 KiB a call`: the size of a call where a drafter ran."""
    parts = [re.split(", | \\(", pair.other.engine)[0]]
    parts += [pair.replay] if pair.replay != "unknown" else []
    if drafts(pair.other):
        k = draft_tokens(pair.other.drafter)
        parts += [pair.other.drafter]
        if k and pair.model:
            parts += [f"{size_text(pair.model.all_reduce_bytes(k + 1))} a call"]
    return ", ".join(parts)


def alone_text(pair: Pair) -> str:
    """`41.9 (10 KiB, eager)`; empty without a figure of the owner."""
    own = calls_alone(pair)
    sizes = sorted({call.size_bytes for call in own if call.size_bytes})
    modes = sorted({call.mode for call in own} - {"unknown"})
    said = [*map(size_text, sizes), *modes]
    return f"{span([call.us for call in own], '').strip()} ({', '.join(said)})" if own else ""


def implied_table() -> str:
    rows = [
        [
            cards_text(pair.other),
            f"{pair.other.model}, {engine_text(pair)}",
            arrangement(pair.one),
            signed(pair.implied_us or 0),
            number(pair.even_us),
            alone_text(pair),
            f"{pair.decode_gain:.2f}",
            source_text(pair),
        ]
        for pair in implied_pairs()
    ]
    heading = (
        "cards by tensor | model, engine | against | implied, us a call | break-even, us | "
        "alone, us | times as fast | source"
    )
    return markdown_table(heading, rows)


def source_text(pair: Pair) -> str:
    is_hearsay = "hearsay" in (pair.one.grade, pair.other.grade)
    return sources([pair.other]) + (", hearsay" if is_hearsay else "")


def signed(us: float) -> str:
    return number(us) if us >= 0 else f"-{number(-us)}"


def faster_pairs() -> list[Pair]:
    """Two to four cards over PCIe by tensor, with peer access after none, or with a kernel of its
    own after the library; the smallest gain first."""
    found = [
        pair
        for pair in all_pairs()
        if arrangement(pair.one) == arrangement(pair.other) == "tensor"
        and pair.one.gpus == pair.other.gpus
        and pair.other.gpus in (2, 3, 4)
        and is_pcie(pair.other)
        and pair.decode_gain
        and is_upgrade(pair.one, pair.other)
    ]
    return sorted(found, key=lambda pair: pair.decode_gain or 0)


def is_upgrade(one: Row, other: Row) -> bool:
    """Whether peer access was added, or a kernel in the library's place, and no access lost."""
    access = one.peer_access, other.peer_access
    before, after = map(reduce_of, (one, other))
    has_kernel = is_kernel(after) and not is_kernel(before)
    return access != ("on", "off") and (access == ("off", "on") or has_kernel)


def reduce_of(row: Row) -> str:
    """What reduced: `rccl`, `libr4d`, `PCIe one-shot`; empty if the source does not say."""
    return row.all_reduce if isinstance(row, PublishedServing) else row.split.kernel


def is_kernel(name: str) -> bool:
    """Whether this is a kernel of somebody, not the library or the engine's default."""
    return bool(name) and not re.match("(rccl|nccl|oneccl|built without)", name.lower())


def difference(pair: Pair) -> str:
    """`peer access off to on, rccl to libr4d`."""
    parts = []
    if pair.one.peer_access != pair.other.peer_access:
        parts.append("peer access")
    before, after = map(reduce_of, (pair.one, pair.other))
    if before != after:
        parts.append(f"{before or 'default'} to {after or 'default'}")
    return ", ".join(parts)


def faster_table() -> str:
    rows = [
        [
            difference(pair),
            cards_text(pair.other).replace(", peer access", ""),
            f"{pair.other.model}, {engine_text(pair)}",
            str(pair.other.streams or ""),
            change(pair.one.decode_tok_s, pair.other.decode_tok_s),
            change(pair.one.prefill_tok_s, pair.other.prefill_tok_s),
            source_text(pair),
        ]
        for pair in faster_pairs()
    ]
    heading = "what was added | cards | model, engine | streams | decode | prefill | source"
    return markdown_table(heading, rows)


def paired(source: str, note: str) -> PairRow:
    """The one row of pairs.csv of this source that has this text."""
    (row,) = [row for row in pairs() if row.source.startswith(source) and note in row.note]
    return row


def served(source: str, note: str) -> PublishedServing:
    """The one row of serving.csv of this source that has this text."""
    (row,) = [row for row in serving() if row.source.startswith(source) and note in row.note]
    return row


def called(source: str, note: str) -> PublishedCall:
    """The one row of calls.csv of this source that has this text."""
    (row,) = [row for row in calls() if row.source.startswith(source) and note in row.note]
    return row


def times_text(values: Sequence[float]) -> str:
    """`1.04 to 1.10 x`."""
    ends = dict.fromkeys(f"{value:.2f}" for value in (min(values), max(values)))
    return f"{' to '.join(ends)} x"


def figures() -> dict[str, str]:
    two = [pair for pair in implied_pairs() if pair.other.gpus == 2 and is_pcie(pair.other)]
    losing = [pair for pair in two if (pair.decode_gain or 0) < 1]
    light = [row for row in serving() if is_chat(row) and row.streams is None]
    few = [in_note(row, r"up to (\d+) at once") for row in light]
    beyond = [pair for pair in implied_pairs() if (pair.implied_us or 0) < 0]
    r9700 = [pair for pair in faster_pairs() if pair.other.gpu == "R9700"]
    fast = [pair for pair in r9700 if "us a call" in pair.other.note]
    only_peers = [  # Direct-P2P is llama.cpp's own reduction with peer access
        pair
        for pair in r9700
        if reduce_of(pair.other) == "Direct-P2P" or reduce_of(pair.one) == reduce_of(pair.other)
    ]
    graph = paired("wzi690421-droid", "the same split EAGER reads 17.07")
    blocked = called("vllm-project/vllm#54766", "0-byte barrier")
    inside = next(pair for pair in two if pair.other.source == blocked.source)
    backoff, without = served("FA85", "with the backoff"), served("FA85", "without")
    fused, unfused = paired("larkinwc", "launches to"), paired("larkinwc", "deferring")
    seen, own = called("davetha", "what rank 0 observes"), called("davetha", "SHORTER")
    return {
        "implied_table": implied_table(),
        "faster_table": faster_table(),
        "losing": str(len(losing)),
        "all_two": str(len(two)),
        "losing_eager": str(sum(pair.replay == "eager" for pair in losing)),
        "few": f"{min(few):.0f} to {max(few):.0f}",
        "super": ", ".join(dict.fromkeys(f"{p.other.gpus}x {p.other.gpu}" for p in beyond)),
        "faster": f"{in_note(fast[0].one, PRINTED_US) / in_note(fast[0].other, PRINTED_US):.0f}",
        "kernel": times_text(gains(fast)),
        "peers": times_text(gains(only_peers)),
        "graph": rate_text(graph.decode_tok_s),
        "eager": number(in_note(graph, r"EAGER reads ([\d.]+)")),
        "graph_source": sources([graph]),
        "blocked_size": size_text(blocked.size_bytes or 0),
        "blocked": f"{number(blocked.us)} us",
        "blocked_calls": str(inside.calls),
        "blocked_inside": f"{number(inside.implied_us)} us",
        "blocked_source": sources([blocked]),
        "backoff": rate_text(backoff.decode_tok_s),
        "no_backoff": rate_text(without.decode_tok_s),
        "backoff_source": sources([backoff]),
        "unfused": rate_text(unfused.decode_tok_s),
        "fused": rate_text(fused.decode_tok_s),
        "launches": f"{in_note(fused, r'([0-9]+) launches'):g}",
        "fewer_launches": f"{in_note(fused, r'launches to ([0-9]+)'):g}",
        "launch_source": sources([fused]),
        "own_us": f"{number(own.us)} us",
        "seen_us": f"{number(seen.us)} us",
        "skew_us": f"{number(in_note(seen, r'skew p50 (.+?) us'))} us",
        "skew_source": sources([seen]),
    }
