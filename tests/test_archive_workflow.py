"""The workflow that answers an issue with an archive: its steps run as GitHub runs them, and what a
stranger writes reaches neither a shell, a right to write, nor the markup of the comment."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.another_user import as_root
from tests.launch import ROOT
from tests.reports.synthetic_archive import OTHER, write_archive
from wiretax.common.program import SEND_ARCHIVE

pytestmark = pytest.mark.unit

WORKFLOWS = ROOT / ".github/workflows"
TEXT = (WORKFLOWS / "archive.yml").read_text()
JOBS = yaml.safe_load(TEXT)["jobs"]
FORM = yaml.safe_load((ROOT / ".github/ISSUE_TEMPLATE/archive.yml").read_text())
LINK = "https://github.com/user-attachments/files/123/survey-1.tar.gz"
[CONSENT] = next(part for part in FORM["body"] if part.get("id") == "consent")["attributes"][
    "options"
]
ROW = {
    "machine": "2x R9700, PCIe 5 x16, peers (EPYC 9354), 1a2b3c4d",
    "gpu": "R9700",
    "gpus": 2,
    "size_bytes": 16384,
    "time_us": 21.5,
    "transport": "p2p",
    "date": "2026-11-30",
    "withdrawn": "",
}


SPEC = importlib.util.spec_from_file_location("archive_issue", ROOT / ".github/archive_issue.py")
assert SPEC
assert SPEC.loader
SCRIPT = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(SCRIPT)


def body(link=f"[survey-1.tar.gz]({LINK})", tick="x", more="_No response_"):
    """The text of an issue as GitHub makes it from the form."""
    words = {"archive": link, "consent": f"- [{tick}] {CONSENT['label']}"}
    parts = [part for part in FORM["body"] if "id" in part]
    return "\n\n".join(
        f"### {part['attributes']['label']}\n\n{words.get(part['id'], more)}" for part in parts
    )


def answer_of(rows=(), reasons=()):
    return json.dumps({"schema": 1, "rows": list(rows), "reasons": list(reasons)})


def step(job, number):
    """A step's shell line and variables, and those of no other job."""
    return [step for step in JOBS[job]["steps"] if "run" in step][number]


@pytest.fixture
def github(tmp_path):
    """Runs a step on a runner whose curl, sudo and gh are fakes, and returns how it ended. A
    program `bin/NAME` gets a line of shell; its arguments stand in `NAME.args`."""
    (tmp_path / "bin").mkdir()

    def run(job, number, *, issue=None, outputs=(), **programs):
        for name, line in programs.items():
            path = tmp_path / "bin" / name
            path.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >"{tmp_path}/{name}.args"\n{line}\n')
            path.chmod(0o755)
        (tmp_path / "event.json").write_text(json.dumps({"issue": {"body": issue}}))
        given = {
            name: re.sub(r"\$\{\{ (.*?) \}\}", lambda match: dict(outputs)[match[1]], text)
            for name, text in step(job, number).get("env", {}).items()
        }
        outside = {
            "PATH": f"{tmp_path}/bin:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "GITHUB_EVENT_PATH": str(tmp_path / "event.json"),
            "GITHUB_OUTPUT": str(tmp_path / "output"),
            "RUNNER_TEMP": str(tmp_path),
        }
        text = step(job, number)["run"].replace("comment.md", f"{tmp_path}/comment.md")
        return subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", text],
            cwd=ROOT,
            capture_output=True,
            text=True,
            env=outside | given,
        )

    return run


def test_an_archive_goes_from_the_issue_to_a_comment(github, tmp_path):
    """The two jobs, with a check that prints a row."""
    done = github(
        "check",
        -1,
        issue=body(),
        curl='touch "$RUNNER_TEMP/archive.tar.gz"',
        sudo=f"test -e archive.tar.gz && echo '{answer_of([ROW])}'",
    )
    assert (done.returncode, done.stderr) == (0, "")
    name, _, answer = (tmp_path / "output").read_text().rstrip("\n").partition("=")
    assert name == "answer"
    assert "\n" not in answer
    outputs = {"needs.check.outputs.answer": answer}
    assert github("answer", 0, outputs=outputs).returncode == 0
    text = (tmp_path / "comment.md").read_text()
    assert "Rows of this archive: 1." in text
    assert "machine: 2x R9700, PCIe 5 x16, peers (EPYC 9354), 1a2b3c4d\n" in text
    assert "withdrawn" not in text
    about = {"github.token": "t", "github.repository": "a/b", "github.event.issue.number": "7"}
    assert github("answer", 1, outputs=about, gh="").returncode == 0
    words = (tmp_path / "gh.args").read_text().split()
    assert words[:5] == ["issue", "comment", "7", "--edit-last", "--create-if-none"]


def test_the_check_of_an_archive_gives_what_the_comment_shows(github, tmp_path):
    sent = write_archive(tmp_path / "sent.tar.gz", machine_id=OTHER)
    without_sandbox = 'while [ "$1" != env ]; do shift; done; exec "$@"'
    curl = f'cp "{sent}" archive.tar.gz'
    done = github("check", -1, issue=body(), curl=curl, sudo=without_sandbox)
    assert (done.returncode, done.stderr) == (0, "")
    answer = (tmp_path / "output").read_text().removeprefix("answer=")
    assert "Rows of this archive: 6." in SCRIPT.comment(*SCRIPT.read_answer(answer))


@pytest.mark.parametrize(
    ("check", "reason"),
    [
        ("exit 2", "The check did not end"),
        ("echo 'reports: archive.tar.gz is no archive: its end is missing' >&2; exit 2", "its end"),
        (
            f"echo '{answer_of(reasons=['One launch: five are needed.'])}'; exit 1",
            "One launch: five",
        ),
        (f"echo '{answer_of([ROW], ['A wrong result.'])}'; exit 1", "A wrong result."),
        (f"echo '{answer_of()}'", "It has no figure of an all-reduce."),
        ("exit 124", "The check did not end"),
        ("kill -9 $$", "The check did not end"),
        ("echo '{'; exit 0", "The check did not end"),
        (f"echo '{answer_of([ROW | {'note': 'a' * 99}] * 2000)}'", "The check did not end"),
    ],
)
def test_a_refused_archive_and_a_check_that_fails_are_answered(github, tmp_path, check, reason):
    done = github("check", -1, issue=body(), curl="", sudo=check)
    assert done.returncode == 0, done.stderr
    answer = (tmp_path / "output").read_text().removeprefix("answer=")
    text = SCRIPT.comment(*SCRIPT.read_answer(answer))
    assert text.startswith("No rows from this archive.")
    assert reason in text


def test_orders_to_the_runner_in_the_output_of_a_check_are_none(github, tmp_path):
    done = github("check", -1, issue=body(), curl="", sudo="echo ::stop-commands::x >&2; exit 2")
    assert done.stderr == "| ::stop-commands::x\n"
    assert (tmp_path / "output").read_text().count("\n") == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "0 archives"),
        (body("none"), "0 archives"),
        (body(f"{LINK} and {LINK.replace('123', '124')}"), "2 archives"),
        (body(tick=" "), "not ticked"),
        (body("https://example.com/user-attachments/files/1/s.tar.gz"), "0 archives"),
        (body("http://github.com/user-attachments/files/1/s.tar.gz"), "0 archives"),
        (body("https://github.com.example.com/user-attachments/files/1/s.tgz"), "0 archives"),
        (body("https://github.com/a/b/releases/download/1/s.tar.gz"), "0 archives"),
        (body("https://github.com/user-attachments/files/1/../../a/b/s.tar.gz"), "0 archives"),
        (body("https://github.com/user-attachments/files/1/$(id).tar.gz"), "0 archives"),
        (body("https://github.com/user-attachments/files/1/s.tar.gz?a=https://b"), "0 archives"),
        (body("https://github.com/user-attachments/files/1/s.tar.gz.sh"), "0 archives"),
        (body("https://github.com/user-attachments/files/1/s.zip"), "0 archives"),
        (body("https://github.com/user-attachments/files/\uff11/s.tar.gz"), "0 archives"),
    ],
)
def test_only_one_attachment_of_github_is_downloaded(tmp_path, monkeypatch, text, reason):
    monkeypatch.setattr(SCRIPT.subprocess, "run", None)
    rows, [told] = SCRIPT.check(text, tmp_path)
    assert not rows
    assert reason in told


def test_a_link_that_is_there_twice_is_downloaded_once(github, tmp_path):
    """In the form of a link to one file twice, and with a name that begins like an option."""
    link = LINK.replace("survey-1", "--output")
    github("check", -1, issue=body(f"[a]({link}) <{link}>"), curl="exit 22", sudo="exit 9")
    words = (tmp_path / "curl.args").read_text().split()
    assert words[-1] == link
    assert [word for word in words if word.startswith("https:")] == [link]
    assert words[words.index("--output") + 1] == "archive.tar.gz"
    assert not (tmp_path / "sudo.args").exists()
    assert "status 22" in (tmp_path / "output").read_text()


@pytest.mark.parametrize(
    "cell",
    [
        "```\n# heading",
        "<img src=x onerror=alert(1)>",
        "[a](https://example.com)",
        "@maintainer",
        "${{ secrets.X }}",
        "$(id)",
        "a | b",
        "=cmd|' /C calc'!A0",
        "+1",
        "\x1b[2J",
        "\u202e",
        "\u00e9",
        "a" * 201,
        ["a"],
        {"a": 1},
    ],
)
def test_a_row_with_anything_but_words_and_numbers_is_not_shown(cell):
    answer = SCRIPT.read_answer(answer_of([ROW, ROW | {"note": cell}]))
    assert answer == SCRIPT.UNKNOWN


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "[" * 100_000,
        '{"rows": []}',
        '{"rows": [1], "reasons": []}',
        '{"rows": {"a": 1}, "reasons": []}',
        '{"rows": [], "reasons": 1}',
        answer_of([ROW | {"more": 1}]),
        answer_of([ROW])[:-1],
    ],
)
def test_an_answer_of_another_form_is_not_shown(text):
    assert SCRIPT.read_answer(text) == SCRIPT.UNKNOWN


def test_no_reason_can_end_its_block_of_code():
    hostile = ["```\n# big\n@maintainer <b>", "\x1b[2J\u202e", "~~~~ `a`", "x" * 9999] * 9
    text = SCRIPT.comment(*SCRIPT.read_answer(answer_of(reasons=hostile)))
    found = re.fullmatch(r"(.*)\n\n```text\n(.*)\n```\n", text, re.S)
    assert found
    head, block = found.groups()
    assert "`" not in head + block
    assert len(text) < 65_536
    assert not re.search("[\x1b\u202e]", text)
    assert len(block.splitlines()) <= 20


def test_a_table_has_what_is_alike_once():
    text = SCRIPT.comment([ROW, ROW | {"size_bytes": 33554432, "time_us": 900}], [])
    assert text.count("R9700, PCIe 5") == 1
    assert "size_bytes  time_us\n16384       21.5\n33554432    900\n" in text


# The rights


def test_the_job_that_opens_the_archive_may_only_read():
    assert yaml.safe_load(TEXT)["permissions"] == {}
    assert JOBS["check"]["permissions"] == {"contents": "read"}
    assert JOBS["answer"]["permissions"] == {"contents": "read", "issues": "write"}
    assert JOBS["check"]["outputs"] == {"answer": "${{ steps.check.outputs.answer }}"}
    assert not re.search("secrets|token", json.dumps(JOBS["check"]))


def test_the_job_that_comments_gets_no_file():
    steps = JOBS["answer"]["steps"]
    assert [step["uses"].partition("@")[0] for step in steps if "uses" in step] == [
        "actions/checkout"
    ]
    assert not re.search(
        r"artifact|cache|curl|wget|pip|make |\.venv|event\.issue\.[^n]", str(steps)
    )
    for job in JOBS.values():
        for each in job["steps"]:
            if "checkout" in each.get("uses", ""):
                assert each["with"] == {"persist-credentials": False}, "of the default branch"


def test_no_expression_stands_in_a_line_of_shell_and_actions_are_pinned():
    for job in JOBS.values():
        assert job["timeout-minutes"] <= 15
        for each in job["steps"]:
            assert "${{" not in each.get("run", "")
            assert re.fullmatch(
                r"actions/[\w-]+@[0-9a-f]{40}", each.get("uses", "actions/a@" + "0" * 40)
            )


def test_no_workflow_can_be_reached_through_a_cache_or_a_pull_request():
    """A job of the default branch that runs a stranger's code could write what a cache gives."""
    for path in WORKFLOWS.glob("*.yml"):
        text = re.sub("#.*", "", path.read_text())
        assert not re.search(r"actions/cache|\bcache(-dependency-path)?:|pull_request_target", text)


@as_root
def test_the_sandbox_has_no_network_no_rights_and_no_variables(tmp_path):
    line = [word for word in SCRIPT.SANDBOX if word != "sudo"]
    look = "id -u; env; grep -E 'NoNewPrivs|CapBnd|CapEff' /proc/self/status; cat /proc/net/dev"
    done = subprocess.run(
        [*line, "sh", "-c", look],
        cwd="/",
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "GITHUB_TOKEN": "t"},
    )
    if "unshare failed" in done.stderr:
        pytest.skip("this container may not make a network namespace")
    assert done.returncode == 0, done.stderr
    words = done.stdout.split()
    assert words[0] == "65534"
    assert "GITHUB_TOKEN" not in done.stdout
    assert re.findall(r"(?:CapEff|CapBnd):\s*(\w+)", done.stdout) == ["0" * 16] * 2
    assert "NoNewPrivs:\t1" in done.stdout
    assert re.findall(r"(\w+):.*\d+ ", done.stdout.partition("face")[2]) == ["lo"]


# The form


def test_messages_lead_to_the_form_and_the_workflow_knows_it():
    assert SEND_ARCHIVE.endswith("/issues/new?template=archive.yml")
    labels = [part["attributes"]["label"] for part in FORM["body"] if "id" in part]
    [heading] = re.findall(r"event\.issue\.body, '### (.*?)'", JOBS["check"]["if"])
    assert heading == labels[0]
    assert CONSENT["required"]
    ids = [part["id"] for part in FORM["body"] if "id" in part]
    assert len(set(ids)) == len(ids)
    assert {part["type"] for part in FORM["body"]} <= {
        "markdown",
        "textarea",
        "input",
        "checkboxes",
    }
    assert not any("render" in part["attributes"] for part in FORM["body"]), (
        "no file can be dragged"
    )
