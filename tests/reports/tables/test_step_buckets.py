"""The steps of runs as a histogram for Prometheus, read back by its parsers."""

import json
import re
import shutil
import subprocess
from collections import defaultdict

import numpy as np
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.parser import text_string_to_metric_families as parsed_text

from tests.reports.archived import unpack
from tests.reports.synthetic_steps import CALL_US, write_steps

pytestmark = pytest.mark.unit

NAME = "wiretax_step_time_seconds"
RUN_ID = "2026-11-2{}T06-15-00Z-allreduce-1a2b3c"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Two runs, of which the later one has more slow steps, of 1.5 s; and the steps of each, us."""
    folder, steps_us = (
        tmp_path_factory.mktemp("store"),
        [dict[str, list[float]]() for _ in range(2)],
    )
    for day in (0, 1):
        slow = {"times": 3e5, "steps_us": steps_us[day], "seed": day}
        write_steps(folder, 50 - 30 * day, run_id=RUN_ID.format(day), **slow)
    return folder, steps_us


def samples_of(text, parse=text_string_to_metric_families):
    """The type of the histogram, and its samples as (ending, algorithm, edge, time): value. The
    points of each time are parsed alone: this parser takes the second ones of a histogram for
    duplicates, as Prometheus' own does not."""
    lines = text.splitlines()
    times = sorted({found[1] for line in lines if (found := re.search(r"} \S+( \d+)$", line))})
    families = [
        family
        for time in times or [""]
        for family in parse(
            "".join(f"{line}\n" for line in lines if line[0] == "#" or line.endswith(time))
        )
        if family.name == NAME
    ]
    assert {family.unit for family in families} == {"" if parse is parsed_text else "seconds"}
    [kind] = {family.type for family in families}
    return kind, {
        (
            each.name.removeprefix(f"{NAME}_"),
            each.labels["algorithm"],
            each.labels.get("le"),
            each.timestamp and float(each.timestamp),
        ): each.value
        for family in families
        for each in family.samples
    }


def counted(steps_us, edge):
    return np.count_nonzero(np.divide(steps_us, 1e6) <= float(edge))


def test_buckets_have_exact_counts_of_each_run(store, reports):
    folder, steps_us = store
    kind, samples = samples_of(reports("export", folder, "--openmetrics")[1])
    assert kind == "gaugehistogram"
    times = sorted({time for *_, time in samples})
    assert len(times) == 2
    for (ending, algorithm, edge, time), value in samples.items():
        own_us = steps_us[times.index(time)][algorithm]
        if ending == "bucket":
            assert value == counted(own_us, edge), (algorithm, edge)
        elif ending == "gcount":
            assert value == len(own_us)
        else:
            assert value == pytest.approx(sum(own_us) / 1e6, rel=0.005)


def test_buckets_of_runs_and_cases_add_up(store, reports):
    """A series without an edge above its longest step would be missing from the sum there."""
    folder, steps_us = store
    _, samples = samples_of(reports("export", folder, "--openmetrics")[1])
    added = defaultdict[str, float](float)
    for (ending, _, edge, _), value in samples.items():
        if ending == "bucket":
            added[edge] += value
    every_us = np.concatenate([own for by_algorithm in steps_us for own in by_algorithm.values()])
    assert dict(added) == {edge: counted(every_us, edge) for edge in added}
    assert float(min(added, key=float)) < every_us.min() / 1e6
    assert len(added) > 10


def test_a_text_file_has_a_histogram_without_times(store, reports, tmp_path):
    """node_exporter refuses the whole file for a time, or for a type that its format lacks, and
    reads a sum that is missing as 0."""
    folder, steps_us = store
    path = tmp_path / "wiretax.prom"
    reports("export", folder, "--openmetrics", "--textfile", path)
    kind, samples = samples_of(path.read_text(), parsed_text)
    assert kind == "histogram"
    assert {time for *_, time in samples} == {None}
    assert {ending for ending, *_ in samples} == {"bucket", "count", "sum"}
    for algorithm in CALL_US:
        own_us = steps_us[1][algorithm]
        assert samples["count", algorithm, None, None] == len(own_us)
        assert samples["bucket", algorithm, "+Inf", None] == len(own_us)
        assert samples["sum", algorithm, None, None] == pytest.approx(sum(own_us) / 1e6, rel=0.005)
    if promtool := shutil.which("promtool"):
        subprocess.run([promtool, "check", "metrics"], stdin=path.open(), check=True)


def test_the_p99_and_slow_steps_are_gauges(store, reports):
    """Buckets are a factor of two wide: no alarm can find a P99 that grew by half in them."""
    folder, _ = store
    path = sorted(folder.glob("*.jsonl"))[0]
    cases = json.loads(reports("show", path, "--json")[1])["cases"]
    metrics = {
        family.name: {each.labels["algorithm"]: each.value for each in family.samples}
        for family in text_string_to_metric_families(reports("export", path, "--openmetrics")[1])
    }
    for name, field, scale in (
        ("wiretax_step_p99_seconds", "step_p99_us", 1e-6),
        ("wiretax_slow_steps_ratio", "slow_share", 1),
    ):
        values = [scale * case[field]["value"] for case in cases]
        assert [metrics[name][case["algorithm"]] for case in cases] == pytest.approx(values)


def test_runs_without_steps_have_no_histogram(tmp_path, reports):
    older = min(unpack(tmp_path, "h200").glob("*allreduce*.jsonl"))
    printed = reports("export", older, "--openmetrics")[1]
    assert len(printed) > 1000
    assert not re.search("^[^#]*(_step|slow_)", printed, re.MULTILINE)
