"""What a function does when another user calls it: in a process of its own, with no more rights than that user's."""

import os
from collections.abc import Callable
from typing import Any

import pytest

as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")


def said_as(uid: int, gid: int, function: Callable[..., Any], *arguments: Any, **environment: str | None) -> str:
    """What the function returns to that user, or the words of what it raises; None takes a variable away."""
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
            said = str(function(*arguments))
        except BaseException as error:  # noqa: BLE001 - nothing may go on as the test's process
            said = str(error)
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    with open(reader) as file:
        said = file.read()
    os.waitpid(pid, 0)
    return said
