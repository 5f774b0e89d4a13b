"""What a call of a chain costs is one figure through every door: tables, formats, page, API, and
the reports on many runs."""

import csv
import io
import json
import re

import msgspec
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

import wiretax
from reports.site.run_page import run_page
from reports.tables.rows import default_rows
from reports.tables.sentences import number
from reports.tables.table import render
from tests.reports.archived import unpack
from tests.reports.synthetic_campaign import write_manifest
from tests.reports.synthetic_run import rewrite, rewrite_cases, write_run
from wiretax.record.frame import PARTS_OF, SUMMARIES
from wiretax.record.result import read
from wiretax.record.schema import FIGURES
from wiretax.record.summarise import HIDDEN

pytestmark = pytest.mark.unit

ARCHIVED = "2026-11-26T19-44-23Z-allreduce-a670ed.jsonl"  # `auto` and NCCL at 16 KiB, on an H100
PAIRS, EFFECT = 6, 1.10
UNUSABLE = 5  # a gate that cannot judge
# Of each case in the first table its variant, and its heading on the page.
SHOWN = {"auto": ("copied", "ours, us"), "library": ("tuned", "library, us")}


@pytest.fixture(scope="module")
def archived(tmp_path_factory):
    return read(unpack(tmp_path_factory.mktemp("run"), "h100-nccl") / ARCHIVED)


@pytest.fixture(scope="module")
def campaign(tmp_path_factory, archived):
    """Calls of the variant `slow` take 10 % longer, and its links as long."""
    return copies(tmp_path_factory.mktemp("campaign") / "copies", archived)


def copies(folder, archived, link_factor=1.0):
    """A campaign of copies of the archived run. Calls of the variant `slow` take 10 % longer; its
    links, while they run alone, by this factor, but as long as before in their chains."""
    runs = []
    lines = [msgspec.json.decode(line) for line in archived.path.read_bytes().splitlines()]
    links_us = {number: link.median for number, link in archived.counted.chain_links.items()}
    for pair, name in [(pair, name) for pair in range(PAIRS) for name in ("base", "slow")]:
        second = 10 + pair + 30 * (name == "slow")
        run_id = f"2026-11-26T19-44-{second}Z-allreduce-00000{pair}"
        path = folder / name / f"{run_id}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))

        def change(line, run_id=run_id, is_slow=name == "slow"):
            if line["kind"] == "run":
                line["run_id"] = run_id
            if line["kind"] == "block" and is_slow:
                link_us = links_us.get(line["case"], 0.0)
                for field in ("time_us", "total_us"):
                    line[field] = link_us + EFFECT * (line[field] - link_us)
                if line.get("chain_only_us"):
                    line["chain_only_us"] *= link_factor

        runs.append((pair, name, rewrite(path, change)))
    write_manifest(folder, ["base", "slow"], runs)
    return folder


def through_files(reports, path):
    """The figures of the chained cases, as each format has them, in us: {door: {(the
    algorithm, its variant): us}}."""
    cases = json.loads(reports("show", path, "--json")[1])["cases"]
    rows = csv.DictReader(io.StringIO(reports("export", "--csv", path)[1]))
    frame = wiretax.load(path).to_dict("records")
    metrics = text_string_to_metric_families(reports("export", "--openmetrics", path)[1])
    samples = next(each for each in metrics if each.name == "wiretax_collective_total_seconds")

    def chained(own, field):
        return {
            (each["algorithm"], each["variant"]): float(each[field])
            for each in own
            if each["mode"] == "chained"
        }

    flat = [case | {"us": (case["total_us"] or {}).get("median")} for case in cases]
    return {
        "json": chained(flat, "us"),
        "csv": chained(rows, "total_us_median"),
        "load": chained(frame, "total_us_median"),
        "openmetrics": chained(
            [sample.labels | {"us": 1e6 * sample.value} for sample in samples.samples], "us"
        ),
    }


def test_every_door_has_the_figure_of_the_first_table(archived, campaign, reports):
    """Tables without links and exports, gauges, gates and histories with them were two truths."""
    path, side = archived.path, campaign / "base"
    first = render(archived).split("\n\n")[1]
    assert first.startswith("chained: 160")
    [(library_us, auto_us)] = re.findall(r"16 KiB +(\S+) +(\S+) one_shot_ll", first)
    printed = {"auto": auto_us, "library": library_us}

    doors = through_files(reports, path)
    gauges = doors["openmetrics"]  # without cases that are suspect
    assert gauges == pytest.approx({key: doors["json"][key] for key in gauges})
    assert {*gauges} == {("auto", "registered"), ("library", "graph")}

    long = render(archived, long=True).split("chained")[-1]
    [page_row] = next(each.rows for each in run_page(path).sections if each.heading == "Each size")
    of_gate = "regress", "--baseline", side, "--current", campaign / "slow", "--json"
    judged = json.loads(reports(*of_gate)[1])["cells"]
    told = json.loads(reports("compare", campaign, "--json")[1])["comparisons"][0]["cells"]
    series = json.loads(reports("history", side, "--json")[1])["series"]
    of_libraries = json.loads(reports("libraries", campaign, "--json")[1])["cells"]
    [cell] = [cell for cell in of_libraries if cell["mode"] == "chained"]
    assert (cell["variant"], number(cell["library_us"])) == ("base", library_us)

    for algorithm, (variant, heading) in SHOWN.items():
        us, key = printed[algorithm], (algorithm, variant)
        assert page_row[heading] == us
        name = {"library": "NCCL 2.32.3"}.get(algorithm, algorithm)
        assert re.search(rf"{name} +{variant} +.* {us} {us} \[", long)
        for door in ("json", "csv", "load"):
            assert number(doors[door][key]) == us, door
        for cells in (told, judged):
            [cell] = [
                each
                for each in cells
                if (each["mode"], each["algorithm"], each["variant"]) == ("chained", *key)
            ]
            assert number(cell["baseline_us"]) == us
            # With links inside, the ratio of a call of 3 us was 1.065.
            assert cell["ratio"] == pytest.approx(EFFECT, rel=1e-3)
        label = "16 KiB {} chained {} graph 1".format(*key)
        [last_us] = [each["last_us"] for each in series if each["case"] == label]
        assert number(last_us) == us


CALLS_US = {"library": 6.0, "auto": 3.0, "ring": 4.0}
LINK_US, UPPER_US = 1.5, 5.4


def chain(folder):
    """A run of the library, ours and a contender, with two thirds of the links in their
    upper mode."""

    def change(block):
        block.chain_only_us = UPPER_US if (block.case + block.round) % 3 else LINK_US
        block.mean_us = block.time_us
        return block

    made = write_run(
        folder,
        sizes=[16384],
        algorithms=[*CALLS_US],
        modes=["chained"],
        n_blocks=12,
        gpu="NVIDIA H100",
        us=lambda case, block: CALLS_US[case.algorithm] + LINK_US,
        change=change,
    )
    contender = {"algorithm": "torch_symmetric", "library": "torch 2.11"}
    rewrite_cases(made.path, lambda case: case["algorithm"] == "ring" and case.update(contender))
    return made.path


def older(path):
    """The run as an older program wrote it: its cases have the link in their times."""

    def change(line):
        if line["kind"] == "case":
            line.pop("with_link_us")
            for field in ("time_us", "total_us"):
                line[field] = {"median": line[field]["median"] + LINK_US}

    return rewrite(path, change)


def cut_off(path):
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(
        b"".join(line for line in lines if b'"kind":"block"' in line or b'"run"' in line)
    )
    return path


def parts_of(case, name):
    """The median of a figure, and the ends of its interval."""
    figure = getattr(case, name)
    return figure.median, figure.ci_low, figure.ci_high


@pytest.mark.parametrize("state", [lambda path: path, older, cut_off])
def test_ours_the_library_and_a_contender_follow_one_rule(tmp_path, state):
    """Also where links have two modes, in runs of any age and in those that were cut off."""
    result = read(state(chain(tmp_path)))
    for case, call_us in zip(result.cases, CALLS_US.values(), strict=True):
        assert parts_of(case, "chain_only_us") == pytest.approx((LINK_US,) * 3)
        assert parts_of(case, "with_link_us") == pytest.approx((call_us + LINK_US,) * 3)
        for name in ("time_us", "total_us"):
            assert parts_of(case, name) == pytest.approx((call_us,) * 3)
            assert getattr(case, name).mean == pytest.approx(call_us)
    [row] = default_rows(result, ("chained", None))
    [named] = row.named.values()
    ratios = [ratio and ratio[0] for ratio in (row.ratio, named.from_library, named.from_ours)]
    assert ratios == pytest.approx([6 / 3, 6 / 4, 3 / 4])


def test_a_stored_case_stands_as_it_is(tmp_path):
    """A later program, whose rule differs, does not change a run."""
    path = chain(tmp_path)
    rewrite(path, lambda line: line["kind"] == "case" and line["time_us"].update(median=2.5))
    assert [parts_of(case, "time_us")[0] for case in read(path).cases] == [2.5] * 3


def test_a_call_that_is_shorter_than_its_link_has_no_time_and_no_ratio(tmp_path):
    """A least time of 1e-6 us in its place made ratios of millions."""

    def change(block):
        block.chain_only_us = 9.0 + 0.1 * (block.round % 3)
        return block

    result = write_run(
        tmp_path,
        sizes=[16384],
        modes=["chained"],
        gpu="NVIDIA H100",
        us=lambda case, block: 12.0 if case.algorithm == "library" else 8.0,
        change=change,
    )
    for case in read(result.path).cases:
        if case.library:
            middle, low, high = parts_of(case, "time_us")
            assert 0 < low <= middle <= high
        else:
            assert (case.status, case.reason, case.time_us) == ("not measured", HIDDEN, None)
    [row] = default_rows(result, ("chained", None))
    assert row.library
    assert row.ratio is None
    assert HIDDEN in " ".join(render(result).split())


def test_every_declared_figure_goes_through_every_door(tmp_path, reports):
    """A new field of `Case` with a `Shown` needs nothing else to be printed and exported."""
    path = write_run(tmp_path, sizes=[16384], modes=["isolated"], algorithms=["ring"]).path
    values = {name: 1.5 + place for place, name in enumerate(FIGURES)}

    def fill_in(line):
        if line["kind"] == "case":
            for name, value in values.items():
                key = "median" if name in SUMMARIES else "value"
                line[name] = {key: value} if name in PARTS_OF else value
            line |= {"chosen": "ring", "snr_db": {"normal": 30.5}, "n_wrong": 0, "suspect": False}
            line["n_steps"] = 50000

    rewrite(path, fill_in)
    [case] = read(path).cases
    [row] = csv.DictReader(io.StringIO(reports("export", "--csv", path)[1]))
    [printed] = json.loads(reports("show", "--json", path)[1])["cases"]
    [loaded] = wiretax.load(path).to_dict("records")
    gauges = reports("export", "--openmetrics", path)[1]
    pages = f"{render(read(path), long=True)}{run_page(path)}"
    for name, shown in FIGURES.items():
        value = getattr(case, name)
        printed_as = msgspec.to_builtins(value)
        if name in SUMMARIES:
            number_of = value.median
        else:
            number_of = value.value if name in PARTS_OF else value
        column = f"{name}_median" if name in SUMMARIES else name
        assert value is not None, name
        assert column in row, name
        assert printed[name] == printed_as, name
        if isinstance(number_of, float):
            assert float(row[column]) == loaded[column] == number_of, name
        assert shown.gauge is None or f"wiretax_{shown.gauge}" in gauges, name
        assert all(word in pages for word in shown.heading.split()), name


@pytest.mark.parametrize(
    ("link_factor", "told"),
    [
        (1.5, "the links of the chains, without which their calls are shown, took "),
        (20.0, "slow lacks "),
        (0.0, "chains of 16 KiB have their links in the calls of some launches, and not of others"),
    ],
)
def test_links_that_took_longer_alone_pass_no_gate(tmp_path, archived, reports, link_factor, told):
    """Calls that were 10 % slower, with links that were longer while they ran alone, passed as 13 %
    faster; with links longer than the calls, 300,020,528 % slower; without links, 48 %."""
    folder = copies(tmp_path / "campaign", archived, link_factor)
    status, printed, _ = reports(
        "regress", "--baseline", folder / "base", "--current", folder / "slow"
    )
    assert status == UNUSABLE, printed
    assert told in " ".join(printed.split())


def test_a_call_that_its_link_hides_has_no_time(tmp_path, archived, reports):
    folder = copies(tmp_path / "campaign", archived, 20.0)
    path = next((folder / "slow").glob("*.jsonl"))
    chained = [case for case in read(path).cases if case.mode == "chained"]
    hidden = [case for case in chained if case.status == "not measured"]
    assert hidden
    assert {case.reason for case in hidden} == {HIDDEN}
    assert {case.time_us for case in hidden} == {None}
    assert "32768000 GB/s" not in reports("show", path)[1]
