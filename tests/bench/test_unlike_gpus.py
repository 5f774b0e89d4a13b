"""GPUs of unlike kinds in one machine: which of them ranks use, what is said, what is refused.

Two R9700s (gfx1201) beside a processor with a GPU of its own (gfx1036) were three ranks once, at
the pace of the processor's two compute units."""

import pytest

from bench import survey
from bench.surveys.steps import launch_of, plan
from kernels.devices.gpu_driver import VisibleGpu, VisibleGpus, commonest_kind
from tests.bench.launches import launch, run
from tests.fake_gpu import environment, fake_nccl
from tests.launch import mpirun, python

OPTIONS = "-b 16K -e 16K --mode isolated --algorithm one_shot_pull -n 2 -w 0"
# By place: the bus ids of the software GPUs.
BUS_IDS = "0000:41:00.0", "0000:61:00.0", "0000:81:00.0"


def unlike(*archs, **more):
    return environment(vendor="hip", count=len(archs), archs=",".join(archs), **more)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("kinds", "commonest"),
    [
        ("gfx1036:1:True gfx1201:64:False gfx1201:64:False", "gfx1201"),
        ("gfx1036:1:True gfx1201:64:False", "gfx1201"),
        ("gfx1201:64:False gfx1036:1:True", "gfx1201"),
        ("gfx1151:40:True gfx1200:32:False", "gfx1200"),  # a large integrated GPU
        ("sm_86:82:False sm_89:128:False", "sm_89"),
        ("sm_89:128:False sm_86:82:False sm_86:82:False", "sm_86"),
    ],
)
def test_the_commonest_kind_counts_and_of_a_tie_the_card(kinds, commonest):
    gpus = []
    for number, kind in enumerate(kinds.split()):
        arch, multiprocessors, is_integrated = kind.split(":")
        gpus.append(VisibleGpu(str(number), arch, int(multiprocessors), is_integrated == "True"))
    assert commonest_kind(gpus) == commonest


@pytest.mark.parametrize("place", [0, 1])
def test_ranks_use_the_cards_wherever_the_integrated_gpu_stands(tmp_path, place):
    archs = ["gfx1201", "gfx1201"]
    archs.insert(place, "gfx1036*")
    printed, result = run(tmp_path, OPTIONS, **unlike(*archs))
    ranks = result.run.world["ranks"]
    cards = [bus_id for number, bus_id in enumerate(BUS_IDS) if number != place]
    assert [rank["pci_bus_id"] for rank in ranks] == cards
    assert [(rank["arch"], rank["integrated"]) for rank in ranks] == [("gfx1201", False)] * 2
    note = (
        f"Left out: GPU {BUS_IDS[place]} (gfx1036, integrated), not of the commonest kind; "
        "--mixed-gpus uses all GPUs."
    )
    assert note in result.run.notes
    assert "Left out: GPU" in printed


@pytest.mark.parametrize("archs", [("gfx1201", "gfx1036*", "gfx1201"), ("gfx1100", "gfx1201")])
def test_more_ranks_than_gpus_of_one_kind_are_refused(tmp_path, archs):
    """`auto` measures no CPU there: the GPUs would be enough."""
    done = launch(tmp_path, OPTIONS, "--quiet", ranks=len(archs), **unlike(*archs))
    assert (done.returncode, done.stdout) == (3, "")
    sentence = f"bench.allreduce: {len(archs)} ranks need a GPU each, and "
    assert done.stderr.startswith(sentence)
    assert done.stderr.endswith("or add --mixed-gpus\n")
    assert done.stderr.count("\n") == 1


def test_unlike_gpus_are_measured_if_asked_for(tmp_path):
    archs = "gfx1201", "gfx1036*"
    printed, result = run(tmp_path, OPTIONS, "--mixed-gpus", **unlike(*archs))
    assert [rank["arch"] for rank in result.run.world["ranks"]] == ["gfx1201", "gfx1036"]
    assert result.run.method["mixed_gpus"] is True
    assert "Left out" not in printed
    assert {case.n_wrong for case in result.cases if case.status == "ok"} == {0}


@pytest.mark.parametrize(
    ("archs", "version", "words", "said"),
    [
        (
            "gfx1201,gfx1100",
            22707,
            "--library tuned",
            "NCCL_PROTO=LL is out: RCCL's LL may never end on gfx12",
        ),
        (
            "gfx1201,gfx942",
            23007,
            "-d f8e4m3,half --library plain",
            "RCCL 2.30.7 does not reduce fp8 on gfx942",
        ),
    ],
)
def test_ranks_on_unlike_gpus_call_the_library_alike(tmp_path, archs, version, words, said):
    """Each rank once decided by its own GPU whether to try LL or fp8, and waited for the other."""
    gpu = {"count": 2, "archs": archs}
    options = f"-b 4K -e 4K --mode isolated --algorithm library -n 2 -w 0 --mixed-gpus {words}"
    _, result = run(tmp_path, options, **fake_nccl.environment("hip", version=version, gpu=gpu))
    facts = [*result.run.notes, *(case.reason or "" for case in result.cases)]
    assert any(said in each for each in facts), facts
    assert {case.n_wrong for case in result.cases if case.status == "ok"} == {0}


def test_graphs_of_unlike_gpus_are_as_short_on_each_rank(tmp_path):
    variables = unlike("gfx1036*", "gfx1201")
    options = "-b 4K -e 4K --mode chained -G 1 --algorithm one_shot_push -n 2 -w 0 --mixed-gpus"
    _, result = run(tmp_path, options, **variables)
    assert any(note.startswith("Graphs hold at most 100") for note in result.run.notes)


@pytest.mark.parametrize(
    ("archs", "words", "status"),
    [(("gfx1201", "gfx1036*"), (), 3), (("gfx1036*", "gfx1036*"), (), 0)],
)
def test_ranks_that_see_one_gpu_each_are_of_one_kind(tmp_path, archs, words, status):
    """Whoever shows a GPU has chosen it; unlike ones are still refused."""
    program = "import runpy; runpy.run_module('bench.allreduce', run_name='__main__')"
    shell = "import os, sys; os.environ['CUDA_VISIBLE_DEVICES'] = os.environ['PMI_RANK']; "
    done = launch(tmp_path, OPTIONS, "--quiet", *words, program=shell + program, **unlike(*archs))
    assert done.returncode == status, done.stderr
    if status:
        assert done.stderr == (
            "bench.allreduce: rank 0 has a GPU of the kind gfx1201 and rank 1 one of the kind "
            "gfx1036; to measure unlike GPUs together add --mixed-gpus\n"
        )


def test_the_doctor_names_each_kind_and_what_no_rank_uses():
    variables = unlike("gfx1036*", "gfx1201", "gfx1201")
    page = mpirun(2, "-m", "bench.doctor", "--quiet", **variables).stdout
    assert "- Left out: GPU 0000:41:00.0 (gfx1036, integrated), not of the commonest" in page
    assert max(map(len, page.splitlines())) <= 100
    page = mpirun(3, "-m", "bench.doctor", "--quiet", "--mixed-gpus", **variables).stdout
    assert "gfx1036, integrated" in page.partition("Problems:")[0]
    assert "GPUs of unlike kinds are here (gfx1036, integrated: 1; gfx1201: 2)" in page


def test_wiretax_starts_a_rank_for_each_gpu_of_the_commonest_kind():
    count = "from wiretax.__main__ import gpu_count\nprint(gpu_count([]), gpu_count(['{}']))"
    done = python(count.format("--mixed-gpus"), **unlike("gfx1036*", "gfx1201", "gfx1201"))
    assert done.stdout == "2 3\n", done.stderr


def test_a_survey_says_what_it_left_out_and_hands_the_option_on(tmp_path, monkeypatch):
    card = VisibleGpus("hip", list(BUS_IDS[:2]), [VisibleGpu(BUS_IDS[2], "gfx1036", 1, True)])
    monkeypatch.setattr(survey, "find_gpus", lambda device, mixed: card)
    for words in ([], ["--mixed-gpus"]):
        out = str(tmp_path / f"survey{len(words)}")
        opened = survey.open_survey(survey.make_parser().parse_args([*words, "--out", out]))
        assert opened.remarks == [
            f"Left out, not of the commonest kind: GPU {BUS_IDS[2]} (gfx1036, integrated)."
        ]
        for step in plan("separate", "hip", False):
            if not step.reads:
                assert ("--mixed-gpus" in launch_of(opened, step, "mpirun", [])) == bool(words)
