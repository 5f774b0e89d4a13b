"""From nothing to an owner's first answer: an empty environment, the wheel, `survey --quick`
beside a software GPU, outside of a checkout. `FULL_COUNT=1 pytest -s tests/test_first_answer.py`
prints what it takes; docs/gpu.md has the figures of one machine."""

import os
import re
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from tests import fake_gpu
from tests.launch import ROOT, SLOW_TEST
from tests.test_wheel import LAUNCHERS, copy_of_the_project, run

SURVEY_S = 180  # of --quick
R9700 = "AMD Radeon AI PRO R9700"
STEP = re.compile(r"\[survey \d+ s\] (\w+): (?:done|incomplete) after .*?, (.+)")


def install(folder: Path, what: str) -> Path:
    """The programs of a new environment with the wheel and all that it needs, from the index."""
    tree, started_s = copy_of_the_project(folder / "tree"), time.monotonic()
    assert run(sys.executable, "-m", "venv", folder / "environment").returncode == 0
    programs = folder / "environment" / "bin"
    done = run(programs / "pip", "install", "--quiet", what, cwd=tree, timeout_s=900)
    assert done.returncode == 0, done.stderr
    files = [path for path in (folder / "environment").rglob("*") if path.is_file()]
    size_mb = sum(path.lstat().st_size for path in files) / 1e6
    print(f"\n{what}: installed in {time.monotonic() - started_s:.0f} s, {size_mb:.0f} MB")
    return programs


def two_r9700s(folder: Path, **rocm: object) -> dict[str, str]:
    """The environment of a process beside two software GPUs of a ROCm, with nothing compiled. It
    sees no checkout."""
    own = {"PYTHONPATH": str(fake_gpu.HERE), "XDG_CACHE_HOME": str(folder / "cache")}
    own |= {"HOME": str(folder), "WIRETAX_QUIET": ""}
    plain = {name: value for name, value in os.environ.items() if name not in LAUNCHERS}
    return {**plain, **fake_gpu.environment(vendor="hip", name=R9700, **rocm), **own}


@SLOW_TEST
@pytest.mark.parametrize(
    ("what", "rocm"),
    [
        (".", {}),  # the software GPU is a CuPy, beside ROCm 7
        (".[rocm10]", {"cupy": 0}),  # as beside ROCm 10: AMD's bindings call the driver
    ],
)
def test_an_owner_s_two_commands_give_a_figure_and_an_archive(tmp_path, what, rocm):
    programs, work = install(tmp_path, what), tmp_path / "work"
    work.mkdir()
    command = [str(programs / "wiretax"), "survey", "--quick", "--out", "two-cards"]
    started_s, first_s = time.monotonic(), 0.0
    with subprocess.Popen(
        command,
        cwd=work,
        env=two_r9700s(tmp_path, **rocm),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as survey:
        assert survey.stderr
        assert survey.stdout
        said = []
        for line in survey.stderr:
            said.append(line)
            if (found := STEP.match(line)) and found[1] != "doctor" and not first_s:
                first_s = time.monotonic() - started_s
                print(f"the first figure after {first_s:.0f} s: {found[2]}")
        answer = survey.stdout.read()
    took_s = time.monotonic() - started_s
    print(f"page and archive after {took_s:.0f} s, exit status {survey.returncode}:\n{answer}")
    assert survey.returncode in (0, 3), "".join(said)  # 3: the software GPU is slow
    assert 0 < first_s < took_s < SURVEY_S + 15
    with tarfile.open(work / "two-cards.tar.gz") as archive:
        texts = [file.read() for member in archive if (file := archive.extractfile(member))]
    assert not [word for word in (str(tmp_path), str(ROOT)) if word.encode() in b"".join(texts)]
    assert {path.name for path in work.iterdir()} == {"two-cards", "two-cards.tar.gz"}
    shown = run(programs / "wiretax", "show", work / "two-cards" / "results" / "link", cwd=work)
    assert shown.returncode == 0, shown.stderr
