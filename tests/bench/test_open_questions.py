"""The questions of one card run through on the software GPU, shortened."""

import os
import re
import subprocess
import sys

import pytest

from tests import fake_peers
from tests.launch import ROOT, SLOW_TEST

PROGRAM = """
import importlib.util, sys
from dataclasses import replace

path, name = sys.argv[1:]
spec = importlib.util.spec_from_file_location("open_questions", path)
script = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)
[question] = [each for each in script.ONE_CARD if each.name == name]
line = question.line.replace("-e 32M", "-e 1M").replace("1M,32M", "64K")
less = {"allreduce": "-n 1", "estimator": "-e 16K"}.get(line.split()[0], "")
script.ONE_CARD = (replace(question, line=f"{line} {less}"),)
seconds = "4" if "soak" in line else "60"
sys.argv = f"open_questions --vendor cuda --one-card --seconds {seconds}".split()
script.main()
"""
NAMES = (
    "torch_in_place",
    "host_graph",
    "estimator",
    "host_soak",
    "host_chain",
    "torch_graph",
    "torch",
    "library_graph",
)


@SLOW_TEST
@pytest.mark.parametrize("name", NAMES)
def test_a_question_of_one_card_runs_through_on_a_fake_gpu(tmp_path, name):
    settings = fake_peers.environment("cuda", {"count": 1})
    settings["PYTHONPATH"] = f"{ROOT}:{settings['PYTHONPATH']}"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(ROOT / "docs/experiments/open_questions.py"), name],
        cwd=tmp_path,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r": status 0, ", done.stdout), done.stdout
    assert (tmp_path / "results/questions/logs" / f"{name}.err.txt").exists()
