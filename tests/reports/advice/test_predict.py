"""`python -m reports predict`: its formulas against the H100 in docs/experiments/runs, its text,
and its refusals."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from reports.advice.specs import GPUS, ROUTES
from reports.advice.wire import (
    CHECKED,
    FORMULA_OVER_MEASURED,
    checks_of,
    parts_of,
    runs_of_one_card,
    traffic_of,
)
from tests.reports.advice.test_advise import advise
from tests.reports.archived import unpack
from tests.reports.synthetic_run import mark_wrong, rewrite_head, write_run
from wiretax.record.result import read

pytestmark = pytest.mark.unit

MOST_ERROR = 0.1  # of a formula
# FlashInfer pull 5023: all-gathers of two cards, bytes of a rank and us.
FLASHINFER = {8 << 10: 4.08, 16 << 10: 3.97, 64 << 10: 4.79, 256 << 10: 9.19, 4 << 20: 88.91}


@pytest.fixture(scope="module")
def wire(tmp_path_factory):
    """The H100's runs of bench.link, and its all-reduces."""
    return unpack(tmp_path_factory.mktemp("wire"))


@pytest.fixture(scope="module")
def measured(wire):
    results, _ = runs_of_one_card([wire])
    return parts_of(results), results


def test_a_missing_argument_has_an_example(reports):
    status, out, err = reports("predict")
    assert (status, out) == (2, "")
    assert err.endswith("are required: RUN; example: python -m reports predict results/RUN.jsonl\n")


def predict(*words):
    return advise("", *words, command="predict")


def refusal(*words):
    status, text, complaint = predict(*words)
    assert (status, text, complaint.count("\n")) == (2, "", 1)
    return complaint


def test_the_formulas_are_within_ten_percent_of_the_card_that_has_the_parts(measured):
    """Formulas that miss the card itself say nothing about two."""
    parts, results = measured
    checks = checks_of(parts, results)
    assert {check.algorithm for check in checks} == {*CHECKED}
    assert {check.size_bytes for check in checks} >= {16 << 10, 256 << 10, 1 << 20}
    errors = {
        (check.algorithm, check.size_bytes): check.model_us / check.measured_us - 1
        for check in checks
    }
    assert max(map(abs, errors.values())) <= MOST_ERROR, errors


def test_a_quick_survey_of_the_same_card_says_the_same(tmp_path):
    """These cells chose no term of the formulas."""
    results, _ = runs_of_one_card([unpack(tmp_path, "h100-decode")])
    checks = checks_of(parts_of(results), results)
    assert len(checks) == 17
    least, most = FORMULA_OVER_MEASURED
    assert all(least < check.model_us / check.measured_us < most for check in checks), checks


def test_published_times_of_two_cards_are_in_the_range(measured):
    """Their card and host are others: a prediction that misses them would be a fit to ours."""
    parts, _ = measured
    for size, us in FLASHINFER.items():
        traffic = traffic_of("one_shot_push", size)
        span = parts.between_cards(ROUTES["root_complex"], GPUS["h100"], "one_shot_push", traffic)
        assert span.low <= us <= span.high, (size, span)
        assert span.value == pytest.approx(us, rel=MOST_ERROR), size


def test_another_known_card_is_refused(wire):
    """An H200's runs told 2.79 us for two R9700s, whose owners print 10 to 13."""
    for name in "r9700", "Radeon AI PRO R9700", "rtx5090", "h200":
        said = refusal(wire, "--gpu", name)
        assert f"--gpu {name}: the runs are of NVIDIA H100" in said
        assert re.search(r"leave out --gpu, or take advise --gpu \S+ --wire$", said.strip())
    assert "unknown GPU 'r9800': did you mean r9700?" in refusal(wire, "--gpu", "r9800")


def test_the_same_card_in_another_spelling_is_no_other_card(wire):
    plain = predict(wire)
    for name in "h100", "H100", "NVIDIA H100 80GB HBM3", "nvidia h100":
        assert predict(wire, "--gpu", name) == plain


def test_a_card_without_a_telling_name_is_named_by_its_owner(wire, tmp_path):
    """Drivers call some cards `AMD Radeon Graphics`; without `--gpu` nobody could predict them."""
    folder = tmp_path / "unnamed"
    shutil.copytree(wire, folder)
    for path in folder.glob("*.jsonl"):
        ranks = read(path).run.ranks
        rewrite_head(path, world__ranks=[rank | {"gpu": "AMD Radeon Graphics"} for rank in ranks])

    assert "no data sheet fits 'AMD Radeon Graphics': name its own with --gpu" in refusal(folder)
    for name, way in ("r9700", "at a root complex"), ("rtx5090", "over host memory"):
        text = predict(folder, "--gpu", name)[1]
        assert text.startswith(f"PREDICTED for two {name} {way}, from parts of AMD Radeon Graphics")


def test_it_answers_for_a_chat_and_calls_everything_predicted(wire):
    status, text, complaint = predict(wire)
    assert (status, complaint) == (0, "")
    assert max(map(len, text.splitlines())) <= 80
    assert text.startswith("PREDICTED for two h100 at a root complex: an all-reduce of 16 KiB")

    answer = json.loads(predict(wire, "--json")[1])
    root = answer["predicted"][0]
    each = next(us for us in root["all_reduces"] if us["size_bytes"] == 16 << 10)
    assert each["algorithm"] in CHECKED, "nobody has checked ring's formula"
    assert root["token_ms"] == pytest.approx(160 * np.array(each["us"]) / 1e3)
    assert root["tensor_tokens_per_s"][0] > root["pipeline_tokens_per_s"][0]
    assert root["break_even_us"] > each["us"][2]


def test_a_model_that_two_cards_do_not_hold_has_no_tokens(wire):
    status, text, _ = predict(wire, "--model", "llama-3.1-405b", "--weights", "fp16")
    assert status == 0
    assert "llama-3.1-405b on two: 1 stream would not fit" in text
    assert "tokens/s" not in text


def link_run(wire, memory):
    return next(
        path for path in sorted(wire.glob("*link*")) if f'"memory":"{memory}"' in path.read_text()
    )


def test_what_no_wire_of_one_card_measured_is_refused(wire, tmp_path):
    """A guess from the wrong run would look like a prediction."""
    cpu = write_run(tmp_path / "cpu", sizes=[16384], n_blocks=6, n=4).path
    assert "no run on a GPU" in refusal(cpu)

    source = link_run(wire, "host_staged")

    def copied(name, **head):
        (tmp_path / name).mkdir()
        path = Path(shutil.copy(source, tmp_path / name))
        rewrite_head(path, **head)
        return path

    for path in link_run(wire, "same_device"), next(wire.glob("*allreduce*")):
        assert "no run measured dependent_loads, " in refusal(path)

    other = copied("other", machine_id="another", run_id="2026-11-28T07-07-55Z-link-055839")
    assert "several machines" in refusal(source, other)
    wrong = copied("wrong")
    mark_wrong(wrong)
    assert "; left out, with wrong results: 1 (" in refusal(wrong)
