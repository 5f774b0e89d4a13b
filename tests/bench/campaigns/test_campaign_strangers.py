"""Tests campaigns and gates of root in a folder of another user, who plants links and pipes while
the commands run."""

import shlex
import sys

import pytest

from bench.gate import main as gate
from tests.another_user import NOBODY, as_root, give
from tests.bench.campaigns.test_campaign import run
from tests.bench.campaigns.test_campaign_command import named
from wiretax.record.manifest import read_manifest

pytestmark = as_root

# A harness. While it runs, the owner of the folder does once what the second word says.
PROGRAM = f"""
import json, os, random, sys
from pathlib import Path
out, deed, seed, *file = sys.argv[1:]
folder, victim = Path(out), Path(out).parent / "victim"

def plant(name):
    (folder / name).symlink_to(victim / "file")

def swap(name):
    (folder / name).rename(folder / "moved")
    plant(name)
    (folder / name).unlink()
    (folder / name).symlink_to(victim)

def output(name):
    swap(name)
    (folder / name).unlink()
    (folder / name / "launch-1.output").mkdir(parents=True)
    plant(f"{{name}}/launch-1.output/launch.file.txt")
    plant(f"{{name}}/launch-1.output/launch.out.txt")

if not (folder / "done").exists():
    if not (child := os.fork()):
        os.setgid({NOBODY})
        os.setuid({NOBODY})
        (folder / "done").touch()
        exec(deed)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
draw = random.Random(seed)
line = {{"collective": "all_reduce", "size_bytes": 8, "algorithm": "mine", "n_wrong": 0}}
line["time_us"] = [draw.gauss(5, 0.1) for _ in range(8)]
print(json.dumps(line), file=open(file[0], "w") if file else sys.stdout)
"""
FILES = (
    "(folder / 'status').unlink(), plant('status'), plant('index.html'), "
    "os.mkfifo(folder / 'summary.md')"
)


@pytest.fixture
def theirs(open_folder):
    """Nobody's empty folder, beside a victim and the harness."""
    (open_folder / "victim").mkdir()
    (open_folder / "victim" / "file").write_text("kept")
    (open_folder / "mine.py").write_text(PROGRAM)
    folder = give(open_folder / "theirs")
    yield folder
    assert [path.name for path in (open_folder / "victim").iterdir()] == ["file"]
    assert (open_folder / "victim" / "file").read_text() == "kept"


def command(folder, deed, *more):
    words = [sys.executable, str(folder.parent / "mine.py"), str(folder), deed, "{seed}", *more]
    return shlex.join(words)


def test_a_gate_replaces_planted_links_and_waits_on_no_pipe(theirs, monkeypatch):
    monkeypatch.setattr("signal.signal", lambda *_: None)
    line = command(theirs, FILES)
    options = ["--budget", "60s", "--pairs", "6", "--ranks", "2", "--quiet", "--out", str(theirs)]
    status = gate(["--base", line, "--head", line, *options])
    assert (theirs / "status").read_text() == f"{status}\n"
    assert status in (0, 1, 3)
    assert not any(path.is_symlink() for path in theirs.iterdir())
    assert (theirs / "summary.md").is_file()


@pytest.mark.parametrize("deed", ["swap", "output"])
def test_no_run_and_no_output_is_written_through_a_link(theirs, deed):
    line = command(theirs, f"{deed}('a')", "{out}")
    options = ["--pairs", "1", "--ranks", "2", "--keep-output"]
    status, _, err = run(theirs, *named(a=line, b=line), *options)
    sentence = err.splitlines()[-1]
    assert (status, sentence.startswith("bench.campaign: ")) == (2, True), err
    assert sentence.endswith(".jsonl cannot be read: No such file or directory")
    output = theirs / "moved" / "launch-1.output" / "launch.file.txt"
    assert '"algorithm": "mine"' in output.read_text()


def test_a_folder_of_another_user_may_hold_a_campaign(theirs):
    """Such as a folder that a user has mounted for root in a container, and that of a group."""
    theirs.chmod(0o2777)
    line = command(theirs, "pass")
    status, _, err = run(theirs / "new", *named(a=line, b=line), "--pairs", "1", "--ranks", "2")
    assert status == 0, err
    assert len(read_manifest(theirs / "new").launches) == 6
