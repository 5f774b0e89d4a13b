"""A survey of one GPU, which two ranks share: MPS around it, and what its owner is told."""

import pytest

from bench import survey
from bench.surveys import mps
from bench.surveys.survey_page import write
from kernels.devices.gpu_driver import VisibleGpus

# As the real one: the service keeps what it inherits, and numbers the GPUs that it sees anew.
CONTROL = """#!/bin/sh
read said
echo "$*$said" >> {calls}
case "$*$said$CUDA_VISIBLE_DEVICES" in
-d) [ -d "$CUDA_MPS_LOG_DIRECTORY" ] && {{ sleep 4 & }} ;;
quit) ! [ -e {calls}.stuck ] || {{ echo "clients are running"; exit 1; }} ;;
*) [ -e {calls}.runs ] ;;
esac
"""


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """The file to which the control program writes its calls; it is in PATH from now on."""
    calls = tmp_path / "calls"
    control = tmp_path / mps.CONTROL
    control.write_text(CONTROL.format(calls=calls))
    control.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.setattr(mps, "LIMIT_S", 3.0)
    return calls


@pytest.mark.parametrize(
    ("runs", "refusal", "expected", "said"),
    [
        (False, None, "-d", "The survey started MPS"),
        (True, None, "", "MPS ran already"),
        (False, "error 805", "-d quit", "MPS starts, and no process opens the GPU through it (err"),
    ],
)
def test_ranks_get_mps_for_the_time_of_the_survey(
    calls, monkeypatch, runs, refusal, expected, said
):
    """A service of the user's keeps running. Without it ranks would take turns of milliseconds."""
    if runs:
        calls.with_suffix(".runs").touch()
    monkeypatch.setattr(mps, "opened_gpu", lambda: refusal)
    with mps.service() as sentence:
        assert sentence.startswith(said)
        assert calls.read_text().split() == ["get_server_list", *expected.split()]
    assert calls.read_text().split()[1:] == ([] if runs else ["-d", "quit"])


def test_a_card_in_use_and_a_card_without_a_data_sheet_are_told(tmp_path, monkeypatch):
    """Its owner would take the figures for those of an idle card."""
    in_use = "GPU 0000:01:00.0 is in use: 97 % busy."
    card = VisibleGpus("cuda", ["0000:01:00.0"])
    monkeypatch.setattr(survey, "find_gpus", lambda device, mixed: card)
    monkeypatch.setattr(survey, "in_use", lambda bus_id: in_use)
    options = survey.make_parser().parse_args(["--out", str(tmp_path / "survey")])
    opened = survey.open_survey(options)
    assert opened.shares_gpus
    write(opened, False)
    page = (tmp_path / "survey" / "index.html").read_text()
    assert in_use.replace(" %", "\u00a0%") in page


def test_beside_a_card_of_amd_nobody_misses_nvidias_service(tmp_path, monkeypatch):
    """MPS is for CUDA: its owner was told that it does not start."""
    card = VisibleGpus("hip", ["0000:03:00.0"])
    monkeypatch.setattr(survey, "find_gpus", lambda device, mixed: card)
    monkeypatch.setattr(survey, "run_steps", lambda opened: None)
    monkeypatch.setattr(survey, "SIGNALS", ())
    options = survey.make_parser().parse_args(["--out", str(tmp_path / "survey")])
    opened = survey.open_survey(options)
    survey.run_survey(opened)
    assert opened.shares_gpus
    assert not [remark for remark in opened.remarks if "MPS" in remark]
