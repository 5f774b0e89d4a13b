"""Writes docs/claims.md: what four texts that many people read claim, beside what is computed,
measured or published here. data/claims.toml has the claims, claims_ours.py the figures.

`PYTHONPATH=. python docs/experiments/claims_page.py a5` prints the figures of a claim."""

import sys

from answer_text import fold, markdown_table
from claims_ours import OURS
from claims_table import Claim, Found, table
from drawing import HERE

from wiretax.common.untrusted import printable

PAGE = HERE.parent / "claims.md"
# How many: the words for it.
TALLY = {
    "holds": "{} hold",
    "holds if": "{} hold under a condition",
    "wrong": "{} are wrong",
    "unknown": "of {} nothing is known",
}
INTRODUCTION = """# Claims, checked

For whoever has read about splitting a model over GPUs: what the four texts that people find first
claim, and whether it holds. Of {count} claims {tally}. The texts are named by their titles, the
claims are in our words, and *theirs* are their figures. The table says which hold, the sections
say why and how to repeat it; each has an anchor, such as `#a4`.

`make figures` writes this page; every figure of *ours* is computed from the
[formulas](advise.md#formulas), the [published figures](references.md) and the archived runs. Times
of [`reports advise`](advise.md) are lower bounds, at the data sheet's peak; brackets go from the
least to the most published. Nobody here has repeated what others measured.

The commands run from the top of the repository, with the [environment](index.md#first-steps)
activated. `PYTHONPATH=. python docs/experiments/claims_page.py a5` prints the figures of a claim,
and the rows from which they come.

## All claims

{overview}
"""


def found() -> dict[str, Found]:
    """Our figures and the verdict that arithmetic gives, by claim."""
    found = {}
    for name, claim in table().claims.items():
        figures, verdict = OURS[name](claim)
        found[name] = figures | claim.facts, verdict
    return found


def verdict_text(claim: Claim, figures: dict[str, str]) -> str:
    """`**holds if** the engine waits for each call`, `**wrong**: 2 a layer`."""
    if not claim.condition:
        return f"**{claim.verdict}**"
    colon = "" if claim.verdict == "holds if" else ":"
    return f"**{claim.verdict}**{colon} {claim.condition.format(**figures)}"


def section(name: str, claim: Claim, figures: dict[str, str]) -> str:
    """The claim under a heading that threads can link, `#a4`."""
    points = [
        f"Verdict: {verdict_text(claim, figures)}.",
        f"Theirs: {claim.theirs}.",
        f"Ours: {claim.ours.format(**figures)}",
    ]
    if claim.remark:
        points[0] += f" {claim.remark.format(**figures)}"
    if claim.reading:
        points.append(f"What is right of it: {claim.reading.format(**figures)}")
    if claim.measure:
        points.append(f"On your machine: `{claim.measure}` prints {claim.measured}.")
    listed = "\n".join("- " + " ".join(point.split()) for point in points)
    commands = "\n".join(each.command for each in claim.repeat)
    end = "" if claim.claim.endswith("?") else "."
    return f"### {name.upper()}\n\n{claim.claim}{end}\n\n{listed}\n\n```sh\n{commands}\n```"


def page() -> str:
    """The page, in lines of at most 100 letters outside its tables, links and commands."""
    texts, claims = table().texts, table().claims
    figures = {name: own for name, (own, _) in found().items()}
    given = [claim.verdict for claim in claims.values()]
    tally = [text.format(given.count(name)) for name, text in TALLY.items() if name in given]
    rows = [
        [f"[{name.upper()}](#{name})", claim.claim, verdict_text(claim, figures[name])]
        for name, claim in claims.items()
    ]
    overview = markdown_table("claim | in our words | verdict", rows)
    parts = [
        INTRODUCTION.format(count=len(claims), tally=", ".join(tally), overview=overview).strip()
    ]
    for letter, title in texts.items():
        parts.append(f"## {letter.upper()}. {title}")
        own = [name for name in claims if name.startswith(letter)]
        parts += [section(name, claims[name], figures[name]) for name in own]
    blocks = "\n\n".join(parts).split("\n\n")
    return "\n\n".join(block if block.startswith("```") else fold(block) for block in blocks) + "\n"


def write() -> None:
    PAGE.write_text(page())


def main() -> None:
    """Prints the figures of the claims that are named, or writes the page."""
    for name in sys.argv[1:]:
        if name not in OURS:
            print(f"{printable(name)!r} is no claim: {', '.join(OURS)}", file=sys.stderr)
            raise SystemExit(2)
        figures, _ = OURS[name](table().claims[name])
        for key, figure in figures.items():
            print(f"{name} {key}: {figure}")
    if not sys.argv[1:]:
        write()


if __name__ == "__main__":
    main()
