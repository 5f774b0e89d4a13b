"""`python -m bench.bisect` finds the commit that made a program slower: `git bisect run`, with the
gate as its test.

Good is the good commit's own code, measured again beside each commit in question, in the same
rounds: a machine that is slower tonight blames nobody. Both have a working tree of their own, and
the checkout is not touched."""

import math
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from xml.etree import ElementTree

from bench import __name__ as PACKAGE
from bench.campaigns.campaign_options import Stop, launching_parser
from bench.campaigns.ending import run_command
from bench.campaigns.open_campaign import check_new
from bench.campaigns.processes import run_to_end
from bench.campaigns.revisions import git
from bench.gate import FILES, read_options
from bench.gate import __name__ as GATE
from bench.harness.console import FINE, INTERRUPTED, USAGE, WRONG, print_out, say
from reports.verdicts.gate_rule import INCONCLUSIVE, PASS, REGRESSION, STATUSES
from wiretax.common.interpreter import module_command
from wiretax.common.owners import private_folder
from wiretax.common.program import BENCH, RUN
from wiretax.common.untrusted import read_bytes

# With these, which its hooks have, git takes another repository's HEAD and index for a tree's own.
ELSEWHERE = "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"
TREE, TEST = "{tree}", "--test-of-git-bisect"
# What a test's status tells `git bisect run`; above 127 it gives up.
GOOD, BAD, SKIP, GIVE_UP = 0, 1, 125, 255
UNBUILT = -1  # in place of a gate's status
JUDGED = re.compile("[0-9a-f]{12}: ")  # a line of `judge_commit`
EPILOG = f"""\
further options, such as --budget, --min-effect, --pairs or --wall, are those of {BENCH}gate

example:
  {RUN}{BENCH}bisect v1.2 HEAD --build "make -j" \\
    --command "python3 {{tree}}/bench.py" --budget 2m --min-effect 5

exit status:
  0 the commit is found; 1 BAD is not slower than GOOD, or git failed; 2 bad command line;
  3 not enough data, or only commits that cannot be judged are left;
  5 GOOD or BAD cannot be judged; 130 interrupted"""


class Bisection(NamedTuple):
    """The trees of the good commit and of the one in question, the line that builds either, the
    command with {tree}, the folder of the gates' folders, the folder in which the commands run, as
    its user is in it, and the gate's further options."""

    good: Path
    tested: Path
    build: str
    command: str
    folder: Path
    started_in: Path
    gate_options: Sequence[str]


def run_bisect(argv: Sequence[str] | None) -> int:
    """Finds the first bad commit, prints it, and returns the exit status. Raises one of
    FAILURES."""
    parser = launching_parser(
        "bisect",
        'GOOD BAD --command "COMMAND" [OPTION ...]',
        "Finds the commit between two that made a command slower: git bisect, with the\n"
        "gate as its test.",
        EPILOG,
    )
    option = parser.add_argument
    option("good", metavar="GOOD", help="a revision that is fast")
    option("bad", metavar="BAD", help="a later revision that is slow")
    option(
        "--command",
        required=True,
        help=f"what each commit runs: {TREE} in it is the folder of the commit's files",
    )
    option("--build", metavar="LINE", default="", help="a line for bash in each of these folders")
    option("--out", metavar="DIR", type=Path, default=Path("bisect"), help="a new folder (bisect)")
    values, gate_options = parser.parse_known_args(argv)
    if TREE not in values.command:
        raise Stop(USAGE, f"--command has no {TREE}: every commit would run the same files")
    gate_options = [word for word in gate_options if word != "--"]
    read_options(["--base=true", "--head=true", *gate_options])  # before anything is made
    if variable := next((name for name in ELSEWHERE if name in os.environ), None):
        raise Stop(USAGE, f"{variable} is set, as in a hook of git: unset it")
    commits = [commit_of(name) for name in (values.good, values.bad)]
    between = git("commits", "rev-list", f"{commits[0]}..{commits[1]}").split()
    is_later = not subprocess.run(["git", "merge-base", "--is-ancestor", *commits]).returncode
    if not between or not is_later:
        raise Stop(USAGE, f"{values.good} is not an ancestor of {values.bad}")
    check_new(values.out)
    if git("checkout", "status", "--porcelain", "--untracked-files=no"):
        say(f"{BENCH}bisect", "uncommitted changes are not measured: commits are")
    values.out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory("-bisect", dir=private_folder()) as trees:
        good, tested = Path(trees, "good"), Path(trees, "tested")
        bisection = Bisection(
            good,
            tested,
            values.build,
            values.command,
            values.out.resolve(),
            Path.cwd(),
            gate_options,
        )
        try:
            for tree, commit in zip((good, tested), commits, strict=True):
                git("tree", "worktree", "add", "--quiet", "--detach", str(tree), commit)
            return find(bisection, commits, len(between))
        finally:
            for tree in (good, tested):
                subprocess.run(
                    ["git", "worktree", "remove", "--force", "--force", str(tree)],
                    capture_output=True,
                )


def find(bisection: Bisection, commits: Sequence[str], n_between: int) -> int:
    """Judges BAD, and has git find the first bad commit. Returns the exit status. Raises Stop."""
    if not built(bisection.good, bisection.build):
        raise Stop(USAGE, f"--build fails at GOOD, {commits[0][:12]}", True)
    steps = math.ceil(math.log2(n_between)) if n_between > 1 else 0
    say(f"{BENCH}bisect", f"{n_between} commits: BAD is judged, then about {steps} more")
    status = judge_commit(bisection)
    if status != REGRESSION:
        told = "is not slower than GOOD"
        if status != PASS:
            told = "cannot be called slower than GOOD: the line above says why"
        sentence = f"BAD, {commits[1][:12]}, {told} ({bisection.folder})"
        ending = {PASS: WRONG, UNBUILT: USAGE}.get(status, status)
        raise Stop(ending, sentence)
    log = bisection.folder / "bisect"
    git("bisect", "-C", str(bisection.tested), "bisect", "start", commits[1], commits[0])
    if n_between > 1:
        words = [*module_command(f"{PACKAGE}.bisect"), TEST, *map(str, bisection[:-1])]
        words += bisection.gate_options
        line = ["git", "bisect", "run", *words]
        status, last_line = run_to_end(line, bisection.tested, os.environ, log=log)
        output, errors = (
            read_bytes(log.with_suffix(suffix)).decode(errors="replace")
            for suffix in (".out.txt", ".err.txt")
        )
        print_out("".join(line for line in output.splitlines(True) if JUDGED.match(line)))
        record = git("bisect", "-C", str(bisection.tested), "bisect", "log")
        if b"# only skipped commits left to test" in record:  # git's words, in any language
            say(f"{BENCH}bisect", "only commits that cannot be judged are left")
            print_out(f"the gates: {bisection.folder}\n")
            return INCONCLUSIVE
        if status:
            # The last line is git's, with the whole line of our test.
            prefix = f"{BENCH}bisect: "
            said = [line for line in errors.splitlines() if line.startswith(prefix)]
            last_line = said[-1].removeprefix(prefix) if said else last_line
            raise Stop(USAGE, f"git bisect gave up: {last_line} (the gates: {bisection.folder})")
    shown = ["-C", str(bisection.tested), "log", "-1", "--format=%h %s (%an, %as)"]
    first = git("bisect", *shown, "refs/bisect/bad").decode(errors="replace").strip()
    print_out(f"first bad commit: {first}\nthe gates: {bisection.folder}\n")
    return FINE


def commit_of(revision: str) -> str:
    """The hash of a revision. Raises Stop."""
    words = "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}"
    done = subprocess.run(["git", *words], capture_output=True, text=True)
    if done.returncode:
        raise Stop(USAGE, f"{revision} is no revision of a repository here")
    return done.stdout.strip()


def built(tree: Path, line: str) -> bool:
    """Whether the line, if there is one, ends well in this tree."""
    if not line:
        return True
    status, last_line = run_to_end(["bash", "-e", "-c", line], tree, os.environ)
    if status:
        say(f"{BENCH}bisect", f"the build ended with status {status}: {last_line}")
    return not status


def judge_commit(bisection: Bisection) -> int:
    """The status of the gate on the commit that is checked out, or UNBUILT."""
    shown = ["-C", str(bisection.tested), "rev-parse", "HEAD"]
    commit = git("commit", *shown).decode().strip()[:12]
    if not built(bisection.tested, bisection.build):
        print_out(f"{commit}: cannot be built, skipped\n")
        return UNBUILT
    folder = bisection.folder / commit
    base, head = (
        bisection.command.replace(TREE, shlex.quote(str(tree)))
        for tree in (bisection.good, bisection.tested)
    )
    words = [*module_command(GATE), "--base", base, "--head", head, "--out", str(folder)]
    status, last_line = run_to_end(
        [*words, *bisection.gate_options],
        bisection.started_in,  # not the tree in which git runs this test
        os.environ,
        log=bisection.folder / commit,
    )
    if status == USAGE or status not in range(len(STATUSES)):
        raise Stop(
            INTERRUPTED if status == INTERRUPTED else USAGE,
            f"{commit}: {last_line.removeprefix(f'{BENCH}gate: ')}",
        )
    print_out(f"{commit}: {headline_in(folder) or STATUSES[status]}\n")
    return status


def headline_in(folder: Path) -> str:
    """The verdict in the JUnit file of a gate's folder, or "" if the disk had no room for it."""
    file = folder / FILES["junit"]
    if not file.exists():
        return ""
    text = ElementTree.fromstring(read_bytes(file)).findtext("system-out") or ""
    return text.partition("\n")[0]


def answer_git(words: Sequence[str] | None) -> int:
    """The test of `git bisect run`: the gate's status as git reads it."""
    good, tested, build, command, folder, started_in, *options = words or ()
    bisection = Bisection(
        Path(good), Path(tested), build, command, Path(folder), Path(started_in), options
    )
    status = judge_commit(bisection)
    return {PASS: GOOD, REGRESSION: BAD}.get(status, SKIP)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command, or the test that it has `git bisect run` start."""
    words = sys.argv[1:] if argv is None else argv
    if words[:1] != [TEST]:
        return run_command(f"{BENCH}bisect", run_bisect, argv)
    status = run_command(f"{BENCH}bisect", answer_git, words[1:])
    return status if status in (GOOD, BAD, SKIP) else GIVE_UP


if __name__ == "__main__":
    sys.exit(main())
