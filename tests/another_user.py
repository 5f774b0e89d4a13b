"""Calls a function as another user, in a forked process with only that user's rights."""

import os
from collections.abc import Callable
from typing import Any

import pytest

as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")


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
