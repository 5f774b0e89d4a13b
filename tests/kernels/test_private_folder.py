"""Who else may write to the folders of the cache: they are made for this user alone, and a group
counts as this user only if it has no other member."""

import os
import struct
import subprocess
import sys

import pytest

from tests.launch import ROOT
from wiretax.common.owners import private_folder

pytestmark = pytest.mark.unit

NOBODY = 65534
FOLDER = "from wiretax.common.owners import private_folder; print(private_folder())"


@pytest.fixture
def home(open_folder, monkeypatch):
    home = open_folder / "home"
    home.mkdir()
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(home))
    return home


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022, 0o077])
@pytest.mark.parametrize("mode", [0o700, 0o750, 0o755])
def test_what_is_missing_is_made_for_this_user_alone(home, mode, umask):
    """By the umask of Ubuntu's users ~/.cache was one that other users could write to, and the
    first command refused it."""
    home.chmod(mode)
    before = os.umask(umask)
    try:
        assert private_folder() == home / ".cache" / "wiretax"
    finally:
        os.umask(before)
    for made in (home / ".cache", home / ".cache" / "wiretax"):
        assert made.stat().st_mode & 0o777 == 0o700
    assert home.stat().st_mode & 0o777 == mode


@pytest.fixture
def said_among(home, tmp_path):
    """A function that makes the folder among these users and groups, and returns what it says."""

    def said(passwd: str, group: str) -> str:
        mounts = []
        for name, lines in {"passwd": passwd, "group": group}.items():
            (tmp_path / name).write_text(lines.replace(" ", "\n") + "\n")
            mounts.append(f"mount --bind '{tmp_path / name}' /etc/{name} || exit 77")
        script = "\n".join([*mounts, f"exec '{sys.executable}' -c '{FOLDER}'"])
        done = subprocess.run(
            ["unshare", "--map-root-user", "--mount", "sh", "-c", script],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        if done.returncode not in (0, 1):
            pytest.skip(f"no mount namespace can be had here: {done.stderr.strip()}")
        return done.stdout + done.stderr

    return said


@pytest.mark.parametrize(
    ("passwd", "group"),
    [
        ("ann:x:0:0:::", "ann:x:0:"),
        ("ann:x:0:0:::", "ann:x:0:ann"),
        ("ann:x:0:0:::", "staff:x:0:"),  # it has the number of the user
        ("ann:x:0:0::: bob:x:7:7:::", "ann:x:0: bob:x:7:ann"),
    ],
)
def test_a_group_of_this_user_alone_is_no_stranger(said_among, home, passwd, group):
    cache = home / ".cache" / "wiretax"
    cache.mkdir(parents=True)
    for folder in (home, home / ".cache", cache):
        folder.chmod(0o775)
    assert said_among(passwd, group) == f"{cache}\n"
    assert cache.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("passwd", "group"),
    [
        ("ann:x:0:0::: bob:x:7:7:::", "ann:x:0:bob bob:x:7:"),
        ("ann:x:0:0::: bob:x:7:7:::", "ann:x:0:ann,bob bob:x:7:"),
        ("ann:x:0:0::: bob:x:7:0:::", "ann:x:0:"),  # bob's primary group
        ("ann:x:0:7:::", "ann:x:0: staff:x:7:"),  # not the primary group of this user
    ],
)
def test_a_group_that_others_may_have_is_refused(said_among, home, passwd, group):
    (home / ".cache" / "wiretax").mkdir(parents=True)
    for folder in (home, home / ".cache"):
        folder.chmod(0o775)
        refusal = f"other users can replace what is in {folder}: chmod go-w that folder"
        assert refusal in said_among(passwd, group)
        folder.chmod(0o755)
    (home / ".cache" / "wiretax").chmod(0o770)
    assert "others can write it" in said_among(passwd, group)


def test_a_list_of_more_users_outweighs_the_group(home):
    """Then the mode has, as those of the group, the rights of all whom the list names."""
    everyone = 0xFFFFFFFF
    entries = [
        (1, 7, everyone),  # the owner
        (2, 7, NOBODY),
        (4, 5, everyone),  # the group
        (0x10, 7, everyone),  # the most of all but the owner and others
        (0x20, 5, everyone),
    ]
    home.chmod(0o755)
    packed = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    try:
        os.setxattr(home, "system.posix_acl_access", packed)
    except OSError as error:
        pytest.skip(f"no access list can be set here: {error.strerror}")
    with pytest.raises(OSError, match="other users can replace what is in"):
        private_folder()
