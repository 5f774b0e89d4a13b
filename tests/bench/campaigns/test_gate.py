"""Tests the gate with real launches of small scripts: however it ends, a status and the reason are
in its folder, and nothing that is wrong or dies passes."""

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from xml.etree import ElementTree

import pytest

from bench.gate import main as gate
from bench.gate import read_options
from reports.__main__ import main as reports
from reports.kit.page import banner_png
from tests.bench.faulty_runs import wait_for
from tests.bench.launches import watched
from tests.reports.imports.test_serving import VLLM

# Prints timing lines, and acts as its words say in the launches with these numbers, which it counts
# in a file. Launch 0 is its pilot.
PROGRAM = """
import json, os, pathlib, random, sys, time
factor, counter, act, *numbers = sys.argv[1:]
count = pathlib.Path(counter)
number = len(count.read_text()) if count.exists() else 0
count.open("a").write("x")
acts = str(number) in numbers
draw = random.Random(time.time_ns())
for size in (16384,) if act == "lose" and (acts or not numbers) else (16384, 1048576):
    times_us = [(5 + size / 1e4) * float(factor) * draw.gauss(1, 0.005) for _ in range(6)]
    line = {"collective": "all_reduce", "size_bytes": size, "time_us": times_us, "ranks": 2}
    wrong = 3 if acts and act in ("wrong", "wrong_and_die") else 0
    print(json.dumps(line | {"n_wrong": wrong}), flush=True)
if act == "more":
    print(json.dumps({"name": "moe", "size_bytes": 0, "time_us": 5, "ranks": 2}))
if acts and act == "fail":
    print("Collective test concluded: all_reduce_perf\\nhost: Test NCCL failure common.cu:345")
if acts and act == "die":
    sys.exit("verification failed")
if acts and act == "wrong_and_die":
    os.abort()
"""


@pytest.fixture
def side(tmp_path):
    """The command of a side: its time relative to the base, and in which launches it does what."""
    path = tmp_path / "mine.py"
    path.write_text(PROGRAM)

    def command(factor=1.0, act="-", *numbers):
        counter = tmp_path / f"count-{factor}-{act}-{len(numbers)}-{time.monotonic_ns()}"
        words = [sys.executable, path, factor, counter, act, *numbers]
        return shlex.join(map(str, words))

    return command


def judged(folder, base, head, *options, pairs=6):
    """The status of a gate, which its file repeats."""
    words = [f"--base={base}", f"--head={head}", "--out", str(folder), "--quiet"]
    status = gate([*words, "--pairs", str(pairs), *options])
    assert (folder / "status").read_text() == f"{status}\n"
    return status


def said(folder):
    """The summary, the JUnit and the page, each of which tells the outcome."""
    return [(folder / name).read_text() for name in ("summary.md", "junit.xml", "index.html")]


def test_the_gate_answers_with_a_status_and_files(tmp_path, side, capsys):
    """A CI owner types two commands, and reads one status."""
    folder = tmp_path / "gate"
    assert judged(folder, side(), side(1.1), "--min-effect", "3", pairs=8) == 1
    assert all("SLOWER" in text for text in said(folder))
    assert {path.name for path in folder.iterdir()} >= {"base", "head"}
    printed = capsys.readouterr().out
    assert "REGRESSION: SLOWER" in printed
    assert f"\nthe page: {tmp_path}/gate/index.html\n" in printed
    assert judged(tmp_path / "same", side(), side(1.0, "more"), "--min-effect", "5") == 0
    assert "new in head, and not judged: moe program" in said(tmp_path / "same")[0]


def test_failed_requests_are_unusable_in_every_report(tmp_path, capsys):
    """A server that drops requests is fast. Pages said SAME, and the gate UNUSABLE."""
    paths = [tmp_path / "base.json", tmp_path / "head.json"]
    for path, failed in zip(paths, (0, 3), strict=True):
        path.write_text(json.dumps(VLLM | {"completed": VLLM["completed"] - failed}))
    assert judged(tmp_path / "all" / "gate", *(f"cat {path}" for path in paths)) == 5
    fault = "head is incomplete in 6 of 6 launches: 3 of"
    (suite,) = ElementTree.parse(tmp_path / "all/gate/junit.xml").iter("testsuite")
    assert [case.get("name") for case in suite.findall("*[error]")] == ["both sides can be judged"]
    assert said(tmp_path / "all/gate")[0].startswith("## ✗ UNUSABLE: head is incomplete in 6 of 6")
    capsys.readouterr()
    assert reports(["compare", str(tmp_path / "all/gate")]) == 0
    assert capsys.readouterr().out.startswith(f"UNUSABLE: {fault}")
    assert reports(["dashboard", str(tmp_path / "all"), "--out", str(tmp_path / "site")]) == 0
    for page in (tmp_path / "site" / "index.html", *(tmp_path / "site").glob("compare-*.html")):
        banner = page.read_text().partition('<header class="banner worse">')[2]
        assert re.match(rf"\s*<b>UNUSABLE</b>\s*<h1>{fault}", banner), page


def test_a_serving_bench_that_got_slower_fails_and_its_cold_first_request_is_named(
    tmp_path, capsys
):
    """A reviewer of a kernel asks for the engine's figures; a server that was not warm would be
    compared by its start."""
    paths = [tmp_path / "base.json", tmp_path / "head.json"]
    for path, share in zip(paths, (1.0, 1.1), strict=True):
        slowed = {name: VLLM[name] * share for name in ("median_tpot_ms", "mean_itl_ms")}
        path.write_text(json.dumps(VLLM | slowed | {"mean_ttft_ms": 900.0}))
    assert judged(tmp_path / "gate", *(f"cat {path}" for path in paths)) == 1
    out = capsys.readouterr().out.replace("\n", " ")
    assert out.startswith("REGRESSION: SLOWER up to 10.0%: serving ")
    first = out.partition(";")[0]
    assert ("tpot" in first, "itl" in first, "ttft" in first) == (True, True, False)
    assert "note: cold first request, perhaps: the mean is 900 ms to the first token" in out


WRONG = {
    # A flaky kernel: the pilot is not judged, and a launch that died is repeated.
    "head's pilot": ("head", "wrong", 0, "a pilot"),
    "a pair's launch": ("head", "wrong", 4, "in 1 of 7 launches of head"),
    "a launch that died": ("head", "wrong_and_die", 4, "which died"),
}


@pytest.mark.parametrize("place", WRONG)
def test_a_wrong_result_of_any_launch_is_unusable(tmp_path, side, place, capsys):
    name, act, number, words = WRONG[place]
    folder, commands = tmp_path / "gate", {"base": side(), "head": side()}
    commands[name] = side(1.0, act, number)
    assert judged(folder, **commands) == 5
    for text in [capsys.readouterr().out.replace("\n", " "), *said(folder)]:
        assert "is wrong in" in text
        assert words in text
    current = ["--current", f"{folder}/{name}", "--reason", "x"]
    assert reports(["accept", "--baseline", str(tmp_path), *current]) == 5


def test_a_command_that_exits_with_0_when_its_time_is_over_has_died(tmp_path, side, monkeypatch):
    """A deadlock: its rows so far look like a whole launch."""
    monkeypatch.setattr("bench.campaigns.launches.GRACE_S", 0.5)
    script = tmp_path / "hang.sh"
    script.write_text(f"""trap 'exit 0' INT
{side()}
[ "$(cat {tmp_path}/n 2>/dev/null | wc -c)" != 2 ] || {{ echo x >>{tmp_path}/n; sleep 60 & wait; }}
echo x >>{tmp_path}/n""")
    assert judged(tmp_path / "gate", side(), f"bash {script}") == 5
    assert (
        "head died in 1 of 8 launches, the last time with: took longer"
        in said(tmp_path / "gate")[0]
    )


def test_what_cannot_be_judged_has_status_5_and_a_bad_command_line_2(tmp_path, side, capsys):
    dead = shlex.join(["sh", "-c", "echo no device; exit 1"])
    cases = {
        "dead-base": (dead, side(), 5, "variant base cannot run"),
        "lost-size": (side(), side(1, "lose"), 5, "head lacks 1 MiB program, which base has"),
        "failed-later": (side(), side(1, "fail", 4), 5, " is incomplete"),
        "silent": (side(), "true", 5, "variant head: it printed nothing (--wall times"),
        "no-benchmark": ("echo hello", side(), 2, "variant base: its output has no timings"),
    }
    for name, (base, head, status, sentence) in cases.items():
        assert judged(tmp_path / name, base, head) == status, name
        assert all(sentence in text for text in said(tmp_path / name)), name
        printed = capsys.readouterr()
        assert sentence in (printed.out + printed.err).replace("\n", " ")


def test_a_side_that_cannot_run_is_named_with_its_output_and_what_it_was(
    tmp_path, side, monkeypatch, capsys
):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_SHA", "0123456789abcdef")
    monkeypatch.setenv("GITHUB_HEAD_REF", "fix::a,50%")
    dead = shlex.join(["sh", "-c", "seq 99999; echo no device 50% >&2; exit 1"])
    folder = tmp_path / "gate"
    assert judged(folder, side(), dead, "--base-name", "abcdef1 v1.0") == 5
    for text in said(folder):
        assert "base: abcdef1 (v1.0): " in text
        assert "head: 0123456789ab (fix:" in text
        assert f"its output is in {folder}/head/launch-" in text
    (first, *_) = sorted((folder / "head").glob("launch-*.output/launch.out.txt"))
    assert (first.stat().st_size, first.read_text()[-6:]) == (64 << 10, "99999\n")
    (error,) = [line for line in capsys.readouterr().out.splitlines() if "::error" in line]
    assert error.startswith("::error title=wiretax gate::UNUSABLE: variant head cannot run: ")
    assert "50%25" in error
    monkeypatch.delenv("GITHUB_ACTIONS")
    assert judged(tmp_path / "b", side(), dead) == 5
    assert "::error" not in capsys.readouterr().out


def test_a_mistake_is_answered_and_its_folder_can_be_used_again(tmp_path, side, capsys):
    """Otherwise a mistyped option would need the folder to be removed."""
    folder = tmp_path / "gate"
    for words in (["--pears", "3"], ["--pairs", "5"], ["--min-effect", "0.1"]):
        assert judged(folder, side(), side(), *words) == 2
        assert capsys.readouterr().err.startswith("bench.gate: ")
        assert all("NOT JUDGED" in text for text in said(folder))
    links = [shlex.join([sys.executable, "-m", "bench.link"])] * 2
    assert judged(folder, *links, "--budget", "1s") == 2
    assert capsys.readouterr().err.endswith("and the pilots, need at least 64 s\n")
    words = ["--base", links[0], "--head", links[1], "--budget", "80s"]
    assert read_options(words)[0].head.pairs == 8
    refuses = shlex.join([sys.executable, "-m", "bench.allreduce", "--bogus"])
    assert judged(folder, refuses, side()) == 2
    assert "unrecognized arguments: --bogus" in capsys.readouterr().err
    four = shlex.join(["sh", "-c", f"{side()} | sed 's/: 2}}/: 4}}/; s/: 2,/: 4,/'"])
    assert judged(folder, side(), four) == 4
    assert "--allow world compares" in said(folder)[0]
    assert judged(folder, side(), four, "--allow", "world") in (0, 3)
    assert gate(["--out", str(folder), "--base", side(), "--head", side()]) == 2
    assert "is there already" in capsys.readouterr().err
    assert "NOT JUDGED" not in said(folder)[0]


def test_a_gate_that_is_stopped_while_it_judges_leaves_no_pass(tmp_path, side, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    folder = tmp_path / "gate"
    monkeypatch.setattr("reports.verdicts.regress.banner_png", interrupt)  # two files are written
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert judged(folder, side(), side(), "--min-effect", "20") == 130
    assert "INTERRUPTED" in (folder / "summary.md").read_text()
    assert not [text for text in folder.glob("*.*") if "PASS" in text.read_text(errors="replace")]


def test_a_gate_that_is_stopped_while_it_writes_has_written_all(tmp_path, side, monkeypatch):
    """An import of matplotlib that a signal ended cannot be repeated: the answer had none."""
    folder, drawn = tmp_path / "gate", []

    def stop(page):
        signal.raise_signal(signal.SIGINT)
        drawn.append(banner_png(page))
        return drawn[-1]

    monkeypatch.setattr("reports.verdicts.regress.banner_png", stop)
    assert judged(folder, side(), side(), "--min-effect", "20") == 130
    assert "INTERRUPTED" in (folder / "summary.md").read_text()
    assert len(drawn) == 2  # of the verdict, and of the interruption


def test_links_and_pipes_in_place_of_the_answer_are_replaced(tmp_path, side):
    """The gate wrote through a link, and waited for a reader of a pipe for ever."""
    folder, own = tmp_path / "gate", tmp_path / "own"
    own.write_text("mine")
    base, head = side(), side()
    inside = f"import os; os.path.exists('{folder}/index.html') or "
    plant = f"(os.symlink('{own}', '{folder}/summary.md'), os.mkfifo('{folder}/index.html'))"
    script = tmp_path / "head.sh"
    script.write_text(f'{sys.executable} -c "{inside}{plant}"\n{head}\n')
    assert judged(folder, base, f"sh {script}", "--min-effect", "10") == 0
    assert own.read_text() == "mine"
    assert all("PASS" in text for text in (said(folder)[0], said(folder)[2]))


def test_a_gate_that_is_killed_takes_everything_along(tmp_path, side):
    """Also what its command has started, and what has left its process group."""
    hangs = "sh -c 'setsid sleep 300 & sleep 301'"
    words = ["--base", hangs, "--head", hangs, "--out", str(tmp_path / "gate")]
    with watched("-m", "bench.gate", *words) as process:
        wait_for(lambda: "sleep 301" in subprocess.getoutput("ps ax -o args"))
        process.kill()
        process.wait()
    assert (tmp_path / "gate" / "status").read_text() == "130\n"


def test_launches_that_die_are_told_and_unusable_if_one_side_has_them(tmp_path, side, capsys):
    folder = tmp_path / "gate"
    assert judged(folder, side(), side(1.0, "die", 1, 3, 5, 7, 9, 11)) == 5
    for text in [capsys.readouterr().out.replace("\n", " "), *said(folder)]:
        assert "head died in 6 of 13 launches" in text
    reports(["compare", str(folder), "--json"])
    assert "head died in 6 of 13" in capsys.readouterr().out

    assert "output of such a launch: head/launch-" in said(folder)[0]
    kept = sorted((folder / "head").glob("launch-*.output/launch.err.txt"))
    assert len(kept) == 5, "bounded"
    assert {path.read_text() for path in kept} == {"verification failed\n"}
    suite = ElementTree.parse(folder / "junit.xml").getroot()
    assert [suite.get(name) for name in ("errors", "failures")] == ["1", "0"]
    assert suite.get("tests") == str(len(suite.findall("testcase")))
    times_s = [float(case.get("time", "")) for case in suite.findall("testcase")]
    assert times_s[0] > 0.1
    assert 0 < times_s[1] < 1e-3
    assert float(suite.get("time", "")) == pytest.approx(sum(times_s))

    both = side(1.0, "die", 2), side(1.0, "die", 1)
    assert judged(tmp_path / "both", *both, "--min-effect", "5") == 0
    for text in said(tmp_path / "both"):
        assert "head died in 1 of 8 launches" in text
        assert "base died in 1 of 10 launches" in text
