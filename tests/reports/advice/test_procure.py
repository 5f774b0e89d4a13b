"""`reports procure`: compares candidate machines with requirements, on synthetic runs with known figures."""

import csv
import io
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from reports.__main__ import main
from reports.advice import specs
from reports.advice.candidates import Machine, read_spec
from reports.advice.procurement import evaluate, judge, make_figure
from reports.imports.imported import (
    ImportedCase,
    ImportedFrom,
    ImportedRun,
    ImportedSummary,
    write_imported,
)
from reports.store.schema import End
from tests.launch import ROOT
from tests.reports.synthetic_campaign import rewrite_head
from tests.reports.synthetic_run import write_run

pytestmark = pytest.mark.unit

SIZES = (16384, 33554432)
HEAD = """hours_per_year = 6000
lifetime_years = 4
electricity = {price_per_kwh = 0.30, currency = "EUR"}
"""
MODELS = '[models]\n70b-q4 = {model = "llama-3.1-70b", weights = "q4", context = 0}\n'
BOX = """[candidates.{name}]
runs = ["{name}/*.jsonl"]
gpu = "r9700"
gpus = 2
price = {{amount = 5200, currency = "EUR", date = 2026-11-01}}
"""


def write_launches(folder, n, scale=1.0, first=0, gpu="AMD Radeon AI PRO R9700", **changes):
    """Launches that differ by 1 %: half of them above the mean and half below it."""
    for number in range(first, first + n):
        run_id = f"2026-11-20T06-15-{number:02}Z-allreduce-1a2b3c"
        made = write_run(folder, sizes=SIZES, algorithms=("library", "auto"), n_blocks=6, n=4, seed=number,
                         run_id=run_id, scale=scale * math.exp(0.01 * (-1) ** number), **changes)  # fmt: skip
        if gpu:
            rewrite_head(
                made.path,
                world__ranks=[{"rank": rank, "device": "hip", "gpu": gpu} for rank in range(2)],
            )


@pytest.fixture(scope="module")
def launches(tmp_path_factory):
    """Six launches: 16 KiB takes about 3.1 us chained, and 32 MiB reaches about 7 GB/s."""
    write_launches(folder := tmp_path_factory.mktemp("procure") / "box", 6)
    return folder.parent


ONE_BOX = MODELS + BOX.format(name="box")


def spec(folder, requirements=(), text=ONE_BOX):
    path = folder / "SPEC.toml"
    path.write_text(f"{HEAD}requirements = {list(requirements)}\n{text}")
    return path


def ask(capsys, *arguments):
    status = main(["procure", *map(str, arguments)])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def verdicts(procurement):
    return {
        requirement: verdict
        for requirement, (verdict, _) in procurement.machines[0].verdicts.items()
    }


def verdict_of(procurement):
    """The verdict of the only requirement, and its reason."""
    (verdict,) = procurement.machines[0].verdicts.values()
    return verdict


def figure(procurement, name, machine=0):
    return next(item for item in procurement.machines[machine].figures if item.name == name)


@pytest.mark.parametrize(("requirements", "expected", "status"), [
    (["16K <= 8 us", "32M >= 5 GB/s", "70b-q4 >= 25 tok/s"], "PASS", 0), (["16K <= 1 us"], "FAIL", 1),
    (["32M >= 50 GB/s"], "FAIL", 1), (["70b-q4 >= 33 tok/s"], "FAIL", 1),
    (["64K <= 8 us"], "UNDECIDED", 3), ([], None, 0),
])  # fmt: skip
def test_the_interval_decides_the_verdict_and_the_exit_status(
    launches, capsys, requirements, expected, status
):
    """Otherwise a buyer would accept a box below the order's requirements, or return a box that meets them."""
    path = spec(launches, requirements)
    assert set(verdicts(evaluate(path)).values()) <= {expected}
    assert ask(capsys, path)[0] == status


def test_a_figure_at_the_limit_is_undecided_and_says_how_many_launches_would_settle_it(launches):
    """Otherwise chance would decide an order."""
    us = figure(evaluate(spec(launches)), "16 KiB")
    assert us.low < us.value < us.high
    assert (len(us.values), us.note) == (6, "ours, chained")
    procurement = evaluate(spec(launches, [f"16K <= {us.value * 1.004:.4f} us"]))
    verdict, reason = verdict_of(procurement)
    assert verdict == "UNDECIDED"
    assert 6 < int(re.findall(r"about (\d+) would settle it", reason)[0]) < 1000


def test_few_launches_copies_and_imports_are_shown_but_never_judged(tmp_path, launches, capsys):
    """Otherwise five copies of one lucky run, or a vendor's own log, would pass as a delivery test."""
    write_launches(tmp_path / "box", 2)
    for number in range(5):
        (tmp_path / f"box/copy{number}.jsonl").write_bytes(
            next((tmp_path / "box").glob("2026*.jsonl")).read_bytes()
        )
    path = spec(tmp_path, ["16K <= 8 us"])
    assert verdict_of(evaluate(path)) == ("UNDECIDED", "2 launches; 5 are needed")
    assert figure(evaluate(path), "16 KiB").high is None
    assert "repeats the run" in " ".join(ask(capsys, path)[1].split())
    write_imported(tmp_path / "log", *imported(47.3, 10.0))
    procurement = evaluate(spec(tmp_path, ["16K <= 80 us"], MODELS + BOX.format(name="log")))
    assert verdict_of(procurement) == ("UNVERIFIED", "47.3 us meets it, imported")
    assert figure(procurement, "16 KiB").value == pytest.approx(47.3)
    assert procurement.headline == "log: 0 PASS, 0 FAIL, 0 UNDECIDED, 1 UNVERIFIED"
    late = spec(tmp_path, ["16K <= 40 us"], MODELS + BOX.format(name="log"))
    assert verdict_of(evaluate(late)) == ("UNVERIFIED", "47.3 us misses it, imported")
    assert ask(capsys, late)[0] == 3
    run, cases, end = imported(47.3, None)
    cases[0].status = "wrong"
    write_imported(tmp_path / "log", run, cases, end)
    assert verdict_of(evaluate(late)) == ("FAIL", "wrong results in import-abc-1, imported")
    run, cases, end = imported(47.3, None)
    cases[0].collective = None
    write_imported(tmp_path / "nameless", run, cases, end)
    nameless = spec(tmp_path, ["16K <= 40 us"], MODELS + BOX.format(name="nameless"))
    assert "does not name its collective: left out" in " ".join(ask(capsys, nameless)[1].split())


def test_one_larger_card_is_compared_by_its_data_sheet_and_never_passes(launches, tmp_path, capsys):
    """Otherwise two cards could not be asked beside one larger card, or a data sheet would pass as a measurement."""
    two = BOX.format(name="two").replace("two/", f"{launches}/box/")
    one = (
        BOX.format(name="one")
        .replace('runs = ["one/*.jsonl"]\n', "")
        .replace("r9700", "w7900")
        .replace("= 2", "= 1")
    )
    path = spec(tmp_path, ["16K <= 8 us", "70b-q4 >= 15 tok/s"], MODELS + two + one)
    procurement = evaluate(path)
    card = procurement.machines[1]
    step_us = specs.MODELS["llama-3.1-70b"].parameters * 4.5 / 8 / 864e3
    assert figure(procurement, "70b-q4", 1).value == pytest.approx(1e6 / step_us)
    assert [verdict for verdict, _ in card.verdicts.values()] == ["N/A", "UNVERIFIED"]
    assert procurement.headline == "2 candidates: 2 PASS, 0 FAIL, 0 UNDECIDED, 1 UNVERIFIED, 1 N/A"
    assert figure(procurement, "per tok/s, 70b-q4", 1).value == pytest.approx(5200 * step_us / 1e6)
    status, out, _ = ask(capsys, path)
    assert status == 3
    assert "Not ranked, per million tokens, 70b-q4 in EUR, without five launches: one." in " ".join(
        out.split()
    )
    path = spec(tmp_path, ["70b-q4 >= 30 tok/s"], MODELS + one)  # the ceiling misses it: certain
    assert verdict_of(evaluate(path)) == (
        "FAIL",
        "21.8 tok/s misses it, by its data sheet, a ceiling",
    )
    small = one.replace("w7900", "r9700")
    assert verdict_of(evaluate(spec(tmp_path, ["70b-q4 >= 1 tok/s"], MODELS + small))) == (
        "FAIL",
        "does not fit",
    )


def imported(us, gb_s, size=16384, world=2):
    run = ImportedRun(
        run_id="import-abc-1",
        benchmark="allreduce",
        statistic="mean",
        world={"size": world, "ranks": []},
        imported_from=ImportedFrom(file="log", format="nccl-tests", first_line=1, last_line=9),
    )
    case = ImportedCase(case=0, collective="all_reduce", size_bytes=size, time_us=ImportedSummary(mean=us),
                        bus_bw_gb_s=gb_s)  # fmt: skip
    return run, [case], End(status="complete")


def test_a_wrong_result_fails_and_an_incomplete_launch_does_not_count(tmp_path, launches):
    """Otherwise a buyer could choose a fast box that gives wrong results."""
    path = spec(tmp_path, ["16K <= 8 us"])
    write_launches(tmp_path / "box", 5)
    write_launches(tmp_path / "box", 1, first=5, finish=False)
    procurement = evaluate(path)
    assert procurement.headline == "box: 1 PASS, 0 FAIL, 0 UNDECIDED"
    assert len(procurement.machines[0].run_ids) == 5
    assert any("is incomplete: left out" in line for line in procurement.sentences)

    def one_wrong(block):
        block.n_wrong = 3 if block.case == 1 else 0
        return block

    write_launches(tmp_path / "box", 1, first=6, change=one_wrong)
    verdict, reason = verdict_of(evaluate(path))
    assert (verdict, reason[:16]) == ("FAIL", "wrong results in")


def test_error_rates_at_the_limit_are_no_higher_than_stated(tmp_path):
    """Otherwise a page with ten requirements would pass or fail one by chance in half of the cases."""
    rng, times, m = np.random.default_rng(1), 3000, 10
    key = "us", 16384
    wrong, launch, box = 0, write_run(tmp_path), read_spec(spec(tmp_path))[1]["box"].candidate
    for values in 8.0 * np.exp(0.02 * rng.normal(size=(times, 6))):
        machine = Machine("box", box, [launch] * 6, samples={key: ("ours", values.tolist())})
        figure_of_16k = make_figure(key, machine, 1 - 0.05 / m)
        wrong += judge(8.0, figure_of_16k, machine, 1 - 0.05 / m)[0] == "PASS"
    assert wrong / times < 0.025 / m + 3 * math.sqrt(0.025 / m / times)


def test_token_rates_and_their_cost_use_the_advisors_arithmetic(launches):
    """Otherwise a buyer would pay for tokens that the box does not make."""
    procurement = evaluate(spec(launches))
    us, speed = figure(procurement, "16 KiB"), figure(procurement, "70b-q4")
    step_us = specs.MODELS["llama-3.1-70b"].parameters * 4.5 / 8 / 2 / 640e3 + 160 * us.value
    assert speed.value == pytest.approx(1e6 / step_us, rel=1e-4)
    per = figure(procurement, "per tok/s, 70b-q4")
    assert (per.value, per.low, per.high) == pytest.approx(
        (5200 / speed.value, 5200 / speed.high, 5200 / speed.low)
    )
    hourly = 5200 / 24000 + 0.6 * 0.30  # two R9700s, 300 W each by their data sheet
    million = figure(procurement, "per million tokens, 70b-q4")
    assert million.value == pytest.approx(hourly / speed.value / 3600 * 1e6)
    assert figure(procurement, "power of the GPUs").note == "data sheet"


def test_measured_power_replaces_the_data_sheets(tmp_path):
    """Otherwise the electricity bill would assume the power limit, which a card seldom reaches."""

    def drawing(block):
        block.gpus = [{"power_w": 210.0}, {"power_w": 230.5}]
        return block

    write_launches(tmp_path / "box", 1, change=drawing)
    power = figure(evaluate(spec(tmp_path)), "power of the GPUs")
    assert (power.value, power.note) == (440.5, "measured")


def test_a_model_that_does_not_fit_fails(launches):
    """Otherwise a buyer could choose a box that cannot load the model."""
    models = '[models]\nbig = {model = "llama-3.1-405b", weights = "fp16"}\n'
    procurement = evaluate(spec(launches, ["big >= 1 tok/s"], models + BOX.format(name="box")))
    assert (verdict_of(procurement)[0], figure(procurement, "big").note) == ("FAIL", "does not fit")


def test_currencies_are_neither_converted_nor_ranked_together(launches, tmp_path):
    """Otherwise 5,000 dollars would look cheaper than 5,100 euros."""
    boxes = [BOX.format(name=name).replace("EUR", money).replace(f"{name}/", f"{launches}/box/")
             .replace("5200", price) for name, money, price in (("a", "EUR", "5200"), ("b", "USD", "10"),
                                                                ("c", "EUR", "9000"))]  # fmt: skip
    procurement = evaluate(spec(tmp_path, text=MODELS + "".join(boxes)))
    assert any("nothing is converted" in line for line in procurement.sentences)
    assert [line for line in procurement.sentences if "Cheapest" in line] == [
        "Cheapest first, per million tokens, 70b-q4 in EUR: a, then c."]  # fmt: skip
    assert figure(procurement, "per million tokens, 70b-q4", 1).value is None


def test_different_software_is_reported_and_different_machines_are_refused(tmp_path, capsys):
    """Otherwise launches before and after an upgrade, or of two kinds of box, would count as one kind."""
    write_launches(tmp_path / "box", 2)
    path = next((tmp_path / "box").glob("*.jsonl"))
    path.write_text(path.read_text().replace('"software_id":"d4e5f6"', '"software_id":"other"'))
    assert "differ in software (software_id d4e5f6, other)" in " ".join(
        ask(capsys, spec(tmp_path))[1].split()
    )
    path.write_text(path.read_text().replace('"machine_id":"a1b2c3"', '"machine_id":"another"'))
    status, _, error = ask(capsys, spec(tmp_path))
    assert (status, "one kind of machine" in error) == (2, True)


BAD = {
    "price = {amount = 5200, currency = 'EUR', date = 2026-11-01}": {
        "": "candidate box: Object missing required field `price`",
        "price = {amount = 0, currency = 'EUR', date = 2026-11-01}": "> 0.0",
        "price = {amount = -3, currency = 'EUR', date = 2026-11-01}": "price.amount",
        "price = {amount = nan, currency = 'EUR', date = 2026-11-01}": "> 0.0",
        "price = {amount = 1, currency = 'EUR', date = '1 May'}": "date",
        "price = {amount = 1, currency = '=cmd()', date = 2026-11-01}": "currency",
        "prize = {amount = 1, currency = 'EUR', date = 2026-11-01}": "unknown field `prize`; did you mean price"},
    "gpu = 'r9700'": {"gpu = 'r9800'": "unknown GPU 'r9800'; did you mean r9700"},
    "gpus = 2": {"gpus = 4": "has 4 GPUs and its run", "gpus = 0": ">= 1"},
    "model = 'llama-3.1-70b'": {"model = 'llama-3.1-71b'": "did you mean llama-3.1-70b"},
    "weights = 'q4'": {"weights = 'q5'": "unknown weights 'q5'"},
    "runs = ['box/*.jsonl']": {"": "candidate box has no run", "runs = ['gone.jsonl']": "no run at"},
    "requirements = []": {"requirements = ['16K < 8 us']": "16K <= 8 us, 32M >= 50 GB/s (busbw), MODEL >= 25 tok/s",
                          "requirements = ['16K <= 0 us']": "none of the three forms",
                          "requirements = ['70b-q8 >= 1 tok/s']": "did you mean 70b-q4"},
    "lifetime_years = 4": {"lifetime_years": "is not TOML", "life_time_years = 4": "did you mean lifetime_years"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("good", "bad"), [(good, bad) for good, all_bad in BAD.items() for bad in all_bad]
)
def test_a_bad_spec_is_refused_in_one_sentence(launches, capsys, good, bad):
    """Otherwise a typing error would become a wrong price or a traceback."""
    path = spec(launches)
    text = path.read_text().replace('"', "'")
    assert good in text
    path.write_text(text.replace(good, bad))
    status, out, error = ask(capsys, path, "--html", launches / "never.html")
    assert (status, out, error.count("\n")) == (2, "", 1), error
    assert BAD[good][bad] in error
    assert not list(launches.glob("never*"))


def test_invalid_specs_and_runs_are_refused_in_one_sentence(launches, capsys, tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "huge").write_bytes(b"#" * (2 << 20))
    (launches / "no_run.jsonl").write_text("hello\n")
    path, two = spec(launches), spec(tmp_path, text=BOX.format(name="a") + BOX.format(name="b"))
    commands = [(tmp_path / "gone",), (tmp_path,), (tmp_path / "binary",), (tmp_path / "huge",), (two, "x.jsonl"),
                (path, launches / "no_run.jsonl"), (path, "box=gone"), (path, "--candidate", "bx"),
                (path, "--html", tmp_path / "no/such/folder.html"), (path, "--csv", tmp_path)]  # fmt: skip
    for arguments in commands:
        status, out, error = ask(capsys, *arguments)
        assert (status, out, error.count("\n")) == (2, "", 1), arguments


class Page(HTMLParser):
    tags: frozenset[str] = frozenset()
    text = ""

    def handle_starttag(self, tag, attrs):
        self.tags |= {tag}

    def handle_data(self, data):
        self.text += data


def test_hostile_names_stay_text_in_the_page_the_csv_and_the_terminal(launches, tmp_path, capsys):
    """Otherwise a vendor's spec could run code in the reader's browser, spreadsheet or terminal."""
    names = [
        "=cmd()",
        "<script>alert(1)</script>",
        "\\u001b[31mred\\u202e",
        "${7*7}{{7*7}}",
        "a" * 60,
    ]
    boxes = [BOX.format(name=f'"{name}"').replace(f'runs = [""{name}"/*.jsonl"]', f'runs = ["{launches}/box/*.jsonl"]')
             for name in names]  # fmt: skip
    path = spec(tmp_path, ["16K <= 8 us"], MODELS + "".join(boxes))
    status, out, error = ask(
        capsys, path, "--html", tmp_path / "o.html", "--csv", tmp_path / "o.csv"
    )
    assert (status, error) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    assert set(re.sub(r"[\n -~]", "", out)) == set()
    page = Page()
    page.feed((tmp_path / "o.html").read_text())
    assert {"table", "th", "style"} <= page.tags
    assert not page.tags & {"script", "img", "link", "iframe"}
    assert all(
        name in page.text for name in ("<script>alert(1)</script>", "${7*7}{{7*7}}", "?[31mred?")
    )
    assert "python -m reports procure SPEC.toml --html o.html" in page.text
    assert str(tmp_path) not in page.text
    head, *rows = csv.reader(io.StringIO((tmp_path / "o.csv").read_text()))
    assert [row[0] for row in rows] == ["'=cmd()", names[1], "?[31mred?", *names[3:]]
    assert float(rows[0][head.index("16 KiB us")]) > 0
    assert rows[0][head.index("16K <= 8 us")] == "PASS"
    assert not [cell for row in rows for cell in row if cell.startswith(("=", "+", "-", "@"))]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["SPEC.toml", "o.csv", "o.html"]


def test_the_example_in_the_documentation_runs(tmp_path, capsys):
    """Otherwise a reader would copy the example and meet an error in the first minute."""
    (text,) = re.findall(r"```toml\n(.*?)```", (ROOT / "docs/buy.md").read_text(), re.DOTALL)
    (tmp_path / "SPEC.toml").write_text(text)
    for name, gpu in {
        "two-r9700": "AMD Radeon AI PRO R9700",
        "two-5090": "NVIDIA GeForce RTX 5090",
    }.items():
        write_launches(tmp_path / name, 6, gpu=gpu)
    status, out, error = ask(capsys, tmp_path / "SPEC.toml")
    assert (status, error) == (0, ""), out
    delivered = f"two-r9700={tmp_path}/two-r9700/*.jsonl"
    assert ask(capsys, tmp_path / "SPEC.toml", delivered, "--candidate", "two-r9700")[0] == 0


@pytest.mark.parametrize("gpu", [None, "NVIDIA GeForce RTX 3090"])
def test_a_box_with_other_hardware_never_passes(tmp_path, capsys, gpu):
    """Otherwise runs on CPU cores, or on a card that nobody ordered, would let a delivery pass."""
    write_launches(tmp_path / "box", 6, gpu=gpu)
    status, out, _ = ask(capsys, spec(tmp_path, ["16K <= 8 us"]))
    assert status == 3
    assert ("CPU cores" if gpu is None else "RTX 3090, not from r9700") in " ".join(out.split())


def test_logs_of_several_machines_are_not_one_candidate(tmp_path, capsys):
    """Otherwise 47 us of one box and 90 us of another would become 65 us of a box that does not exist."""
    for name, us in {"AMD Radeon AI PRO R9700": 47.3, "NVIDIA H100": 90.0}.items():
        run, cases, end = imported(us, 10.0)
        run.run_id, run.world["ranks"] = f"import-{name[:3]}-1", [{"rank": 0, "gpu": name}]
        write_imported(tmp_path / "log", run, cases, end)
    status, _, error = ask(capsys, spec(tmp_path, [], MODELS + BOX.format(name="log")))
    assert (status, error.count("\n")) == (2, 1)
    assert "its runs come from AMD Radeon AI PRO R9700 and from NVIDIA H100" in error
