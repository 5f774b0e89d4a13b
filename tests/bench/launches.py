"""Launches of the benchmarks: what they print and what they store, after which no process may run;
and one that only stores runs that are there."""

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.launch import MPIRUN, ROOT, end_of
from wiretax.record.result import read
from wiretax.record.schema import Result


@contextmanager
def marked(**variables: str) -> Iterator[Mapping[str, str]]:
    """An environment that marks the processes of a launch; at the end none of them may run."""
    mark = secrets.token_hex(8)
    yield {**os.environ, "WIRETAX_TEST": mark, **variables}
    for _ in range(30):
        if not (running := carriers(mark)):
            return
        time.sleep(0.1)
    raise AssertionError(f"left running: {running}")


def carriers(mark: str) -> list[str]:
    """The names of the running processes that a launch with this mark started."""
    names = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("WIRETAX_TEST") == mark:
                names.append(process.name())
    return names


def launch(
    folder, *options, command="allreduce", program=None, ranks=2, tree=ROOT, **variables
) -> "subprocess.CompletedProcess[str]":
    """Runs `python -m bench.COMMAND --out FOLDER OPTIONS` under mpirun, or without it
    (`ranks=None`). A `program`, its text or a script with its first words, takes the place of the
    command. The words of an option that is text are separate; a path is one word."""
    words = [
        word
        for option in options
        for word in ([option] if isinstance(option, Path) else option.split())
    ]
    called = ["-m", f"bench.{command}"]
    if program is not None:
        called = ["-c", program] if isinstance(program, str) else program
    launcher = [str(MPIRUN), "-n", str(ranks)] if ranks else []
    with marked(**{"PYTHONPATH": str(tree), **variables}) as environment:
        line = *launcher, sys.executable, *called, "--out", folder, *words
        done = end_of(*line, cwd=tree, timeout_s=120, **environment)
    assert "Traceback" not in done.stdout + done.stderr, done.stderr[-3000:]
    return done


def blocks_of(result, case, name):
    """This figure of each block of a case."""
    return [getattr(block, name) for block in result.blocks if block.case == case.case]


def run(folder, *options, **how):
    """The printed text and the stored run of a launch that ends well and reports nothing."""
    done = launch(folder, *options, **how)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr[-2000:]
    return done.stdout, stored(folder)


def stored(folder: Path) -> Result:
    """The only run of a folder."""
    (path,) = folder.glob("*.jsonl")
    return read(path)


@contextmanager
def watched(
    *words: str, tree: Path = ROOT, stdin: int = subprocess.DEVNULL, **variables: str
) -> "Iterator[subprocess.Popen[str]]":
    """Starts `python WORDS` with pipes, kills it at the end, and checks that no process of it
    survives."""
    with marked(**variables) as environment:
        process = subprocess.Popen(
            [sys.executable, *words],
            cwd=tree,
            env=environment,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def stored_launches(folder: Path, end: str = "exit 0") -> Path:
    """An mpirun that stores the next run of `folder`/made in place of each launch, and then does
    what the shell's line `end` says. Without a run it fails, and ranks that store nothing start."""
    launcher = folder / "mpirun"
    launcher.write_text(f"""#!/bin/sh
for word; do
    case $word in --out=*) out="${{word#--out=}}" && mkdir -p "$out";; esac
done
[ "$out" ] || exit 0
for made in {folder}/made/*.jsonl; do mv "$made" "$out" && break; done || exit 3
{end}
""")
    launcher.chmod(0o755)
    return launcher
