"""Timing lines, a protocol for any program: one JSON object a line, among other lines if need be.
docs/timing-lines.md describes the fields."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from difflib import get_close_matches
from functools import lru_cache
from typing import Annotated, Any

import msgspec

from reports.imports.logged import LoggedTest, check
from wiretax.record.histogram import steps_of
from wiretax.record.open_parts import Shape
from wiretax.record.result import NOT_JSON, ResultError
from wiretax.record.schema import LEAST_US, Count, Positive

MARK, FORMAT = '"time_us"', "timing-lines"
STATISTIC = "median over blocks, slowest rank"
Name = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z][\w.-]{0,63}\Z")]
Time = Annotated[float, msgspec.Meta(ge=LEAST_US, lt=1e15)]


class TimingLine(msgspec.Struct):
    """The bytes of all ranks as nccl-tests counts them, and the time of the slowest rank in us;
    several times are several blocks, of `n` iterations each: of one step, if the line says that `n`
    is 1. Work that is no collective has a `name` and a `shape`."""

    size_bytes: Count
    time_us: Time | Annotated[list[Time], msgspec.Meta(min_length=1)]
    collective: Name | None = None
    name: Name = "work"
    ranks: Positive | None = None
    n: Positive | msgspec.UnsetType = msgspec.UNSET
    n_wrong: Count | None = None
    in_place: bool = False
    datatype: Name = "unknown"
    redop: Name = ""
    algorithm: Name = "program"
    shape: dict[Name, Name | int | float] | None = None

    def __post_init__(self) -> None:
        """Raises ValidationError for a name of ours in the shape with a value of another type."""
        msgspec.convert(self.shape, Shape | None)


# Names that speak of correctness: by any part of them, without what separates their words; by one
# word, perhaps behind a count or a question, such as `n_bad` and `isOk`; or as a whole.
SPEAKS = re.compile(
    "wrong|correct(?!ion)|error|mismatch|fail|invalid|validat|valid(?:ity)?$|verif|corrupt|accura"
    "|exact|identical|passed|(?:max|abs|rel)diff|(?:all|is|bits?|bitwise)(?:equal|close)|unequal"
    "|consisten(?:t|cy)$|golden|broken|defect|discrepan|within(?:tol|bound|limit)|rmse|infs?count"
    "|bad(?:elem|val|result|word|byte|rank)"
)
SPEAKS_ALONE = re.compile(
    "(?:n|num|no|is|has|all|max|abs|rel)*"
    "(?:errs?|bad|nans?|ok|okay|check|checks|checked|match|matches|matched|success\\w*|verdict)"
)
SPEAKS_WHOLE = re.compile(
    "(?:n|num|no|is|has|are|all|max|abs|rel|bits?|result)*"
    "(?:equal|good|right|faults?|infs?|same|diff(?:er(?:s|ences?|ent)?)?|diffs|deviations?)"
    "(?:count|elements|elems)?"
)
# Names of a verdict only beside a number, a truth or a text with a verdict: `{"pass": "backward"}`
# is a phase, and `{"results": [5.5]}` may be times.
MAY_SPEAK = {"pass", "passes", "result", "status", "outcome"}
MAY_SAY = {*MAY_SPEAK, "results"}
# Words that tell of wrong results, or of a check, wherever they stand in a text.
TELLING = (
    "fail(?:s|ed|ing|ures?)?|wrong|incorrect(?:ly)?|errors?(?![ _-]*correct)|erroneous|nok|bad"
    "|mismatch(?:e[sd])?|invalid|corrupt(?:ed|ion)?|unverified|verif(?:ied|ication)"
    "|validat(?:ed|ion)"
)
PASSES = "pass(?:ed)?|ok|okay|correct|success(?:ful)?"
# Words that do so in a text that is one verdict, or only under one of the names above.
IS_VERDICT = re.compile(rf"(?:not?)?(?:{PASSES}|{TELLING})")
IS_ANSWER = re.compile("yes|no|true|false|y|n")
HAS_TELLING = re.compile(rf"(?<![a-z])(?:{TELLING})(?![a-z])")
HAS_VERDICT = re.compile(
    rf"(?<![a-z])(?<!forward )(?<!backward )(?:{PASSES}|{TELLING}|right|good|clean|exact|equal"
    "|identical|match(?:e[sd])?|unequal|differ(?:s|ent|ences?)?|broken)(?![a-z])"
)
CUT = ", the last row, is cut: only whole rows are read"
OF_CASE = "size_bytes", "in_place", "datatype", "redop", "algorithm", "shape"
KNOWN_FIELDS = {*TimingLine.__struct_fields__}
# Without `n`, which is a dimension of a matmul too.
KNOWN = {name.replace("_", ""): name for name in TimingLine.__struct_fields__ if name != "n"}


def parse_timing_lines(lines: Sequence[str]) -> tuple[list[LoggedTest], list[int], str]:
    """A test for each collective or name, and number of ranks, in the order of their first line;
    the lines that cannot be read, and why the first of these is none. A last row without its end,
    as on a full disk, is none of them, but has a reason. Raises ResultError for an unknown field
    that looks like one that its line lacks, for correctness that is told otherwise than by
    `n_wrong`, for a field that stands twice in a line, and for too many rows."""
    tests: dict[tuple[str, int | None], LoggedTest] = {}
    unread, fault, n_bytes, n_rows = list[int](), "", 0, 0
    seen = {*KNOWN_FIELDS}

    for number, text in enumerate(lines, 1):
        if MARK not in text:
            continue
        n_bytes += len(text)
        check("bytes of JSON", n_bytes)
        text = text[text.find("{") :].strip()
        try:
            fields = msgspec.json.decode(text)
            line = msgspec.convert(fields, TimingLine)
            doubled = doubled_names(text)
        except NOT_JSON as error:
            is_cut = number == len(lines) and not text.endswith("}")
            if is_cut and not re.search(r'"n_wrong"\s*:\s*[^0\s]', text):  # a wrong one counts
                fault = fault or f"line {number}{CUT}"
                continue
            unread.append(number)
            fault = fault or f"line {number} is no timing line ({error})"
            continue
        if doubled:
            raise ResultError(f"line {number} has {doubled[0][:64]!r} twice")
        if spoken := verdicts_of(fields):
            raise ResultError(f"line {number} has {spoken[0][:64]!r}: do you mean `n_wrong`?")
        for name in {field[:64] for field in fields} - seen:
            check("names of fields", len(seen))
            seen.add(name)
            word = re.sub(r"[\W_]", "", name.lower())
            alike = get_close_matches(word, KNOWN, n=1, cutoff=0.75)
            known = KNOWN[alike[0]] if alike else None
            if known == "n_wrong" or (known and known not in fields):
                raise ResultError(f"line {number} has {name!r}: do you mean `{known}`?")
        key = line.collective or line.name, line.ranks
        test = tests.setdefault(key, LoggedTest(FORMAT, number, STATISTIC, *key))
        case = {name: getattr(line, name) for name in OF_CASE}
        n_wrong = line.n_wrong
        times_us = line.time_us if isinstance(line.time_us, list) else [line.time_us]
        n_rows += len(times_us)
        check("rows", n_rows)

        for time_us in times_us:
            steps = steps_of([time_us]) if line.n == 1 else None
            test.add(number, case, line.n or 1, time_us=time_us, n_wrong=n_wrong, steps=steps)
            n_wrong = None  # of all blocks together

    return [*tests.values()], unread, fault


def doubled_names(text: str) -> list[str]:
    """The names that an object of this JSON has more than once; a parser takes one of each."""
    doubled = list[str]()

    def note(pairs: list[tuple[str, Any]]) -> None:
        names = Counter(name for name, _ in pairs)
        doubled.extend(name for name, n in names.items() if n > 1)

    json.loads(text, object_pairs_hook=note)
    return doubled


def verdicts_of(fields: dict[str, Any]) -> list[str]:
    """The unknown fields of a line, and those within them and within its shape, whose name or value
    says whether a result is right. An item of a list has the name of its list."""
    unknown = {name: each for name, each in fields.items() if name not in KNOWN_FIELDS}
    found, parts = list[str](), [*unknown.items(), *(fields.get("shape") or {}).items()]
    for name, value in parts:
        if name_speaks(name) or value_speaks(name, value):
            found.append(name)
        elif isinstance(value, list):
            parts += [(name, each) for each in value]
        elif isinstance(value, dict):
            parts += value.items()
    return found


@lru_cache  # a log has few names, and many lines
def name_speaks(name: str) -> bool:
    """Whether a field of this name says whether a result is right, whatever its value."""
    words = words_of(name)
    joined = "".join(words)
    parts = [*words, *re.split(r"[\W\d_]+", name.lower())]  # `NaN` is one word
    return bool(
        SPEAKS.search(joined)
        or SPEAKS_WHOLE.fullmatch(joined)
        or any(map(SPEAKS_ALONE.fullmatch, parts))
    )


def value_speaks(name: str, value: Any) -> bool:
    """Whether this value of a field says whether a result is right."""
    last = last_word(name)
    if not isinstance(value, str):
        return last in MAY_SPEAK and isinstance(value, int | float)

    text, words = value.lower(), "".join(words_of(value))
    if last not in MAY_SAY:
        return bool(IS_VERDICT.fullmatch(words) or HAS_TELLING.search(text))
    whole = IS_VERDICT.fullmatch(words) or IS_ANSWER.fullmatch(words)
    return bool(whole or HAS_VERDICT.search(text))


@lru_cache
def last_word(name: str) -> str:
    words = words_of(name)
    return words[-1] if words else ""


def words_of(text: str) -> list[str]:
    """The words of `nWrong`, `n_wrong` or `N-WRONG`, in small letters."""
    return [word.lower() for word in re.findall("[A-Z]+(?![a-z])|[A-Z]?[a-z]+", text[:64])]
