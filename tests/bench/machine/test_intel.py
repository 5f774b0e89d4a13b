"""Intel's cards, which no code of ours can use: who is told what, and that a processor's own GPU is
no card. Tests lay out /sys/bus/pci as Linux does; the rest of /sys and /proc is this machine's."""

import os
import sys
from pathlib import Path

import pytest

from bench import qualify, survey
from bench.machine import gpu_state, pci
from bench.machine.gpus import examine
from tests.bench.launches import launch, stored
from tests.bench.machines import VEGAS, write
from tests.launch import end_of

DEVICES = "sys/bus/pci/devices"
DISPLAY, OTHER_DISPLAY, ETHERNET = "0x030000", "0x038000", "0x020000"
OWN, CARD, SECOND = "0000:00:02.0", "0000:03:00.0", "0000:07:00.0"
TOLD = (
    f"Intel's GPUs are not supported, and not measured: {CARD}, {SECOND}; oneCCL's benchmark "
    "measures them (docs/gpu.md)."
)
IN_ANOTHER_ROOT = """
import runpy, sys
from pathlib import Path
from bench.machine import files
files.ROOT = Path({root!r})
runpy.run_module("bench.{command}", run_name="__main__", alter_sys=True)
"""


def devices(*rows: tuple[str, str, str]) -> dict[str, str]:
    """The files of PCI devices: the bus id, vendor and class of each."""
    files = dict[str, str]()
    for bus_id, vendor, kind in rows:
        files |= {f"{DEVICES}/{bus_id}/vendor": vendor, f"{DEVICES}/{bus_id}/class": kind}
    return files


@pytest.fixture
def root(tmp_path):
    """A function that returns a root with these PCI devices, and this machine's other files."""

    def made(*rows):
        folder = write(tmp_path / "root", devices(*rows))
        for place in ("proc", "sys/devices", "sys/fs", "sys/class"):
            if os.path.isdir(f"/{place}"):
                (folder / place).parent.mkdir(parents=True, exist_ok=True)
                (folder / place).symlink_to(f"/{place}")
        return folder

    return made


ARC_PAIR = (OWN, pci.INTEL, DISPLAY), (CARD, pci.INTEL, DISPLAY), (SECOND, pci.INTEL, OTHER_DISPLAY)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("rows", "cards"),
    [
        (ARC_PAIR, [CARD, SECOND]),
        ([(OWN, pci.INTEL, DISPLAY), ("0000:00:02.1", pci.INTEL, OTHER_DISPLAY)], []),
        ([("0000:00:10.0", pci.INTEL, DISPLAY)], ["0000:00:10.0"]),  # in a virtual machine
        ([(CARD, pci.INTEL, ETHERNET), (SECOND, pci.NVIDIA, DISPLAY)], []),
        ([], []),
    ],
)
def test_a_card_is_told_from_a_processor_s_own_gpu(tmp_path, machine, rows, cards):
    machine(write(tmp_path, devices(*rows)))
    assert pci.intel_cards() == cards
    assert len(gpu_state.intel_gpus()) == bool(cards)


def run_at(root: Path, out: Path, *options: str):
    """An all-reduce in another root."""
    program = IN_ANOTHER_ROOT.format(root=str(root), command="allreduce")
    quick = "-b 16K -e 16K -n 1 --mode isolated --algorithm one_shot_pull --max-time 30 --quiet"
    return launch(out, quick, *options, program=program)


def test_a_run_of_the_cpu_beside_intel_cards_says_that_it_measures_none(root, tmp_path):
    folder = root(*ARC_PAIR)
    done = run_at(folder, tmp_path / "auto")
    assert done.returncode == 0, done.stderr
    assert stored(tmp_path / "auto").run.notes[:2] == [
        "--device auto chose the CPU: no GPU driver is here: libcuda.so.1, libamdhip64.so.7 "
        "cannot be loaded.",
        TOLD,
    ]
    assert TOLD in " ".join(done.stdout.split())
    chosen = run_at(folder, tmp_path / "chosen", "--device cpu")
    assert (chosen.returncode, "Intel's GPUs" in chosen.stdout) == (0, False)


def test_a_desktop_with_intel_s_processor_is_told_nothing(root, tmp_path):
    done = run_at(root((OWN, pci.INTEL, DISPLAY)), tmp_path / "auto")
    assert (done.returncode, "Intel's GPUs" in done.stdout) == (0, False)


def test_the_doctor_names_intel_s_cards(root, examined):
    program = IN_ANOTHER_ROOT.format(root=str(root(*ARC_PAIR)), command="doctor")
    done = end_of(sys.executable, "-c", program)
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout.splitlines()[1:] == [TOLD]
    # Also beside GPUs that can be measured.
    beside = devices((CARD, pci.INTEL, DISPLAY))
    assert examined(*VEGAS, **beside)["left_out"] == [TOLD.replace(f", {SECOND}", "")]
    assert examine([])["left_out"] == [TOLD.replace(f", {SECOND}", "")]


def test_surveys_and_acceptances_of_intel_cards_say_so(
    root, machine, tmp_path, capsys, monkeypatch
):
    machine(root(*ARC_PAIR))
    options = survey.make_parser().parse_args(["--out", str(tmp_path / "survey")])
    assert survey.open_survey(options).remarks == [TOLD]
    monkeypatch.setattr("bench.campaigns.ending.signal.signal", lambda *_: None)
    assert qualify.main(["--quiet", "--out", str(tmp_path / "q"), "--min", "32M >= 1 GB/s"]) == 3
    refused = capsys.readouterr().err
    assert refused.startswith("bench.qualify: no GPU can be used here; to qualify the CPU add ")
    assert refused.endswith(f"{TOLD.removesuffix('.')}\n")
