"""The splits of a load side by side, for the text of `advise` and for its JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from reports.advice import likely
from reports.advice.group_times import exchange_share
from reports.advice.likely_winner import Likely, fastest, goals_of
from reports.advice.offload import Offloaded
from reports.advice.serving import BY_STREAMS, Deployment, rate
from reports.advice.specs import GB, engine_calls
from reports.tables.sentences import counted, number, plain_table, some
from wiretax.common.grouped import grouped
from wiretax.common.program import BENCH, RUN

if TYPE_CHECKING:
    from rich.table import Table

MOST_SHOWN = 8  # splits in a table; of more only the best, and the best of each kind
BEFORE_TRUSTING_IT = (
    f"Before trusting it, check the path of the GPUs and the chained all-reduces of the engine's "
    f"own library: {RUN}{BENCH}survey --quick, and then this again with --run of what it measured, "
    "results/survey-TIME/results/allreduce."
)


@dataclass
class Advice:
    """All splits of a load by name, those that fit, where none does those with weights in host
    memory, the answer in sentences, the likely figures of those that fit, and which GPUs of a
    machine to take."""

    load: Deployment
    splits: Mapping[str, Deployment]
    possible: Mapping[str, Deployment]
    beyond: Mapping[str, Offloaded]
    sentences: Sequence[str]
    likely: Mapping[str, Likely]
    which_gpus: Sequence[str] = ()

    @cached_property
    def shown(self) -> Mapping[str, Deployment]:
        """The splits of the table: all if they are few; else the best by each goal, and of each
        kind the one with the least latency."""
        possible = self.possible
        if len(possible) <= MOST_SHOWN:
            return possible or self.beyond

        names = {self.best(figure) for figure in goals_of(self.load)}
        for own in grouped(possible.items(), lambda item: _kind(item[1])).values():
            names.add(_first(dict(own), "token_us"))
        return {name: split for name, split in possible.items() if name in names}

    def best(self, figure: str) -> str | None:
        """The name of the split that is likely best, of those of which nothing likely is known by
        its upper limit; None if no split serves so many streams."""
        splits = self.possible or self.beyond
        if figure == "tokens_per_s":
            slots = self.load.slots
            splits = {name: split for name, split in splits.items() if not split.lack(slots)}
        likely = {name: each for name, each in self.likely.items() if name in splits}
        return fastest(likely, figure) or (_first(splits, figure) if splits else None)


def _kind(split: Deployment) -> tuple[object, ...]:
    return split.experts, split.tensor > 1, split.stages > 1, split.replicas > 1


def _first(splits: Mapping[str, Deployment], figure: str) -> str:
    sign = -1 if figure.endswith("per_s") else 1
    return min(splits, key=lambda name: sign * splits[name].figures[figure].value)


def table_of(advice: Advice) -> "Table":
    """A row for each split that is shown."""
    load = advice.load
    headings = [
        "",
        "GB a\nGPU",
        "decode: ms\na token",
        "at most\ntokens/s a\nstream",
        f"at most\ntokens/s of\n{load.slots} streams",
        "prompt:\nms",
        "tokens/s\nof many",
        f"first token\nof {load.slots}\nat once: ms",
    ]
    rows = []
    for name, split in advice.shown.items():
        figures = split.figures
        rows.append(
            [
                name,
                number(split.memory_bytes(load.batch) / GB),
                number(figures["token_us"].value / 1e3),
                rate(1, figures["token_us"]).text(),
                "-" if split.lack(load.slots) else number(figures["tokens_per_s"].value),
                number(figures["prompt_us"].value / 1e3),
                number(figures["prompt_tokens_per_s"].value),
                number(figures["last_first_token_us"].value / 1e3),
            ]
        )
    return plain_table(headings, rows)


def tables_of(advice: Advice) -> list[tuple[str, "Table"]]:
    """The upper limits, and below them the likely figures."""
    if not advice.shown:
        return []
    tables = [("", table_of(advice))]
    if likely_table := likely_table_of(advice):
        tables.append((likely.title(), likely_table))
    return tables


def likely_table_of(advice: Advice) -> "Table | None":
    """A row for each split that is shown and of which anything is known; None without one."""
    load, rows = advice.load, list[list[str]]()
    for name, each in advice.likely.items():
        if name in advice.shown and not each.unknown:
            rates = each.rates
            prompt_ms = each.split.prompt / rates["prompt_us"] * 1e3
            rows.append(
                [
                    name,
                    rates["token_us"].text(),
                    "-" if each.split.lack(load.slots) else rates["tokens_per_s"].text(),
                    prompt_ms.text(),
                    rates["prompt_tokens_per_s"].text(),
                ]
            )
    headings = [
        "",
        "tokens/s\na stream",
        f"tokens/s of\n{load.slots} streams",
        "prompt: ms",
        "tokens/s\nof many",
    ]
    return plain_table(headings, rows) if rows else None


def obstacles_of(advice: Advice) -> list[str]:
    """Why splits of one kind cannot serve the load, and which context would do; of the others only
    which they are."""
    load, sentences, others = advice.load, list[str](), list[str]()
    for name, split in advice.splits.items():
        if problem := split.obstacle or split.lack(load.slots):
            if load.gpus in (split.tensor, split.stages, split.replicas):
                streams = load.batch if split.obstacle else load.slots
                context = replace(split, batch=streams).most_context
                if problem == split.lack(streams) and context:
                    problem += f": at most --context {context} fits"
                sentences.append(f"{name}: {problem}.")
            else:
                others.append(name)
    if others:
        sentences.append(f"These do not fit either, or do not divide: {some(others)}.")
    return sentences


def left_out_of(advice: Advice) -> list[str]:
    """Which splits the table leaves out."""
    names = [name for name in advice.possible if name not in advice.shown]
    if not names:
        return []
    return [f"Not in the table, where others of their kind are faster: {some(names)} (--json)."]


def fields_of(advice: Advice) -> dict[str, Any]:
    """The answer in JSON."""
    load = advice.load
    all_reduce = {
        "source": load.times.source,
        "is_assumed": load.times.is_assumed,
        "size_bytes": load.call_bytes,
        "us": load.times(load.call_bytes) if load.gpus > 1 else None,
        "calls": load.model.all_reduces,
        "engine_calls": engine_calls(load.model),
        "hosts": load.times.hosts,
        "nodes": load.nodes,
        "notes": load.times.notes,
    }
    splits = [
        {"name": name, "obstacle": split.obstacle, "lack": split.lack(load.slots)}
        | ({} if split.obstacle else split.figures | _memory_of(split))
        | {"likely": _likely_fields(advice.likely.get(name))}
        for name, split in advice.splits.items()
    ]
    offload = [
        {
            "name": name,
            "host_bytes": way.rest_bytes(load.batch),
            "host_gb_s": way.host_gb_s,
            "link_gb_s": way.link_gb_s,
        }
        | way.figures
        for name, way in advice.beyond.items()
    ]
    return {
        "gpus": load.gpus,
        "context": load.context,
        "batch": load.batch,
        "slots": load.slots,
        "drafter": {"proposed": load.proposed, "accepted": load.accepted},
        "all_reduce": all_reduce,
        "splits": splits,
        "offload": offload,
        "recommendation": [*advice.sentences, *advice.which_gpus],
    }


def _likely_fields(each: Likely | None) -> dict[str, Any] | None:
    """The likely figures of a split; None where nothing is known of it."""
    if each is None or each.unknown:
        return None
    rates = each.rates
    return {
        "engine": each.conditions.engine,
        "way": each.conditions.way,
        "stream_tokens_per_s": rates["token_us"],
        "tokens_per_s": rates["tokens_per_s"],
        "prompt_us": 1e6 * each.split.prompt / rates["prompt_us"],
        "prompt_tokens_per_s": rates["prompt_tokens_per_s"],
    }


def _memory_of(split: Deployment) -> dict[str, float]:
    return {
        "memory_bytes": split.memory_bytes(split.batch),
        "free_bytes": split.free_bytes,
        "most_context": split.most_context,
    }


def groups_text(load: Deployment) -> list[str]:
    """Where the times of groups come from, if not from where those of all GPUs do."""
    groups, n, a_node = load.groups, load.gpus, load.gpus // load.nodes
    if groups is None:
        return []
    lines = []
    if load.nodes > 1:
        lines.append(
            f"{load.nodes} nodes of {counted(a_node, 'GPU')}: neighbours are the ranks of a tensor "
            "split, then stages, then replicas"
        )
        if a_node > 1 and (a_node, 1) not in groups.measured:
            lines.append(f"within a node: {groups.all_reduces(a_node, 1).source}")
    sizes = [size for size in range(2, n) if n % size == 0 and (size, 1) not in groups.measured]
    if groups.measured and sizes:
        lines.append(
            "Groups of fewer GPUs take the all-reduces of the next larger measured group, an "
            "upper bound, or else with published ones: --run also takes runs of "
            f"{' and '.join(map(str, sizes))} ranks."
        )
    return lines


def exchange_text(splits: Mapping[str, Deployment]) -> list[str]:
    """What attention by streams exchanges in a step, and how uneven the experts' load is."""
    split = next((split for split in splits.values() if split.experts == BY_STREAMS), None)
    if split is None or split.groups is None:
        return []
    model, n, tokens = split.model, split.tensor, split.batch * split.step_tokens
    busiest, size, choices = (
        split.busiest(tokens),
        split.exchange_bytes(tokens),
        tokens * model.top_k,
    )
    origin = "measured"
    if (n, split.spanned) not in split.groups.measured_exchanges:
        share, figures = exchange_share()
        origin = (
            f"ASSUMED at {share.text()} of an all-reduce of its bytes, as {figures} published "
            "figures of both have it"
        )
    return [
        f"EP (vLLM's --enable-expert-parallel), router {split.skew}: of a layer's "
        f"{counted(choices, 'choice')} the busiest of {n} GPUs has {number(busiest.rows)}, on "
        f"{number(busiest.experts)} experts; an even share is {number(choices / n)}. TP + EP makes "
        f"the all-reduces of TP; DP + EP {split.exchanges} all-to-alls of {size:,.0f} B, each "
        f"{split.exchange_us(size).text(' us')}, {origin}."
    ]
