"""The kernel of docs/device-api.md runs as the page has it, on CPUs and GPUs, and is named where
it does not wait."""

import re

import pytest

from tests import fake_gpu
from tests.bench.launches import launch, stored
from tests.launch import ROOT, few

(KERNEL,) = re.findall(
    r"^```c\+\+\n(// wiretax: .*?)^```$",
    (ROOT / "docs/device-api.md").read_text(),
    re.DOTALL | re.MULTILINE,
)


def measured(folder, kernel, device):
    """The process and the run of this kernel alone."""
    folder.mkdir(exist_ok=True)
    (folder / "one_shot.cu").write_text(kernel)
    sizes = "4,16K,9M" if device == "cpu" else "4,16K"
    words = (
        f"--sizes {sizes} -n 4 -w 0 --mode isolated "
        f"--algorithm library --max-time 60 --device {device} --kernel"
    )
    environment = {} if device == "cpu" else fake_gpu.environment(vendor=device)
    done = launch(folder, words, folder / "one_shot.cu", **environment)
    return done, [case for case in stored(folder).cases if case.algorithm != "library"]


@pytest.mark.parametrize("device", few(["cpu", "cuda", "hip"], 2))
def test_the_one_shot_of_the_page_is_right_and_without_its_wait_named(tmp_path, device):
    assert len(KERNEL.splitlines()) <= 15
    done, cases = measured(tmp_path, KERNEL, device)
    assert done.returncode == 0, done.stderr
    assert len(cases) >= 2
    assert [(case.status, case.n_wrong) for case in cases] == [("ok", 0)] * len(cases)
    if device == "cpu":
        assert re.search(r"\n +9 MiB one_shot [0-9a-f]{7} +\S+ +\d\S* ", done.stdout)  # its busbw
    done, cases = measured(
        tmp_path / "wrong", KERNEL.replace("    launch.wait(step);\n", ""), device
    )
    assert done.returncode == 1
    assert re.search(r"WRONG RESULTS in .*\s+.*one_shot [0-9a-f]{7} ", done.stdout)
    assert re.search(r"rank \d got \S+ \(0x\w+\) at offset \d+, element \d+", done.stderr)
    assert "wrong" in {case.status for case in cases}
