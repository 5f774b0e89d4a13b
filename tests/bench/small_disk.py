"""A small tmpfs for tests that fill a disk; no other program sees it.

A private mount namespace holds the tmpfs. This needs no privilege if the kernel allows user
namespaces to any user. Tests reach the files through /proc/PID/root.
"""

import subprocess
from pathlib import Path

from tests.launch import ROOT


class Disk:
    """A tmpfs of `size_bytes`; `at` is its folder. Raises OSError if this machine forbids the
    mount."""

    def __init__(self, folder: Path, size_bytes: int) -> None:
        folder.mkdir(parents=True)
        self.mounted = folder
        self.shell = subprocess.Popen(
            ["unshare", "--map-root-user", "--mount", "sh"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.at = Path(f"/proc/{self.shell.pid}/root") / folder.relative_to("/")
        try:
            self._do(f"mount -t tmpfs -o size={size_bytes},mode=700 none '{folder}'")
        except OSError:
            self.close()
            raise

    def _do(self, command: str) -> None:
        assert self.shell.stdin
        assert self.shell.stdout
        try:
            self.shell.stdin.write(f"{command} && echo done || echo failed\n")
            self.shell.stdin.flush()
        except BrokenPipeError:  # unshare was refused and printed the reason
            pass
        output = ""
        for line in self.shell.stdout:
            if line == "done\n":
                return
            output += line
            if line == "failed\n":
                break
        raise OSError(f"cannot mount a tmpfs: {' '.join(output.split())}")

    def fill(self) -> None:
        """Fill the disk. Later writes succeed only within pages already in use."""
        try:
            with (self.at / "filler").open("ab", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass
        except OSError:
            pass

    def make_read_only(self) -> None:
        self._do(f"mount -o remount,ro '{self.mounted}'")

    def inside(self, *command: object) -> list[str]:
        """The command, wrapped so that the process sees the disk at `mounted`: for a program that
        resolves its paths."""
        enter = f"nsenter --target {self.shell.pid} --user --mount --preserve-credentials"
        return [*enter.split(), "sh", "-c", 'cd "$0" && exec "$@"', str(ROOT), *map(str, command)]

    def close(self) -> None:
        """Unmount the disk; its files are lost."""
        self.shell.communicate()
