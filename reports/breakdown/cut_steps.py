"""Cuts a rank's timeline into steps: of decode a step makes a token of each sequence.

An annotation of the host says when it launched a step. The device works later: in a trace of vLLM
on an MI300X the annotation has ended 6 ms before its work begins. A step on the device begins with
the first work on its busiest stream that was launched since the annotation began; a stream works in
the order of its launches, so no other step's work there lies between. Work of the next step on
another stream, such as its copies, may come earlier, and counts where it lies in time.

| found by | if | a step begins |
|---|---|---|
| launches | the trace has annotations of the host, and links work to launches | as above |
| the device's annotations | it has such, as newer Kineto writes | with the first of its streams |
| the host's annotations | it has those alone, as a trace of a CPU | where they begin |
| the period | a kernel occurs once in each of many like stretches | with that kernel |
| the whole trace | nothing of these | with the trace |

The last step's end is the next one's begin, which the trace lacks: it is left out, as is work
before the first. Only where annotations follow each other without a gap, as the profiler's do, and
its work ends within its own, that is its end."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from reports.breakdown.timeline import Annotation, Floats, Integers, Timeline
from wiretax.common.untrusted import printable

LEAST_PERIODS = 3
SEARCHED = 200_000  # works in which a period is looked for: 200 steps of 1,000 kernels
MOST_LETTERS = 60  # of a kernel's name
GAP = 0.01  # of a step, which the profiler itself takes between two
ROUNDED_US = 1.0  # times of older traces are whole microseconds
ALIKE = 0.8  # of stretches have a kernel, and of the kernels of the best cut a cut has so many

# vLLM's v1/worker/gpu_worker.py names a step `execute_context_0(0)_generation_32(32)`, requests
# and in brackets tokens; with detailed annotations `..._32(sq32sk55086...)`, queries and keys;
# until 2025 `execute_new_0_cached_32`, requests alone.
VLLM = re.compile(r"execute_(?:\d+_)?context_(\d+)\((?:sq)?(\d+).*_generation_(\d+)\((?:sq)?(\d+)")
OLD_VLLM = re.compile(r"execute_new_(\d+)_cached_(\d+)")
# SGLang's srt/utils/profile_utils.py: `step[DECODE bs=32]`, `step[EXTEND bs=2 toks=107]`
SGLANG = re.compile(r"step\[(\w+) (?:raw_)?bs=(\d+)(?: toks=(\d+))?")
TORCH = re.compile(r"ProfilerStep#\d+")
FAMILIES = VLLM, OLD_VLLM, SGLANG, TORCH  # an engine's step goes before the profiler's


@dataclass
class Steps:
    """The steps of a rank that are whole, in order: `names` of annotations, or empty ones;
    `starts_us` and `ends_us`, (steps,); `of_work`, (works,), the place of the step that launched
    each work of the timeline, -1 for none; how they were found, in words. `kernel` begins each, if
    they were found by the period."""

    names: list[str]
    starts_us: Floats
    ends_us: Floats
    of_work: Integers
    found_by: str
    kernel: str = ""
    notes: list[str] = field(default_factory=list)

    def only(self, places: Sequence[int]) -> "Steps":
        """The steps at these places."""
        kept = np.array(places, int)
        moved = np.full(len(self.names) + 1, -1)  # the last place is that of no step
        moved[kept] = np.arange(len(kept))
        return replace(
            self,
            names=[self.names[place] for place in places],
            starts_us=self.starts_us[kept],
            ends_us=self.ends_us[kept],
            of_work=moved[self.of_work],
        )


def kind_of(name: str) -> tuple[str, int | None]:
    """What kind of step an annotation names, such as `decode`, and its tokens, None if it does not
    say. Steps of another kind or with other tokens are not alike."""
    if found := VLLM.match(name):
        requests, tokens, decoding, more = map(int, found.groups())
        kind = "mixed" if requests and decoding else "prefill" if requests else "decode"
        return kind, tokens + more
    if found := OLD_VLLM.match(name):
        new, cached = map(int, found.groups())
        return ("prefill or mixed", None) if new else ("decode", cached)
    if found := SGLANG.match(name):
        mode, sequences, tokens_text = found.groups()
        is_decode = mode == "DECODE"
        return mode.lower(), int(sequences) if is_decode else int(tokens_text or 0) or None
    return "", None


def steps_of_ranks(timelines: Sequence[Timeline]) -> list[Steps]:
    """Of each rank the whole steps. Where the period tells them, all ranks' begin with the kernel
    that the first rank's begin with."""
    first = steps_of(timelines[0])
    return [first, *(steps_of(timeline, first.kernel) for timeline in timelines[1:])]


def steps_of(timeline: Timeline, kernel: str = "") -> Steps:
    """The whole steps of a rank, by the first way of the table above that finds any, or from
    `kernel` to `kernel`."""
    if kernel:
        return from_kernel(timeline, kernel)
    of_host, of_device = (annotated(timeline, on_device) for on_device in (False, True))
    launches_us = timeline.launches_us
    if of_host and launches_us is not None and not np.isnan(launches_us).all():
        return by_launch(timeline, of_host, launches_us)
    if found := of_device or of_host:
        where = "device" if of_device else "host"
        return by_annotation(timeline, found, f"{where} annotations")
    return by_period(timeline)


def annotated(timeline: Timeline, on_device: bool) -> list[Annotation]:
    """The annotations of steps, of one family. A device has one on each of its streams at a time:
    the first begin stands for all."""
    for family in FAMILIES:
        found = sorted(
            (a for a in timeline.annotations if a.on_device == on_device and family.match(a.name)),
            key=lambda each: each.start_us,
        )
        steps = list[Annotation]()
        for each in found:
            repeats = on_device and steps and each.name == steps[-1].name
            if not (repeats and each.start_us < steps[-1].end_us):
                steps.append(each)
        if steps:
            return steps
    return []


def by_launch(timeline: Timeline, found: Sequence[Annotation], launches_us: Floats) -> Steps:
    """Steps with work on the busiest stream, from its first work there."""
    begins_us = np.array([each.start_us for each in found])
    of_work = np.searchsorted(begins_us, launches_us, side="right") - 1
    of_work[np.isnan(launches_us)] = -1
    _, stream = np.unique(timeline.stream, return_inverse=True)
    busy_us = np.bincount(stream, timeline.ends_us - timeline.starts_us)
    main = np.flatnonzero((stream == busy_us.argmax()) & (of_work >= 0))
    places, first = np.unique(of_work[main], return_index=True)
    worked = [found[place] for place in places]
    last_us = timeline.ends_us[of_work == places.max(initial=-2)].max(initial=-np.inf)
    starts_us = with_end(timeline.starts_us[main[first]], worked, last_us)
    names = [each.name for each in worked]
    steps = cut(timeline, starts_us, names, "launches")
    place_of = np.full(len(found) + 1, -1)  # the last one is of work before all annotations
    place_of[places[: len(steps.names)]] = np.arange(len(steps.names))
    # Work of an unknown launch counts where it lies in time.
    steps.of_work = np.where(np.isnan(launches_us), steps.of_work, place_of[of_work])
    return without_overlap(steps, worked)


def by_annotation(timeline: Timeline, found: Sequence[Annotation], found_by: str) -> Steps:
    """Steps from annotation to annotation."""
    starts_us = with_end(np.array([each.start_us for each in found]), found, -np.inf)
    names = [each.name for each in found]
    return without_overlap(cut(timeline, starts_us, names, found_by), found)


def with_end(starts_us: Floats, found: Sequence[Annotation], last_us: float) -> Floats:
    """The begins of steps, and the end of the last annotation if it has no gap before it, as the
    others, and the last step's work has ended by then, at `last_us`."""
    gaps_us = [following.start_us - each.end_us for each, following in pairwise(found)]
    steps_us = np.diff([each.start_us for each in found])
    has_end = len(found) > 1 and abs(np.median(gaps_us)) < GAP * np.median(steps_us)
    if has_end and last_us <= found[-1].end_us:
        return np.append(starts_us, found[-1].end_us)
    return starts_us


def without_overlap(steps: Steps, found: Sequence[Annotation]) -> Steps:
    """Without steps that overlap, of the host's annotations or of the device's work: nobody can
    tell whose work is whose."""
    latest_us = np.maximum.accumulate(steps.starts_us)
    overlaps = (steps.ends_us <= steps.starts_us) | (steps.starts_us < latest_us)
    for at, (one, following) in enumerate(pairwise(found)):
        if not one.on_device and following.start_us < one.end_us - ROUNDED_US:
            overlaps[at : at + 2] = True
    if not overlaps.any():
        return steps
    steps.notes.append(f"{overlaps.sum()} steps that overlap others are left out")
    return steps.only(np.flatnonzero(~overlaps).tolist())


def cut(timeline: Timeline, starts_us: Floats, names: Sequence[str], found_by: str) -> Steps:
    """Steps from begin to begin; a single one lasts as long as there is work."""
    if len(starts_us) == 1:
        starts_us = np.append(starts_us, timeline.ends_us.max(initial=starts_us[0]))
    of_work = np.searchsorted(starts_us, timeline.starts_us, side="right") - 1
    of_work[of_work >= len(starts_us) - 1] = -1
    return Steps([*names[: len(starts_us) - 1]], starts_us[:-1], starts_us[1:], of_work, found_by)


def by_period(timeline: Timeline) -> Steps:
    """Steps from one run to the next of a kernel between whose runs the most kernels recur. A
    kernel of a layer sees only its layer recur, one that runs every 16th step itself more than
    those of each: among almost equally good kernels the most frequent one is taken, and of those
    equally frequent the one after the longest gap. If fewer than ALIKE of all kernels recur, the
    trace may be a single step of many layers."""
    name = timeline.name[:SEARCHED]
    counts = np.bincount(name, minlength=len(timeline.texts))
    recurring = dict[int, int]()  # by the runs of a kernel
    for runs in np.unique(counts[counts > LEAST_PERIODS]).tolist():
        stretch = np.cumsum(name == np.flatnonzero(counts == runs)[0])
        is_whole = (stretch > 0) & (stretch < runs)
        pairs = np.unique(name[is_whole] * runs + stretch[is_whole])  # of a kernel and a stretch
        recurring[runs] = int((np.bincount(pairs // runs) >= ALIKE * (runs - 1)).sum())
    best = max(recurring.values(), default=0)
    if not best or best < ALIKE * np.count_nonzero(counts):
        return cut(timeline, timeline.starts_us[:1], [""], "nothing: the whole trace is one step")
    runs = max(each for each, n in recurring.items() if n >= ALIKE * best)
    latest_us = np.maximum.accumulate(timeline.ends_us)
    gap_us = np.zeros(len(latest_us))
    gap_us[1:] = timeline.starts_us[1:] - latest_us[:-1]

    def usual_gap_us(text: int) -> float:
        return float(np.median(gap_us[timeline.name == text]))

    first = max(np.flatnonzero(counts == runs).tolist(), key=usual_gap_us)
    return from_kernel(timeline, timeline.texts[first])


def from_kernel(timeline: Timeline, kernel: str) -> Steps:
    """Steps from one run of the kernel to the next."""
    places = [place for place, text in enumerate(timeline.texts) if text == kernel]
    starts_us = timeline.starts_us[np.isin(timeline.name, places)]
    found_by = f"the period of the kernel {printable(kernel)[:MOST_LETTERS]}"
    steps = cut(timeline, starts_us, [""] * len(starts_us), found_by)
    steps.kernel = kernel
    return steps
