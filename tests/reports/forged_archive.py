"""Changes of the archive of a survey by somebody who writes the hashes anew."""

import json
from functools import cache

import msgspec

from reports.__main__ import main
from tests.reports.synthetic_archive import OTHER, files_of

files = cache(files_of)


def add(capsys, path, *words):
    """The exit status of `references add`, its JSON, and what it complained."""
    status = main(["references", "add", str(path), "--json", *words])
    printed = capsys.readouterr()
    return status, json.loads(printed.out or "{}"), printed.err


def edited(change, where="allreduce", name=lambda name: name, only=""):
    """The files of an archive, of whose runs each line was changed by a function; `only` those
    whose names have this text."""

    def changed(data):
        lines = [msgspec.json.decode(line) for line in data.splitlines()]
        for line in lines:
            change(line)
        return b"".join(msgspec.json.encode(line) + b"\n" for line in lines)

    return {
        name(path): changed(data) if f"results/{where}" in path and only in path else data
        for path, data in files(machine_id=OTHER).items()
    }


def of(kind, **changes):
    """A change of the lines of a kind."""
    return lambda line: line["kind"] == kind and line.update(changes)


def head(**changes):
    """A change of a run's head; `world__size=1` changes a nested value, and what is a dictionary
    gets more."""

    def change(line):
        for path, value in changes.items() if line["kind"] == "run" else ():
            *outer, name = path.split("__")
            inner = line
            for key in outer:
                inner = inner[key]
            inner[name] = {**inner[name], **value} if isinstance(value, dict) else value

    return change


def ranks(**facts):
    """A change of the facts of each rank."""

    def change(line):
        for rank in line["world"]["ranks"] if line["kind"] == "run" else ():
            rank |= facts

    return change
