"""`--json` of every report command: strict JSON with the fields that docs/results.md lists."""

import json
import re

import pytest

from reports.__main__ import COMMANDS, main
from tests.launch import ROOT
from tests.reports.archived import unpack
from tests.reports.breakdown.small_trace import write_trace
from tests.reports.imports.test_import_formats import WHOLE
from tests.reports.synthetic_archive import write_archive
from tests.reports.synthetic_bits import write_bits
from tests.reports.synthetic_campaign import no_effect, slower, write_campaign
from tests.reports.synthetic_candidates import ONE_BOX, spec, write_launches
from tests.reports.synthetic_fleet import write_fleet
from tests.reports.synthetic_run import write_run

PAGE = (ROOT / "docs/results.md").read_text()
BLOCK = PAGE.partition("## JSON of the reports")[2].split("```")[1]
FIELDS = {
    line.split()[0]: line.split()[1:]
    for line in re.sub(r"\n {2,}", " ", BLOCK).strip().splitlines()
}


def strict(text):
    """JSON without NaN and Infinity, which most readers refuse."""

    def refuse(word):
        raise ValueError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    """The arguments of each command by name."""
    folder = tmp_path_factory.mktemp("json")
    variants = {"main": no_effect, "new": slower(20)}
    campaign = write_campaign(folder / "campaign", variants)
    sizes = [16384 << step for step in range(5)]
    algorithms = ("library", "auto", "two_shot")
    run = write_run(folder / "runs", sizes=sizes, algorithms=algorithms, n_blocks=12, n=4).path
    write_launches(folder / "box", 6)
    write_fleet(folder / "fleet", ["n1", "n2", "n3", "n4", "n5"])
    (folder / "a.log").write_text(WHOLE)
    buyer = spec(folder, ["16K <= 8 us", "70b-q4 >= 1000 tok/s"], ONE_BOX)
    kept = ["--baseline", folder / "baselines", "--current", campaign / "main"]
    return {
        "show": [run],
        "import": [folder / "a.log", "--out", folder / "imports"],
        "compare": [campaign],
        "regress": ["--baseline", campaign / "main", "--current", campaign / "new"],
        "bits": [write_bits(folder / "bits")],
        "accept": [*kept, "--reason", "first"],
        "history": [folder / "runs"],
        "index": [folder / "runs"],
        "fleet": [folder / "fleet"],
        "fit": [run],
        "advise": ["--model", "llama-3.1-70b", "--gpu", "r9700", "--gpus", "2"],
        "expect": ["--gpu", "r9700", "--size", "32M"],
        "breakdown": [write_trace(folder / "rank0.json")],
        "references": ["check", write_archive(folder / "survey.tar.gz")],
        "predict": [unpack(folder / "wire")],
        "libraries": [campaign],
        "procure": [buyer],
        "dashboard": [folder / "runs", "-o", folder / "site"],
    }


@pytest.mark.parametrize("command", sorted(COMMANDS.keys() - {"export", "tuner"}))
def test_every_command_prints_the_documented_fields_as_strict_json(arguments, command, capsys):
    """A program must be able to read every report without parsing a table."""
    status = main([command, *map(str, arguments[command]), "--json"])
    answer = strict(capsys.readouterr().out)
    assert (answer.pop("schema"), answer.pop("command")) == (1, command)
    assert list(answer) == FIELDS[command]
    assert answer.get("status", status) == status
    assert any(answer.values())
