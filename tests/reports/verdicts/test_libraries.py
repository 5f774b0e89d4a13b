"""`reports libraries`: several libraries compared with our kernels, over launches with synthetic
figures, through the real store."""

import json
import re
import subprocess
import sys
from functools import partial

import pytest

from tests.launch import ROOT
from tests.reports.synthetic_campaign import no_effect, write_campaign
from tests.reports.synthetic_run import SLOW_NS, cost_us

pytestmark = pytest.mark.unit

LIBRARY_US = cost_us("library", 16384, SLOW_NS, 2)


def as_long(factor, size_bytes=None):
    """The library takes this times as long, at one size or at all."""
    return lambda case: (
        factor if case.algorithm == "library" and size_bytes in (None, case.size_bytes) else 1.0
    )


def write_libraries(folder, libraries, other="Other 1.0", **options):
    """A campaign with a variant for each library; all but the first are of the `other` library."""
    write_campaign(folder, libraries, pairs=7, **options)
    for name in [*libraries][1:]:
        for path in folder.glob(f"{name}/*.jsonl"):
            path.write_text(path.read_text().replace("MPICH 5.0.2", other))
    return folder


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    """One library with the default cost and one that is twice as slow, in seven launches each."""
    folder = tmp_path_factory.mktemp("libraries") / "campaign"
    return write_libraries(
        folder,
        {"mpich": no_effect, "other": as_long(2.0)},
        "Other 1.0",
    )


@pytest.fixture
def report(reports):
    return partial(reports, "libraries")


def test_every_library_is_compared_with_our_kernels_with_an_interval_over_launches(
    campaign, report
):
    status, out, err = report(campaign)
    assert (status, err) == (0, "")
    cells = json.loads(report(campaign, "--json")[1])["cells"]
    fast, slow = (
        next(each for each in cells if (each["size_bytes"], each["library"]) == (16384, library))
        for library in ("MPICH 5.0.2", "Other 1.0")
    )
    ours_us = min(cost_us(name, 16384, SLOW_NS, 2) for name in ("one_shot_push", "two_shot"))
    assert fast["ratio"] == pytest.approx(LIBRARY_US / ours_us, rel=0.02)
    assert slow["ratio"] == pytest.approx(2 * fast["ratio"], rel=0.02)
    assert fast["low"] <= fast["ratio"] <= fast["high"] < 1.02 * fast["low"]
    assert f"{fast['ratio']:.2f} [" in out


def test_settings_of_one_library_share_a_column_with_the_fastest_at_each_size(tmp_path, report):
    """A reader must see the library at its best, and how to repeat it."""
    libraries = {
        "mpich": no_effect,
        "other": as_long(2.0, 65536),
        "other-2": as_long(2.0, 16384),
        "other-3": as_long(3.0),
    }
    folder = write_libraries(tmp_path / "libraries", libraries)
    status, out, err = report(folder)
    assert (status, err) == (0, "")
    assert re.search(r"16 KiB .* other\n64 KiB .* other-2\n$", out)
    libraries = json.loads(report(folder, "--json")[1])["cells"]
    assert {each["variant"] for each in libraries} == {"mpich", "other", "other-2"}


def test_the_former_name_of_the_command_does_the_same(campaign, reports):
    """Scripts have it, and programs may read it in the JSON."""
    assert reports("peers", campaign) == reports("libraries", campaign)
    former, now = (
        json.loads(reports(name, campaign, "--json")[1]) for name in ("peers", "libraries")
    )
    assert (former.pop("command"), now.pop("command")) == ("peers", "libraries")
    assert former == now


def test_the_command_wiretax_takes_the_former_name_too(campaign, reports):
    command = [sys.executable, "-m", "wiretax", "peers", str(campaign)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == reports("libraries", campaign)


def test_a_folder_without_libraries_is_refused(tmp_path, report):
    variants = {"a": no_effect, "b": no_effect}
    folder = write_campaign(tmp_path / "c", variants, pairs=2, algorithms=["ring", "two_shot"])
    sentence = "reports: no launch measured a library beside ours\n"
    assert report(folder) == (2, "", sentence)
