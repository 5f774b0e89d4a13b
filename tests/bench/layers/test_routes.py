"""Routes from a file: which files are read, and what is wrong with the others."""

import os
import re
from pathlib import Path

import numpy as np
import pytest

from bench.layers.routes import MOST_TOKENS, chosen_in, content_of, digest_of
from collectives.experts.routing import MOST_CHOICES, split
from tests.another_user import as_root, link_of_nobody
from wiretax.common.owners import THEIRS

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    "content", [b"3,1\n0,2\n", b"3,1\n0,2", b"\xef\xbb\xbf3, 1\r\n 0 ,2\r\n\n"], ids=range(3)
)
def test_a_line_is_a_token_and_its_experts(content):
    chosen = chosen_in(content, 4)
    assert chosen.tolist() == [[3, 1], [0, 2]]
    assert digest_of(chosen) == digest_of(np.array([[3, 1], [0, 2]]))
    assert digest_of(chosen) != digest_of(np.array([[3], [1], [0], [2]]))


def test_the_traffic_of_a_batch_is_that_of_its_file():
    """Of three tokens, rank 0's two go to an expert of rank 1, and rank 1's one stays."""
    routes = split(chosen_in(b"3,1\n2,3\n2,3\n", 4), 2, 4, seed=0)
    assert routes.tokens_of.tolist() == [1, 2]
    assert routes.between.tolist() == [[0, 1], [0, 0]]
    assert routes.rows["expert"].tolist() == [0, 1, 2, 3]
    assert sorted(routes.weights[0].tolist()) == [0.25, 0.75]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"\xff\xfe3", "the file is not text in UTF-8"),
        (b"", "the file has no token: a line is a token's experts, such as 3,17"),
        (b"\n \n", "the file has no token: a line is a token's experts, such as 3,17"),
        (b"0,1\n0\n", "line 2 has 1 experts, and line 1 has 2"),
        (b"0,1\n\n2,3\n", "line 2: '' is not the number of an expert"),
        (b"0,1\n3,0.5\n", "line 2: '0.5' is not the number of an expert"),
        (b"0,-1\n", "line 1: '-1' is not the number of an expert"),
        ("0,\u0663\n".encode(), "line 1: '\u0663' is not the number of an expert"),
        (b"0,\x1b[2J\n", "line 1: '?[2J' is not the number of an expert"),
        (b"0,99999999999999999999\n", "line 1: '99999999999999999999' is not the number of"),
        (b"0,1\n2,2\n", "line 2 names an expert twice"),
        (b"0,8\n", "line 1: expert 8 is not among the 8 experts, which are 0 to 7"),
        (b"0\n" * (MOST_TOKENS + 1), "the file has 65,537 tokens, and 65,536 are the most"),
    ],
    ids=range(13),
)
def test_a_file_that_is_no_batch_is_refused_in_a_sentence(content, sentence):
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}"):
        chosen_in(content, 8)


def test_a_token_has_as_many_experts_as_the_kernels_take():
    most = ",".join(map(str, range(MOST_CHOICES)))
    assert chosen_in(f"{most}\n".encode(), 64).shape == (1, MOST_CHOICES)
    with pytest.raises(ValueError, match="line 1 has 17 experts, and 16 are the most"):
        chosen_in(f"{most},16\n".encode(), 64)


def too_large(path):
    with path.open("wb") as file:
        file.truncate(1 << 30)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: None, "No such file or directory"),
        (Path.mkdir, "Is a directory"),
        (os.mkfifo, "it is not an ordinary file"),
        (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
        (too_large, "its 1074 MB are more than the 8 MB that are read"),
    ],
    ids=["missing", "folder", "pipe", "loop", "large"],
)
def test_only_an_ordinary_file_is_read_and_nothing_is_made(tmp_path, make, why):
    """A pipe would keep all ranks waiting."""
    path = tmp_path / "routes.csv"
    make(path)
    before = [*tmp_path.iterdir()]
    with pytest.raises(OSError, match=why):
        content_of(path)
    with pytest.raises(FileNotFoundError):
        content_of(tmp_path / "none" / "routes.csv")
    assert [*tmp_path.iterdir()] == before


@as_root
def test_a_link_of_another_user_is_not_followed(tmp_path):
    """In a shared folder it could lead to a file that only this user may read."""
    real = tmp_path / "real"
    real.mkdir()
    (real / "routes.csv").write_bytes(b"0,1\n")
    (tmp_path / "own").symlink_to("real/routes.csv")
    assert content_of(tmp_path / "own") == b"0,1\n"
    link_of_nobody(tmp_path / "theirs", real)
    link_of_nobody(tmp_path / "their_file", real / "routes.csv")
    (tmp_path / "chain").symlink_to("their_file")
    for path in ("theirs/routes.csv", "their_file", "chain"):
        with pytest.raises(OSError, match=THEIRS):
            content_of(tmp_path / path)
