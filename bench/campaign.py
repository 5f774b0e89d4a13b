"""A campaign: two or more commands launched in turn, pair by pair, and compared. `python -m bench.campaign --help`

1. The pilot: a launch of each variant, and two more of the first. It says whether they run, how long a launch takes and
   how far apart two of the same thing lie, and so what the campaign will be able to see.
2. The first stage: pairs of everything, with launches of the first variant against itself among them as `control`.
3. The second: fresh pairs of the sizes where something seems to differ, which alone decide.

Each line of the manifest is on disk before the next launch starts, so that the same command can go on from there.
"""

import fcntl
import os
import signal
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, NoReturn

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while imports go on there is nothing to keep, nor to say

import numpy as np
from msgspec.structs import replace

from bench import VERSION
from bench.campaigns import variants
from bench.campaigns.launches import Stop, check_out, command_line, reason_against, remove_worktree, run_to_end
from bench.campaigns.variants import Variant
from bench.harness.options import CANNOT, FINE, INTERRUPTED, USAGE, WRONG
from bench.harness.sweep import shuffled
from reports import comparison, sides
from reports.__main__ import main as reports
from reports.__main__ import open_closed_streams
from reports.case import CASE_KEY
from reports.manifest import CONTROL, MANIFEST, WORKTREES, Campaign, End, Launch, Manifest, Stage, read_manifest
from reports.result import ResultError, read
from reports.schema import Record, to_line
from reports.sentences import size_text
from reports.verdict import FAMILY_P, visible_effect

ATTEMPTS = 3
MORE_PILOTS = 2  # of the first variant: three launches of the same thing have a spread
LOOKS = (1, 2, 4)  # times the pairs, with --grow
LEAST_LAUNCH_S = 4.0
FRESH_SHARE = 0.5  # of a launch's time, since it has fewer sizes
GRACE_S = 60.0
LONGEST_PILOT_S = 3600.0  # without a budget
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
Stages = Literal["pilot", "first", "fresh"]


@dataclass
class Session:
    """A campaign under way. `last` is the variant that the machine is set up for."""

    options: Namespace
    folder: Path
    manifest: Manifest
    file: BinaryIO
    last: Variant | None = None

    @property
    def variants(self) -> dict[str, Variant]:
        """By name, in order; `control` is the first once more."""
        found: dict[str, Variant] = {one.name: one for one in self.options.variant}
        return found | ({} if self.options.no_control else {CONTROL: self.options.variant[0]})

    def record(self, line: Launch | Stage | End) -> None:
        """Adds a line to the manifest."""
        append(self.file, line)
        self.manifest.add(line)

    def finished(self, *stages: str) -> list[Launch]:
        """The launches of these stages that count."""
        return [one for one in self.manifest.launches if one.stage in stages and one.status == "finished"]


def orders(names: Sequence[str], rounds: int, seed: str) -> list[list[str]]:
    """The order of the names in each round: one is drawn, the next is its mirror image, and so on. So each name stands
    before any other as often as after it, and a machine that drifts evenly favours none."""
    found: list[list[str]] = []
    for number in range(0, rounds, 2):
        drawn = shuffled(names, f"{seed} {number}")
        found += [drawn, drawn[::-1]]
    return found[:rounds]


def append(file: BinaryIO, record: Record) -> None:
    """Adds a line, on disk when this returns."""
    file.write(to_line(record))
    file.flush()
    os.fsync(file.fileno())


def open_session(options: Namespace) -> Session:
    """Starts the campaign in its folder, or opens the one that is there. Raises Stop for another plan's or one that is
    running, ResultError for a damaged one."""
    folder = Path(options.out or f"results/campaign-{options.plan[:8]}")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / MANIFEST
    file = path.open("a+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Stop(USAGE, f"a campaign is running in {folder}") from None
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content) and content.startswith(b'{"kind":"campaign"'[: len(content)]):  # a line that was cut off
        file.truncate(whole)
    elif whole < len(content):
        raise Stop(USAGE, f"{path} is no campaign's")
    if not whole:
        append(file, Campaign(
            campaign_id=f"{time.strftime('%Y-%m-%dT%H-%M-%SZ', time.gmtime())}-campaign-{options.plan[:8]}",
            plan=options.plan, version=VERSION, seed=options.seed, design="grow" if options.grow else "two-stage",
            pairs=options.pairs, fresh=0 if options.grow else options.fresh, margin=options.margin,
            control=not options.no_control, variants=[one.recorded() for one in options.variant]))
    manifest = read_manifest(folder)
    if manifest.campaign.plan != options.plan:
        raise Stop(USAGE, f"{folder} holds another campaign: remove it, or name another folder with --out")
    return Session(options, folder, manifest, file)


def launch_s(options: Namespace) -> float | None:
    """Seconds that the budget has for a launch of everything; None without a budget. Raises Stop for too few."""
    if not options.budget:
        return None
    each = len(options.variant)
    launches = each + MORE_PILOTS + rounds(options) * (each + (not options.no_control))
    launches += 0 if options.grow else options.fresh * each * FRESH_SHARE
    if options.budget < LEAST_LAUNCH_S * launches:
        raise Stop(USAGE, f"--budget: {launches:.0f} launches need {time_text(LEAST_LAUNCH_S * launches)} at least")
    return float(options.budget / launches)


def rounds(options: Namespace) -> int:
    """How many pairs of everything there are at most."""
    return int(options.pairs * (LOOKS[-1] if options.grow else 1))


def launch(session: Session, slot: Launch, sizes: Sequence[int]) -> bool:
    """Fills a slot of the plan with a launch and records it; whether it finished. Raises Stop for a launch that says
    that there can be none."""
    options, variant = session.options, session.variants[slot.variant]
    for path in session.manifest.foreign:  # of a launch that an earlier session did not see end
        if path.suffix == ".jsonl" and path.parent.name in session.variants:
            session.record(replace(slot, variant=path.parent.name, run=str(path.relative_to(session.folder)),
                                   status="orphaned", reason="the campaign was ended in mid-launch"))
    session.manifest.foreign = []
    if options.pause and variant is not session.last:
        say(f"next: {variant.name}; press Enter when the machine is set up for it")
        if not sys.stdin.readline():
            raise KeyboardInterrupt
    session.last = variant
    home = session.folder / slot.variant
    home.mkdir(exist_ok=True)
    before = set(home.glob("*.jsonl"))
    longest_s = max((one.elapsed_s for one in session.finished("pilot")), default=0.0)
    limit_s = 5 * longest_s + GRACE_S if slot.stage != "pilot" else options.budget or LONGEST_PILOT_S
    max_time_s = launch_s(options)
    if max_time_s and slot.stage == "fresh":
        max_time_s = max(max_time_s * FRESH_SHARE, LEAST_LAUNCH_S)
    command = command_line(variant, home, options.seed + slot.pair, max_time_s, sizes)
    started_s = time.monotonic()
    slot.exit, last_line = run_to_end(command, variant.at, variant.variables(), limit_s)
    slot.elapsed_s = time.monotonic() - started_s
    run = next(iter(set(home.glob("*.jsonl")) - before), None)
    slot.run = str(run.relative_to(session.folder)) if run else None
    slot.reason = reason_against(slot.exit, last_line, run)
    slot.status = "orphaned" if last_line is None else "died" if slot.reason else "finished"
    session.record(slot)
    if last_line is None:
        raise KeyboardInterrupt
    if slot.exit in (USAGE, CANNOT) and run is None:
        raise Stop(slot.exit, f"variant {variant.name}: {last_line}")
    return slot.status == "finished"


def fill(session: Session, stage: Stages, pair: int, place: int, name: str, sizes: Sequence[int] = ()) -> bool:
    """Launches until one finishes, at most three times; whether one did."""
    for attempt in range(1, ATTEMPTS + 1):
        slot = Launch(stage=stage, pair=pair, place=place, variant=name, attempt=attempt, status="died", elapsed_s=0.0)
        if launch(session, slot, sizes):
            return True
        say(f"{name}, attempt {attempt}: {slot.reason}")
    return False


def pilot(session: Session) -> None:
    """Finds out whether every variant runs. Raises Stop for one that does not."""
    first, *_ = names = [one.name for one in session.options.variant]
    done = {one.place for one in session.finished("pilot")}
    for place, name in enumerate([*names, *[first] * MORE_PILOTS]):
        if place not in done and not fill(session, "pilot", 0, place, name):
            reason = session.manifest.launches[-1].reason
            raise Stop(WRONG, f"variant {name} cannot be run: it died {ATTEMPTS} times, the last with: {reason}")


def announce(session: Session) -> None:
    """Says how long it will take and what it will be able to see, before anything is judged. Raises ResultError for
    variants that have no case in common."""
    options, fresh = session.options, session.manifest.campaign.fresh
    done = session.finished("pilot")
    pilots = {one.name: [made for made in done if made.variant == one.name] for one in options.variant}
    each_s = [float(np.median([one.elapsed_s for one in made])) for made in pilots.values()]
    first_s = rounds(options) * (sum(each_s) + (0 if options.no_control else each_s[0]))
    most_s = first_s + fresh * sum(each_s) * (FRESH_SHARE if options.budget else 1)
    looks = ", ".join(str(options.pairs * times) for times in LOOKS)
    more = (f"looks after {looks} pairs" if options.grow
            else f"with {fresh} of what is in doubt at most {time_text(most_s)}")
    say(f"{rounds(options)} pairs of everything, a launch of {np.mean(each_s):.1f} s: {time_text(first_s)}; {more}")
    found = [sides.Side(name, [sides.Launch(read(session.folder / str(one.run)), one.stage, one.place) for one in made])
             for name, made in pilots.items()]
    # Whoever names two variants wants them compared; how else they differ is said, here and above the table.
    compared = comparison.compare(found, list(comparison.COMPARABLE))
    for sentence in dict.fromkeys(sentence for one in compared for sentence in one.allowed):
        say(sentence)
    spreads = spread(found[0])
    if not any(costs_us for one in found[0].launches for costs_us in one.costs.values()):
        raise Stop(CANNOT, "in no pilot a case has five blocks in one state of the link: a launch needs more time "
                   "(--budget, --max-time) or fewer cases")
    alpha = FAMILY_P / 2 / len(compared[0].cells) if options.grow else FAMILY_P
    seen = {size: float(visible_effect(np.sqrt(2) * sd, rounds(options), fresh, options.margin, alpha))
            for size, sd in spreads.items()}
    effect = float(np.median([*seen.values()])) if seen else np.nan
    if not seen:
        say("What it can see is unknown: no two pilots have five blocks of a case in one state of the link.")
    elif np.isinf(effect):
        say(f"{rounds(options)} pairs of everything and {fresh} fresh ones are too few to call any difference.")
    else:
        worst = max(seen, key=lambda size: seen[size])
        details = f"half of the sizes; the noisiest, {size_text(worst)}: {seen[worst]:.1%}"
        say(f"In {time_text(most_s)} this machine can see {effect:.1%} ({details}).")
    if not session.manifest.stages:
        session.record(Stage(stage="first", visible_effect=effect if np.isfinite(effect) else None, expected_s=first_s))


def spread(side: sides.Side) -> dict[int, float]:
    """How far launches of the same thing lie apart: the standard deviation of the log of a case's median within a state
    of the link, pooled over the cases of a size; by size in bytes."""
    sides.find_costs(side.launches, ())
    variances: dict[int, list[float]] = {}
    for key in side.launches[0].costs:
        by_state: dict[int, list[float]] = {}
        for one in side.launches:
            for state, cost_us in one.costs.get(key, {}).items():
                by_state.setdefault(state, []).append(np.log(cost_us))
        found = [float(np.var(logs, ddof=1)) for logs in by_state.values() if len(logs) > 1]
        if found:
            variances.setdefault(key[CASE_KEY.index("size_bytes")], []).extend(found)
    return {size: float(np.sqrt(np.mean(found))) for size, found in variances.items()}


def run_rounds(session: Session, stage: Stages, pairs: range, names: Sequence[str], sizes: Sequence[int] = ()) -> None:
    """A round of every variant for each pair. A round that an interruption has cut in two is made again whole: its
    halves would stand hours apart."""
    drawn = orders(names, len(pairs), f"{session.options.seed} {stage} {pairs.start}")
    for pair in pairs:
        made = [one for one in session.manifest.launches if (one.stage, one.pair) == (stage, pair)]
        settled = {one.variant for one in made
                   if one.status == "finished" or (one.status == "died" and one.attempt == ATTEMPTS)}
        if settled == set(names):
            continue
        for one in made:
            if one.status == "finished":
                session.record(replace(one, status="orphaned", reason="its pair was made again"))
        for place, name in enumerate(drawn[pair - pairs.start]):
            each_s = np.median([one.elapsed_s for one in session.finished(stage) or session.finished("pilot")])
            left_s = float(each_s) * ((pairs.stop - pair) * len(names) - place)
            said = f"{stage} pairs, {pair} of {pairs.stop - 1}: {name}, {time_text(left_s)} left"
            if sys.stderr.isatty():
                print(f"\r{said}\033[K", end="", file=sys.stderr, flush=True)
            elif place == 0:  # in a log, a line a round
                say(said)
            fill(session, stage, pair, place, name, sizes)
    say(f"{stage} pairs: {len(pairs)} done")


def stages(session: Session) -> None:
    """All pairs; which are fresh, or whether there are more, depends on what the ones before have shown."""
    options, folder = session.options, session.folder
    if options.grow:
        reached = max((one.pair for one in session.manifest.launches), default=0)
        for look in (options.pairs * times for times in LOOKS):
            run_rounds(session, "first", range(1, look + 1), list(session.variants))
            if reached <= look and not comparison.undecided(folder):
                break
        return
    run_rounds(session, "first", range(1, options.pairs + 1), list(session.variants))
    for name in session.variants.keys() - {one.variant for one in session.finished("first")}:
        raise Stop(WRONG, f"variant {name}: none of its launches after the pilot finished")
    made, is_judged = options.pairs, session.manifest.stages[-1].stage == "fresh"
    while not is_judged and made < 2 * options.pairs and (short := comparison.pairs_short(folder, options.pairs)):
        more = range(made + 1, min(made + short, 2 * options.pairs) + 1)
        say(f"half of the cells lack {short} pairs in one state of the link: {len(more)} more")
        run_rounds(session, "first", more, list(session.variants))
        made = more[-1]
    if not is_judged:
        sizes = comparison.suspect_sizes(folder)
        session.record(Stage(stage="fresh", sizes=sizes))
        say(f"in doubt: {', '.join(map(size_text, sizes))}" if sizes else "nothing is in doubt")
    if sizes := session.manifest.stages[-1].sizes:
        fresh = range(2 * options.pairs + 1, 2 * options.pairs + options.fresh + 1)
        run_rounds(session, "fresh", fresh, [one.name for one in options.variant], sizes)


def campaign(options: Namespace) -> int:
    """Runs what is left of the campaign, prints the comparison, and returns the exit status."""
    started_s = time.monotonic()
    launch_s(options)
    session = open_session(options)
    checked_out = [one for one in options.variant if one.commit]
    if session.manifest.end:
        say(f"{session.folder} holds this campaign, finished")
    else:
        if session.manifest.launches:
            say(f"going on in {session.folder} after {len(session.finished('pilot', 'first', 'fresh'))} launches")
        try:
            for one in checked_out:
                check_out(one, session.folder)
            pilot(session)
            announce(session)
            stages(session)
            session.record(End(status="complete"))
        finally:
            for one in checked_out:
                remove_worktree((session.folder / WORKTREES / one.name).resolve())
    allowed = [word for key in comparison.COMPARABLE for word in ("--allow", key)]
    told = reports(["compare", str(session.folder), *allowed])
    size_bytes = sum(path.stat().st_size for path in session.folder.rglob("*") if path.is_file())
    took = f"{len(session.manifest.launches)} launches, {time_text(time.monotonic() - started_s)}"
    print(f"campaign: {session.folder} ({size_bytes / 1e6:.1f} MB, {took})")
    return WRONG if told or any(one.exit == WRONG for one in session.finished("pilot", "first", "fresh")) else FINE


def time_text(seconds: float) -> str:
    """A length of time in the unit that suits it."""
    size, unit = next((size, unit) for size, unit in ((3600, "h"), (60, "min"), (0, "s")) if seconds >= 1.5 * size)
    return f"{seconds / (size or 1):.{int(unit == 'h')}f} {unit}"


def say(sentence: str) -> None:
    """On standard error, below what progress stands there."""
    try:
        print(("\r\033[K" if sys.stderr.isatty() else "") + sentence, file=sys.stderr, flush=True)
    except BrokenPipeError:  # whoever listened has left; the campaign goes on, for its files
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def interrupt(*_: Any) -> NoReturn:
    """Ends the campaign in order, once: what comes after the first signal must not cut that short."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m bench.campaign`; the exit status."""
    open_closed_streams()
    for number in SIGNALS:
        signal.signal(number, interrupt)
    try:
        return campaign(variants.parse(argv))
    except Stop as stop:
        status, sentence = stop.args
    except (ResultError, OSError) as error:
        where = f"{getattr(error, 'filename', None) or 'the campaign cannot be written'}: "
        status, sentence = USAGE, where + str(error.strerror) if isinstance(error, OSError) else error
    except KeyboardInterrupt:
        status, sentence = INTERRUPTED, "interrupted; what is finished is kept, and the same command goes on"
    say(f"bench.campaign: {sentence}")
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
