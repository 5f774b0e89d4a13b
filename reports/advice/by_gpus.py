"""Several numbers of GPUs in one table, for `advise --gpus 1,2,4,8`."""

from collections.abc import Sequence

from reports.advice import likely
from reports.advice.likely_winner import Likely
from reports.advice.serving import rate
from reports.advice.specs import GB
from reports.advice.split_table import BEFORE_TRUSTING_IT, Advice
from reports.tables.sentences import counted, lay_out, number, plain_table

NOTHING = "nothing fits"


def text_of(advices: Sequence[Advice], question: Sequence[str]) -> str:
    """A row for each number of GPUs: the fastest split for one stream, or for `batch`,
    and for the throughput of `slots`; then where the times come from."""
    load = advices[0].load
    headings = [
        "GPUs",
        "fits",
        f"{counted(load.batch, 'stream')}:\nlikely fastest",
        "decode: ms\na token",
        "at most\ntokens/s a\nstream",
        "likely\ntokens/s a\nstream",
        "its prompt:\nms",
        "memory\nleft: GB",
        "most\ncontext",
        f"{counted(load.slots, 'stream')}:\nlikely fastest",
        "at most\ntokens/s\nof all",
    ]
    rows = [[str(advice.load.gpus), *_cells(advice)] for advice in advices]
    numbers = ", ".join(str(advice.load.gpus) for advice in advices)
    headline = f"{load.model.name} on {numbers} x {load.gpu.name}. {_speeds(advices)}"
    sources = dict.fromkeys(
        line
        for advice in advices
        if advice.load.gpus > 1
        for line in (f"all-reduce: {advice.load.times.source}", *advice.load.times.notes)
    )
    closing = [
        f"{counted(advice.load.gpus, 'GPU')}: {sentence}"
        for advice in advices
        for sentence in (*_told(advice), *advice.which_gpus)
    ]
    return lay_out(
        [headline, *gains(advices)],
        [*question, *sources],
        [("", plain_table(headings, rows))],
        [*closing, "", BEFORE_TRUSTING_IT],
    )


def _told(advice: Advice) -> Sequence[str]:
    """What is said of decode, or of each way over host memory, of which the table has the best."""
    return advice.sentences[:2] if advice.possible else advice.sentences


def gains(advices: Sequence[Advice]) -> list[str]:
    """How many times as fast each number of GPUs likely is as the first that holds the model, each
    by its likely fastest split, and whether only the larger number holds all streams."""
    first, *others = [advice for advice in advices if advice.possible] or [advices[0]]
    load, told = first.load, list[str]()
    goals = {
        "token_us": counted(load.batch, "stream"),
        "tokens_per_s": counted(load.slots, "stream"),
        "prompt_us": f"a prompt of {load.prompt}",
    }
    for advice in others:
        figures, fitting = list[str](), ""
        for goal, work in goals.items():
            splits = [each.best(goal) for each in (first, advice)]
            if splits[0] is None and splits[1] is not None:
                fitting = f" {work} fit on {advice.load.gpus}, not on {load.gpus}."
            pair = [first.likely.get(splits[0] or ""), advice.likely.get(splits[1] or "")]
            passes = [each.passes[goal] for each in pair if each and not each.unknown]
            if len(passes) == len(pair):
                gain = likely.published().ratio(*passes)
                ends = f"[{gain.low:.2f} {gain.high:.2f}]"
                figures.append(f"{gain.value:.2f}x {ends} of {work} ({splits[1]})")
        if figures:
            numbers = f"{counted(advice.load.gpus, 'GPU')} beside {load.gpus}"
            told.append(f"{numbers}, likely tokens/s: {', '.join(figures)}.{fitting}")
    return told


def _speeds(advices: Sequence[Advice]) -> str:
    """What a stream decodes at most on each number of GPUs, in a sentence."""
    speeds = []
    for advice in advices:
        name, splits = advice.best("token_us"), advice.possible or advice.beyond
        if name is not None:
            tokens_per_s = number(rate(1, splits[name].figures["token_us"]).value)
            host = "" if advice.possible else " and host memory"
            speeds.append(f"{tokens_per_s} on {advice.load.gpus}{host}")
    return f"A stream decodes at most {', '.join(speeds)} tokens/s." if speeds else "Nothing fits."


def _cells(advice: Advice) -> list[str]:
    """The row of a number of GPUs behind it."""
    splits = advice.possible or advice.beyond
    one, most = advice.best("token_us"), advice.best("tokens_per_s")
    fits = "yes" if advice.possible else "no"
    if one is None:
        return [fits, NOTHING, *["-"] * 8]

    split, figures = splits[one], splits[one].figures
    left = [number(split.free_bytes / GB), str(split.most_context)]
    return [
        fits,
        one,
        number(figures["token_us"].value / 1e3),
        rate(1, figures["token_us"]).text(),
        likely_text(advice.likely.get(one)),
        number(figures["prompt_us"].value / 1e3),
        *(left if advice.possible else ["-", "-"]),
        most or NOTHING,
        number(splits[most].figures["tokens_per_s"].value) if most else "-",
    ]


def likely_text(each: Likely | None) -> str:
    """The likely tokens/s of a stream."""
    return "-" if each is None or each.unknown else each.rates["token_us"].text()
