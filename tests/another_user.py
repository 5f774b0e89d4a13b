"""Calls a function as another user, in a forked process with only that user's rights."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

NOBODY = 65534
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")


def give(path: Path) -> Path:
    """Makes the path, a link too, nobody's; a folder is made if it is missing."""
    if not os.path.lexists(path):
        path.mkdir()
    os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    return path


def link_of_nobody(path: Path, target: Path) -> Path:
    path.symlink_to(target)
    return give(path)


def said_as(
    uid: int, gid: int, function: Callable[..., Any], *arguments: Any, **environment: str | None
) -> str:
    """The function's result or the message of its exception, as text; `None` removes an environment
    variable."""
    reader, writer = os.pipe()
    if not (pid := os.fork()):
        try:
            os.setgroups([])
            os.setgid(gid)
            os.setuid(uid)
            for name, value in environment.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value
            text = str(function(*arguments))
        except BaseException as error:  # noqa: BLE001 - the child must not go on with the tests
            text = str(error)
        os.write(writer, text.encode())
        os._exit(0)
    os.close(writer)
    with open(reader) as file:
        text = file.read()
    os.waitpid(pid, 0)
    return text
