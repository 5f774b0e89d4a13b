"""Files of routes for `bench.alltoall --experts --skew file:ROUTES`: which experts each token of a
real batch chose. A line is a token: the numbers of its experts, counted from 0, with commas."""

import hashlib
import os
import stat
from pathlib import Path

import numpy as np

from collectives.collective import Array
from collectives.communicator import Communicator, Mistake
from collectives.experts.routing import MOST_CHOICES
from wiretax.common.owners import THEIRS, is_ours, opened
from wiretax.common.untrusted import printable, read_bytes

MOST_TOKENS = 1 << 16
MOST_BYTES = 8 << 20  # 16 experts of four digits for each of the most tokens
PREFIX = "file:"


def read_routes(communicator: Communicator, skew: str, experts: int) -> Array:
    """The experts that each token chose, (tokens, top_k), as rank 0 reads them in the file that
    `skew` names. Raises Mistake on all ranks, in one sentence, if they cannot be used."""
    content = b""
    with communicator.all_or_none(Mistake):
        if communicator.rank == 0:
            try:
                content = content_of(Path(skew.removeprefix(PREFIX)))
            except OSError as error:
                raise Mistake(
                    f"--skew {printable(skew)} cannot be read: {error.strerror}"
                ) from error
    content = communicator.broadcast(content)
    with communicator.all_or_none(Mistake):
        try:
            return chosen_in(content, experts)
        except ValueError as error:
            raise Mistake(f"--skew {printable(skew)}: {error}") from error


def content_of(path: Path) -> bytes:
    """The content of an ordinary file. Follows no link of another user. Raises OSError."""
    path.stat()  # before the folder is opened, which would make a missing one
    with opened(path.parent) as folder:
        status = (folder / path.name).lstat()
        if not stat.S_ISLNK(status.st_mode):
            return read_bytes(folder / path.name, most_bytes=MOST_BYTES)
    if not is_ours(status):
        raise OSError(0, THEIRS)
    return content_of(path.parent / os.readlink(path))


def chosen_in(content: bytes, experts: int) -> Array:
    """The experts of each token, (tokens, top_k). Raises ValueError with a sentence."""
    try:
        lines = content.decode("utf-8-sig").rstrip().split("\n")
    except UnicodeDecodeError as error:
        raise ValueError("the file is not text in UTF-8") from error
    if lines == [""]:
        raise ValueError("the file has no token: a line is a token's experts, such as 3,17")
    if len(lines) > MOST_TOKENS:
        raise ValueError(f"the file has {len(lines):,} tokens, and {MOST_TOKENS:,} are the most")

    chosen = list[list[int]]()
    for number, line in enumerate(lines, 1):
        words = [word.strip() for word in line.split(",")]
        for word in words:
            if not (word.isascii() and word.isdecimal() and len(word) <= 9):
                raise ValueError(
                    f"line {number}: {printable(word[:20])!r} is not the number of an expert"
                )
        of_token = [*map(int, words)]
        if max(of_token) >= experts:
            raise ValueError(
                f"line {number}: expert {max(of_token)} is not among the {experts} experts, "
                f"which are 0 to {experts - 1}"
            )
        if len({*of_token}) < len(of_token):
            raise ValueError(f"line {number} names an expert twice")
        if len(of_token) > MOST_CHOICES:
            raise ValueError(
                f"line {number} has {len(of_token)} experts, and {MOST_CHOICES} are the most"
            )
        if chosen and len(of_token) != len(chosen[0]):
            raise ValueError(
                f"line {number} has {len(of_token)} experts, and line 1 has {len(chosen[0])}"
            )
        chosen.append(of_token)
    return np.array(chosen, np.int32)


def digest_of(chosen: Array) -> str:
    """What a run calls these routes: `file:1a2b3c4`, without the file's path."""
    content = repr(chosen.shape).encode() + chosen.astype("<i4").tobytes()
    return PREFIX + hashlib.sha256(content).hexdigest()[:7]
