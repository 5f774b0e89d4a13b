"""Commands to copy, from records of strangers: a shell takes each word as it stands there."""

import html
import re
import shlex
import shutil

import msgspec
import pytest

from bench.campaigns.campaign_options import parse_variant
from reports.__main__ import main
from reports.tables.sentences import command_of
from reports.verdicts.sides import read_sides
from tests.launch import ROOT
from tests.reports.synthetic_bits import write_bits
from tests.reports.synthetic_campaign import no_effect, write_box, write_campaign
from tests.reports.synthetic_run import write_run
from wiretax.record.manifest import read_manifest

pytestmark = pytest.mark.unit

SPEC = ROOT / "tests" / "reliability" / "corpus" / "SPEC.toml"
EVIL = "1 '; touch x #\"$(touch y)!!`z`"


def test_words_of_a_run_stay_words(tmp_path):
    run = write_run(tmp_path, sizes=[4096], n=2, n_blocks=2).run
    run.benchmark, run.argv = f"allreduce{EVIL}", ["--seed", EVIL, "-d", f"{EVIL} --out b", EVIL]
    start = ["mpirun", "-n", "2", "python", "-m", f"bench.allreduce{EVIL}"]
    rest = ["-d", f"{EVIL} --out b", EVIL]
    assert shlex.split(command_of(run)) == [*start, "--seed", EVIL, *rest]
    assert shlex.split(command_of(run, "--seed")) == [*start, *rest]
    run.imported_from, run.argv = EVIL, ["sh", "-c", EVIL, "--seed", "{seed}"]
    assert shlex.split(command_of(run, "--seed")) == ["sh", "-c", EVIL]


def shown_in(page):
    """The command at the foot of a page."""
    found = re.search(r"(python -m reports procure|mpirun -n 3) [^<\n]*", page.read_text())
    assert found
    return shlex.split(html.unescape(found[0]))


def test_words_of_records_and_specifications_stay_words(tmp_path):
    path, page = write_bits(tmp_path / "bits"), tmp_path / "page.html"
    record = msgspec.json.decode(path.read_bytes())
    path.write_bytes(msgspec.json.encode(record | {"argv": ["-e", EVIL]}))
    assert main(["bits", str(path), "--html", str(page)]) == 0
    assert shown_in(page)[3:] == ["python", "-m", "bench.bits", "-e", EVIL]
    write_box(tmp_path / "box")
    spec = shutil.copy(SPEC, tmp_path / "box" / f"{EVIL}.toml")
    main(["procure", "--html", str(page), str(spec)])
    assert shown_in(page)[4:] == [f"{EVIL}.toml"]


def test_words_of_a_campaign_stay_words_of_the_next_one(tmp_path):
    campaign = write_campaign(tmp_path / "c", {"a": no_effect, "b": no_effect}, pairs=1)
    base, _ = read_sides([str(campaign)])
    variant = read_manifest(campaign).campaign.variants[0]
    variant.argv, variant.environment = ["sh", "-c", EVIL], {"MINE": EVIL}
    assert base.campaign
    base.campaign.campaign.variants[0] = variant
    again = parse_variant(f"base={base.typed}")
    assert again.variables == {"MINE": EVIL}
    assert again.arguments == ["sh", "-c", EVIL]
