"""The code of a variant's revision: the files of its commit's tree, and no others."""

import io
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

from bench.campaigns.campaign_options import Stop, Variant
from bench.campaigns.processes import run_to_end
from bench.harness.console import USAGE, WRONG
from bench.harness.session import MEASURED, PACKAGES, source_digest
from wiretax.common.untrusted import read_bytes

ROOT = Path(__file__).parents[2]
IMPORTED = "bench", *MEASURED, "reports", "wiretax"
LOCK = "locks/runtime.lock"
SUBMODULE, LINK, PROGRAM = b"160000", b"120000", b"100755"  # modes in a tree of git
STANDS_IN = "raise ImportError('this revision has no package {}')\n"


def check_out(variant: Variant, folder: Path) -> str:
    """Writes the files of the variant's commit, with a virtual environment if it needs other
    packages than this tree. Returns the digest of its code. Raises Stop."""
    subject = f"variant {variant.name}"
    write_tree(subject, str(variant.commit), folder)
    package = "wiretax" if "wiretax" in map(os.path.basename, variant.launcher) else "bench"
    if not (folder / package).is_dir():
        raise Stop(USAGE, f"{subject}: its revision has no {package}", True)
    for name in IMPORTED:  # otherwise Python would find the package of the current checkout
        if not (folder / name / "__init__.py").exists() and not (folder / f"{name}.py").exists():
            (folder / f"{name}.py").write_text(STANDS_IN.format(name))
    if lock_of(folder) not in (b"", lock_of(ROOT)):
        status, last_line = run_to_end(["make", "setup"], folder, variant.environment(folder))
        if status:
            raise Stop(WRONG, f"{subject}: `make setup` of its revision failed: {last_line}", True)
    return source_digest(*(folder / name.replace(".", "/") for name in PACKAGES))[:12]


def lock_of(root: Path) -> bytes:
    """The pinned packages that a tree needs; b"" if it pins none, as an early revision."""
    lock = root / LOCK
    return read_bytes(lock) if lock.is_file() else b""


def write_tree(subject: str, commit: str, folder: Path) -> None:
    """Writes each file of Wiretax in the commit's tree as the commit has it. `git archive` would
    leave out and change what the attributes say, also those of .git/info/attributes. Raises
    Stop."""
    tree = f"{commit}:{place_in(commit)}"
    listed = git(subject, "ls-tree", "-r", "-z", "--full-tree", tree).split(b"\0")[:-1]
    entries = list[tuple[bytes, bytes, str]]()
    for line in listed:
        words, name = line.split(b"\t", 1)
        mode, _, blob = words.split()
        entries.append((mode, blob, os.fsdecode(name)))
    if modules := [path for mode, _, path in entries if mode == SUBMODULE]:
        sentence = "its revision has submodules, whose files are in other repositories"
        raise Stop(USAGE, f"{subject}: {sentence}: {', '.join(modules)}", True)
    wanted = b"".join(b"%s\n" % blob for _, blob, _ in entries)
    content = io.BytesIO(git(subject, "cat-file", "--batch", lines=wanted))
    links = dict[Path, str]()
    folder.mkdir(parents=True)
    for mode, blob, inside in entries:
        found, path = content.readline().split(), folder / inside
        if found[:2] != [blob, b"blob"] or not is_inside(path, folder):
            raise Stop(WRONG, f"{subject}: the repository lacks {inside} of its revision", True)
        file = content.read(int(found[2]))
        content.read(1)  # a line's end
        path.parent.mkdir(parents=True, exist_ok=True)
        if mode == LINK:
            links[path] = os.fsdecode(file)
        else:
            path.write_bytes(file)
            path.chmod(0o755 if mode == PROGRAM else 0o644)
    for path, target in links.items():  # last, so that no file goes through one
        path.symlink_to(target)
    for path in links:  # once all are there: one may lead through others
        if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
            sentence = f"the link {path.relative_to(folder)} leads out of its revision"
            raise Stop(USAGE, f"{subject}: {sentence}", True)


def place_in(commit: str) -> str:
    """The folder of the commit's tree that has Wiretax, such as `third_party/wiretax/`, or "" for
    the top: the current folder's or the nearest above it."""
    words = ["git", "rev-parse", "--show-prefix"]
    shown = subprocess.run(words, capture_output=True).stdout.removesuffix(b"\n")
    inside = Path(os.fsdecode(shown))
    for folder in (inside, *inside.parents):
        place = "" if folder == Path() else f"{folder}/"
        exists = "git", "--no-replace-objects", "cat-file", "-e", f"{commit}:{place}bench"
        if not subprocess.run(exists, capture_output=True).returncode:
            return place
    return ""


def is_inside(path: Path, folder: Path) -> bool:
    return Path(os.path.normpath(path)).is_relative_to(folder)


def git(subject: str, *words: str, lines: bytes = b"") -> bytes:
    """What git answers, without the objects that `git replace` puts in place of others. Raises
    Stop."""
    done = subprocess.run(["git", "--no-replace-objects", *words], input=lines, capture_output=True)
    if done.returncode:
        raise Stop(WRONG, f"{subject}: {done.stderr.decode(errors='replace').strip()}", True)
    return done.stdout


def unmeasured_changes(variants: Iterable[Variant]) -> str:
    """A sentence on uncommitted changes of the checkout that no variant runs, beside a variant that
    runs its last commit; "" without them."""
    own = [variant for variant in variants if not variant.is_foreign]
    commits = {variant.commit for variant in own}
    if None in commits or not commits:
        return ""
    place = place_in("HEAD")
    paths = [f":(top,literal){place}{name}" for name in (*IMPORTED, LOCK)]
    words = ["git", "rev-parse", "HEAD"], ["git", "status", "--porcelain", "--", *paths]
    head, changes = (subprocess.run(each, capture_output=True, text=True).stdout for each in words)
    measured = [variant.name for variant in own if variant.commit == head.strip()]
    if not measured or not changes.strip():
        return ""
    return f"uncommitted changes are not measured: variant {measured[0]} is HEAD as committed"
