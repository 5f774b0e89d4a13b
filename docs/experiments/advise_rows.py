"""Published rows as the passes that `reports.advice.likely` knows: what the advisor is asked, row
by row, and why it cannot be asked about some."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import log

from advise_estimate import Example
from advise_ways import link_called

from reports.advice.likely import Conditions, Figure, Pass, decode_pass, prompt_pass, way_of
from reports.advice.reduce_times import ReduceTimes
from reports.advice.serving import CHUNK_TOKENS, Deployment
from reports.advice.specs import (
    ENGINES,
    LINKS,
    link_between,
    model_called,
    sheet_of,
    weights_called,
)
from reports.references.comparisons import Comparison, admitted
from reports.references.pairs import PairRow, may_fit, owner_of, pairs, split_of
from reports.references.published import PublishedServing, serving
from wiretax.common.grouped import grouped

MOST_STREAMS = 256  # of a load called peak or max: vLLM's default of max_num_seqs
# Of llama-bench a prompt has 512 tokens unless a note says `pp2048`; its context is the depth.
BENCH_PROMPT = 512


class Unpredictable(Exception):
    """Why the advisor cannot be asked about a row or a comparison: a clause."""


def engine_class(row: PairRow) -> str:
    """The class of an engine by the words of `specs.toml`; of one that replays graphs `eager` if
    the source says so. Others are of a class of their own."""
    name = row.engine.lower()
    known = [found for word, found in ENGINES.items() if word in name and word != "eager"]
    found = known[-1] if known else "other"
    return "eager" if found == "graph" and row.replay == "eager" else found


def conditions_of(row: PairRow, deployment: Deployment) -> Conditions:
    """The way between the cards and its link, the slowest of several. Raises Unpredictable for a
    link that a source mixes and a network of unknown speed."""
    gpu, gpus = deployment.gpu, deployment.gpus
    if row.fabric == "mixed":
        raise Unpredictable("links of several widths")

    links = []
    if row.fabric == "unknown":
        links.append(link_between(gpu, gpus))
    elif row.fabric == "PCIe":
        links.append(LINKS[gpu.slot])
    else:
        for fabric in row.fabric.split(" + "):
            if (found := link_called(fabric, gpu, gpus)) is None:
                raise Unpredictable(f"no data sheet of {fabric}")
            links.append(found)
    link = min(links, key=lambda each: each.gb_s)
    # PCIe without a word about peer access: what the card's driver does.
    has_peers = row.peer_access == "on" or (row.peer_access == "unknown" and gpu.peer_access)
    return Conditions(
        engine=engine_class(row),
        way=way_of(link.fabric, has_peers),
        link_gb_s=link.total_gb_s(gpus),
        kernel="own" if is_own(row) else "library",
    )


def is_own(row: PairRow) -> bool:
    """Whether the all-reduce is the engine's or the owner's, not a library's."""
    words = row.split.kernel.lower()
    known = "custom", "libr4d", "one-shot", "kernel p2p", "fused", "all-reduce pr", "r9k", "r4d"
    off = "custom all-reduce off" in words or "no custom" in words
    return any(word in words for word in known) and not off


def deployment_of(row: PairRow) -> Deployment:
    """What the advisor is asked. Raises Unpredictable for words that it does not know, and for
    splits that it does not judge."""
    gpu, model = sheet_of(row.gpu), model_called(row.model)
    weights = weights_called(row.weights)
    if "host memory" in row.weights or "offload" in row.note:
        raise Unpredictable("experts in host memory: how many a step reads there is not printed")
    for word, found in (("card", gpu), ("model", model), ("type of weights", weights)):
        if not found:
            text = {"card": row.gpu, "model": row.model}.get(word, row.weights)
            raise Unpredictable(f"an unknown {word}: {text or 'not printed'}")
    assert gpu
    assert model
    assert weights
    split = row.split
    if split.kind == "unknown" or split.contexts > 1 or split.data > 1:
        raise Unpredictable("a split that the likely ranges do not know")
    return Deployment(
        model,
        gpu,
        weights,
        ReduceTimes(row.gpus or 1, "none"),
        context=row.context_tokens or 0,
        prompt=prompt_of(row),
        tensor=split.tensor,
        stages=split.stages,
        replicas=split.replicas,
        proposed=row.draft_tokens or 0,
    )


def prompt_of(row: PairRow) -> int:
    """The tokens of a row's prompt."""
    if found := re.search(r"\bpp(\d{2,6})\b", row.note):
        return int(found[1])
    if "llama" in row.engine.lower() and not row.context_tokens:
        return BENCH_PROMPT
    return row.context_tokens or CHUNK_TOKENS


def streams_of(row: PairRow, deployment: Deployment) -> int:
    """Of a load called peak as many as fit, up to MOST_STREAMS; one where nobody says."""
    if row.streams != "most":
        return row.streams or 1
    streams = MOST_STREAMS
    while streams > 1 and deployment.lack(streams):
        streams //= 2
    return streams


def pass_of(row: PairRow, figure: Figure) -> Pass:
    """Raises Unpredictable."""
    deployment = deployment_of(row)
    conditions = conditions_of(row, deployment)
    if figure == "prefill":
        return prompt_pass(deployment, conditions)
    return decode_pass(deployment, streams_of(row, deployment), conditions)


def passes_of(comparison: Comparison, figure: Figure) -> tuple[Pass, Pass]:
    """Both rows of a comparison. Raises Unpredictable, also for what moved but `advise` is not
    told."""
    if comparison.axis == "kernel":
        raise Unpredictable("another all-reduce of the same split: advise takes its time by --run")
    one, other = comparison.one, comparison.other
    if comparison.axis == "transport" and one.path != other.path:
        raise Unpredictable("another path between the slots: advise takes its time by --run")
    if one.split.experts != other.split.experts:
        raise Unpredictable("experts split or not: too few rows")
    return pass_of(one, figure), pass_of(other, figure)


def examples(comparisons: Iterable[Comparison]) -> list[Example]:
    """Those that can be predicted, as examples of decode and of prefill."""
    made = list[Example]()
    for comparison in comparisons:
        one, other = comparison.one, comparison.other
        for figure, rate, second in (
            ("decode", one.decode_tok_s, other.decode_tok_s),
            ("prefill", one.prefill_tok_s, other.prefill_tok_s),
        ):
            if not rate or not second:
                continue
            try:
                first_pass, second_pass = passes_of(comparison, figure)
            except Unpredictable:
                continue
            known = one.drafter == other.drafter == "none" and one.streams != "most"
            made.append(
                Example(
                    name=f"{one.pair_id} {comparison.axis}",
                    family=one.family,
                    owner=one.owner,
                    one=first_pass,
                    other=second_pass,
                    log_one=log(rate),
                    log_other=log(second),
                    has_rates=known or figure == "prefill",
                    is_fitted=one.streams != "most",
                )
            )
    return made


def fitting_comparisons() -> list[Comparison]:
    """What may set a parameter: pairs.csv and serving.csv of the owners who may."""
    rows = [row for row in [*pairs(), *serving_rows()] if may_fit(row.owner)]
    return admitted(rows)


def serving_rows() -> list[PairRow]:
    """The rows of serving.csv in the form of pairs.csv: alike but for the split and its way are a
    pair."""
    rows = [row for row in serving() if row.fabric != "mixed"]
    alike = grouped(
        rows,
        lambda row: (
            *(row.machine, row.model, row.weights, row.engine),
            *(row.streams, row.drafter, row.context_tokens),
        ),
    )
    made = list[PairRow]()
    for number, own in enumerate(alike.values(), 1):
        said = {row.replay for row in own} - {"unknown"}
        replay = said.pop() if len(said) == 1 else "unknown"
        made += [_pair_row(row, f"S{number}", replay) for row in own]
    return made


def _pair_row(row: PublishedServing, name: str, replay: str) -> PairRow:
    return PairRow(
        pair_id=name,
        family=name,
        owner=owner_of(row.machine, row.source),
        machine=row.machine,
        gpu=row.gpu,
        gpus=row.gpus,
        fabric=row.fabric,
        path="",
        peer_access=row.peer_access,
        model=row.model,
        weights=row.weights,
        engine=row.engine,
        version=row.version,
        split=split_of(row.split, row.gpus),
        streams=row.streams,
        context_tokens=row.context_tokens,
        drafter=row.drafter or "unknown",
        replay=replay,
        decode_tok_s=row.decode_tok_s,
        prefill_tok_s=row.prefill_tok_s,
        grade="A",
        date=row.date,
        source=row.source,
        note=row.note,
        line=0,
    )


def eager_examples(rows: Sequence[PairRow]) -> list[Example]:
    """Rows whose note prints the same split launched kernel by kernel, against that."""
    made = list[Example]()
    for row in rows:
        found = re.search(r"the same split EAGER reads ([0-9.]+[0-9])", row.note)
        if not found or not row.decode_tok_s or not may_fit(row.owner):
            continue
        graph = pass_of(row, "decode")
        eager = replace(graph, conditions=replace(graph.conditions, engine="eager"))
        made.append(
            Example(
                name=f"{row.pair_id} eager",
                family=f"{row.family} eager",
                owner=row.owner,
                one=eager,
                other=graph,
                log_one=log(float(found[1])),
                log_other=log(row.decode_tok_s),
                has_rates=True,
                is_ranged=False,
            )
        )
    return made


def fitting_examples() -> list[Example]:
    return [*examples(fitting_comparisons()), *eager_examples(pairs())]
