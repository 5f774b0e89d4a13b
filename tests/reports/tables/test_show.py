"""The output for one run: the table, the other formats, the plot, and `python -m reports show`."""

import re
from statistics import median

import pytest

from reports.site.run_page import banner_of, run_page
from reports.tables.rows import speed_ups
from reports.tables.sentences import size_text
from reports.tables.table import render
from reports.verdicts.sides import Side, wrong_results
from tests.reports.archived import unpack
from tests.reports.synthetic_run import ONE, SIZES, rewrite, rewrite_head, write_run
from wiretax.record.result import read
from wiretax.record.schema import GpuState, WatchedGpu

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"), fast_rounds=[3])


def shown(folder, **fields):
    """The table of an isolated run of one or two sizes."""
    return render(write_run(folder, **{"sizes": SIZES[:2], "modes": ["isolated"]} | fields))


def rows_of(text):
    """The first table's rows, {size: cells after it}."""
    assert max(map(len, text.splitlines())) <= 80
    rows = dict[str, list[str]]()
    for line in text.splitlines():
        if match := re.match(r" *(\d+ [KMG]?i?B) +(.*)", line):
            rows.setdefault(match[1], match[2].split())
    return rows


def test_the_default_table_has_every_figure(result):
    text = render(result)
    assert "\x1b" not in text
    rows = rows_of(text)
    assert len(rows) == len(SIZES)
    library, auto, algorithm, ratio, low, high, busbw, share, wrong = rows["16 KiB"]
    assert algorithm == "one_shot_push"
    assert float(low[1:]) <= float(ratio) <= float(high[:-1])
    assert float(ratio) == pytest.approx(float(library) / float(auto), rel=0.03)
    assert float(busbw) == pytest.approx(16384 / (float(auto) / 1.25) / 1e3, rel=0.02)
    assert (0 < int(share[:-1]) <= 100, wrong) == (True, "0")
    assert re.search(r"flag round trip 5[34]\d ns; 10% of the blocks were in another state", text)


def test_a_gpu_run_names_the_cards_and_uses_the_librarys_best_variant(tmp_path):
    """A comparison with the worse of two variants would flatter our kernels. MPI's thread level is
    irrelevant to NCCL."""
    result = write_run(
        tmp_path,
        sizes=[16384],
        modes=["isolated"],
        library_variants=("plain", "registered"),
        us=lambda case, block: block.total_us * (0.5 if block.case == 1 else 1.0),
    )
    for rank in result.run.world["ranks"]:
        rank |= {"device": "hip", "arch": "gfx1201", "gpu": "AMD Radeon AI PRO R9700"}
    text = render(result)
    plain, registered = (case.total_us.median for case in result.cases[:2] if case.total_us)
    library = float(rows_of(text)["16 KiB"][0])
    assert library == pytest.approx(registered, rel=0.05)
    assert library < 0.6 * plain
    assert "2 ranks on AMD Radeon AI PRO R9700 (gfx1201)" in " ".join(text.split())


def test_wrong_results_have_one_table_the_worst_first_and_no_bandwidth(tmp_path):
    """The terminal, the page and a gate's sentences have the same share. Here the case with more
    wrong elements has the smaller share."""

    def wrong(block):
        block.n_wrong = {(1, 4): 3, (7, 4): 2}.get((block.case, block.round), 0)
        block.n_checked = 1 if block.case == 7 else 10
        return block

    result = write_run(tmp_path, sizes=SIZES[:2], modes=["isolated"], change=wrong)
    n_blocks = sum(block.case == 1 for block in result.blocks)
    few, many = (f"{100 * share / n_blocks:.0f}%" for share in (0.3, 2.0))
    text = render(result)
    worst = "allreduce: WRONG RESULTS in 2 of 12 cases, the worst: auto 32 KiB"
    assert " ".join(text.split()).startswith(f"{worst} isolated, {many} of its elements")
    table = text.partition("wrong results, the worst first\n")[2].partition("\n\n")[0]
    assert [share for share in table.split() if share.endswith("%")] == [many, few]
    rows = rows_of(text)
    assert rows["16 KiB"][1:] == ["WRONG", "one_shot_push", few]
    assert "wrong: 2 of " in render(result, long=True)
    page = run_page(result.path)
    assert f"{worst} isolated, {many} of its elements." == page.banner.sentence
    assert [row["verdict"] for row in page.sections[0].rows] == [f"WRONG: {many}", f"WRONG: {few}"]
    assert [told.partition(" is ")[0] for told in wrong_results(Side("head", [result]))] == [
        "32 KiB auto",
        "16 KiB auto",
    ]


def test_without_auto_odd_rounds_choose_the_best_algorithm_and_even_ones_give_its_ratio(tmp_path):
    def lucky(case, block):
        """one_shot_push is fast in odd rounds only; the ring is always a little slower than those
        rounds."""
        return {0: 5.0 if block.round % 2 else 50.0, 1: 6.0, 2: 9.0}[block.case]

    algorithms = ["one_shot_push", "ring", "library"]
    result = write_run(
        tmp_path,
        sizes=[16384],
        modes=["isolated"],
        algorithms=algorithms,
        us=lucky,
    )
    # The time is that of all rounds, as in every other report on the run.
    assert median_of(result.cases[0], "total_us") == 27.5
    assert rows_of(render(result))["16 KiB"][:4] == ["9.00", "27.5", "one_shot_push", "0.18"]


def test_an_algorithm_that_clearly_beats_auto_is_marked_and_named_once(tmp_path):
    """At 16 KiB case 1 is auto, and case 2 is one_shot_push, which auto runs: it does not beat
    itself."""

    def slowed(case, block):
        return block.total_us * (1.6 if block.case in (1, 2) else 1)

    text = shown(tmp_path / "a", n_blocks=16, us=slowed)
    assert rows_of(text)["16 KiB"][2] == "one_shot_push*"
    assert rows_of(text)["32 KiB"][2] == "one_shot_push"
    words = r"\* another variant beat auto by more than 5 %: one_shot_pull at 16 KiB \(1\.\d\dx\)"
    assert re.search(words, " ".join(text.split()))
    # One that is the fastest in both halves of ten rounds is judged by all: either half is too few
    # for an interval, as all of five rounds are.
    assert rows_of(shown(tmp_path / "b", n_blocks=10, us=slowed))["16 KiB"][2] == "one_shot_push*"
    assert "*" not in shown(tmp_path / "c", n_blocks=5, us=slowed)


def test_a_second_type_without_an_operation_is_named_alone(tmp_path):
    """`alltoall -d float32,bfloat16` had tables of `bfloat16 none`."""
    result = write_run(tmp_path, sizes=[16384], modes=["isolated"])
    for case in result.cases:
        case.redop, case.datatype = "none", "bfloat16" if case.case > 2 else "float32"
    text = render(result)
    assert "\nbfloat16\n" in text
    assert "none" not in text


def test_an_incomplete_run_starts_with_a_warning(tmp_path):
    def dropped(block):
        return None if block.case == 0 else block

    cut = shown(tmp_path / "a", finish=False, change=dropped)
    assert cut.startswith("INCOMPLETE: the run was cut off.\n")
    assert "not measured: library" in cut
    stopped = shown(tmp_path / "b", status="incomplete")
    assert stopped.startswith("INCOMPLETE: interrupted.\n")


def test_show_prints_the_stored_table_and_refuses_in_one_line(tmp_path, result, reports):
    picture = tmp_path / "a.svg"
    said = f"{render(read(result.path)).rstrip()}\nthe picture: {picture}\n"
    assert reports("show", result.path, "--plot", picture) == (0, said, "")
    assert picture.exists()
    json = reports("show", result.path, "--plot", picture, "--json")
    assert json == reports("show", result.path, "--json")
    (tmp_path / "other.jsonl").write_text("[1, 2]\n")
    for words in (
        [tmp_path / "other.jsonl"],
        [result.path, "--json", "--long"],
        [result.path, "--plot", tmp_path / "run.pdf"],
    ):
        status, out, err = reports("show", *words)
        assert (status, out, err.count("\n")) == (2, "", 1)


def named_run(folder, algorithms, **fields):
    """A run whose command line names these algorithms."""
    path = write_run(folder, **{"algorithms": algorithms, "n_blocks": 16} | fields).path
    rewrite_head(path, argv=["--algorithm", ",".join(algorithms)])
    return read(path)


def test_a_named_algorithm_has_its_columns_and_ratios(tmp_path):
    """Whoever writes an algorithm wants its figures, not those of `auto` alone."""
    result = named_run(tmp_path, ["library", "auto", "ring"], sizes=[16384])
    _, first, second, *_ = render(result).split("\n\n")
    _, heading, row = second.splitlines()
    columns = ["size", "algorithm", "us", "GB/s", "roofline", "library/this", "auto/this"]
    assert heading.split() == columns
    library, auto = rows_of(first)["16 KiB"][:2]
    ring, _, share, *ratios = re.sub(r"\[.*?\]", "", row.split("ring")[1]).split()
    assert share.endswith("%")
    assert [float(ratio) for ratio in ratios] == pytest.approx(
        [float(library) / float(ring), float(auto) / float(ring)], rel=0.02
    )


def test_a_run_with_auto_stable_says_what_stable_bits_cost_at_each_size(tmp_path):
    """`auto` runs the ring at 8 MiB, `auto_stable` the two_shot, which takes 7 % longer."""
    algorithms = ["library", "auto", "auto_stable", "two_shot", "ring"]
    fields = {"algorithms": algorithms, "modes": ["isolated"], "n_blocks": 16}
    text = render(write_run(tmp_path, sizes=[8 << 20], **fields))
    auto, stable = (rows_of(part)["8 MiB"] for part in text.split("\n\n")[1:3])
    assert float(stable[1]) == pytest.approx(1.07 * float(auto[1]), rel=0.015)
    assert float(stable[-3]) == pytest.approx(1 / 1.07, abs=0.015)


def test_stable_bits_have_a_price_in_us_and_percent_of_auto(tmp_path):
    """A serving engineer decides by both. `auto_stable` takes 7 % longer at 8 MiB, and runs what
    `auto` runs at 16 KiB. Other algorithms have no price."""
    algorithms = ["library", "auto", "auto_stable", "ring"]
    fields = {"algorithms": algorithms, "modes": ["isolated"], "n_blocks": 16}
    result = write_run(tmp_path, sizes=[16384, 8 << 20], **fields)
    result.run.argv = ["--algorithm", "library,auto,ring", "--stable"]
    second = render(result).split("\n\n")[2]
    above, heading, *lines = second.splitlines()
    rows = {(line.split()[0], line.split()[2]): line.split()[3:] for line in lines}
    assert above.split() == ["price", "price"]
    assert heading.split() == ["size", "algorithm", "us", "us", "%", "library/this", "auto/this"]
    us, price_us, percent, low, high = (
        float(cell.strip("[]")) for cell in rows["8", "auto_stable"][:5]
    )
    assert low < percent < high
    assert percent == pytest.approx(7, abs=1.5)
    assert price_us == pytest.approx(us * percent / (100 + percent), rel=0.02)
    assert abs(float(rows["16", "auto_stable"][2])) < 2
    assert rows["8", "ring"][1:3] == ["-", "-"]
    usual = write_run(tmp_path / "usual", **fields | {"algorithms": ["library", "auto", "ring"]})
    assert "price" not in render(usual)


def median_of(case, name):
    return getattr(case, name).median


def test_on_gpus_the_chain_from_a_graph_leads_less_its_own_links(tmp_path):
    """As a model decodes; isolated calls contain two stamps and an empty launch. The largest size
    has no chain. Launched one by one, a chain's links overlap with its calls: then nothing is
    taken off."""
    path = unpack(tmp_path, "h100") / "2026-11-26T11-03-34Z-allreduce-800a1c.jsonl"
    for graph in (1, 0):
        rewrite_head(path, method__graph=graph)
        result = read(path)
        text = render(result)
        first, second = text.index("chained: 160"), text.index("isolated: two stamps")
        assert (first < second) == bool(graph)
        chained = next(c for c in result.cases if c.mode == "chained" and c.algorithm == "auto")
        row = rows_of(text[min(first, second) :])[size_text(chained.size_bytes)]
        isolated = next(c for c in result.cases if c.mode == "isolated" and c.algorithm == "auto")
        if graph:
            expected_us = median_of(chained, "with_link_us") - median_of(chained, "chain_only_us")
        else:
            expected_us = median_of(isolated, "total_us")
            assert chained.with_link_us is None
        assert float(row[0]) == pytest.approx(expected_us, rel=0.01)


def test_all_rows_of_a_size_are_less_the_same_link(tmp_path):
    """On a shared card a link of 1 MiB took 2 us in some blocks and 8 us in others, and the row
    with more of the latter looked faster."""
    path = unpack(tmp_path, "h100") / "2026-11-26T11-03-34Z-allreduce-800a1c.jsonl"
    before = read(path)
    size_bytes = next(case.size_bytes for case in before.cases if case.mode == "chained")
    rows = [
        case for case in before.cases if (case.mode, case.size_bytes) == ("chained", size_bytes)
    ]
    slow, *others = [row.case for row in rows if row.time_us]
    assert others

    def lengthen(line):
        if line.get("case") == slow and line.get("chain_only_us") and line["kind"] == "block":
            line["chain_only_us"] += 3.0

    after = read(rewrite(path, lengthen))
    links_us = [
        block.chain_only_us
        for block in after.blocks
        if block.case in others and block.chain_only_us
    ]
    for number in (slow, *others):
        case = after.cases[number]
        off_us = median_of(case, "with_link_us") - median_of(case, "time_us")
        assert off_us == pytest.approx(median_of(case, "chain_only_us"))
        assert off_us == pytest.approx(median(links_us), rel=0.01)
        assert median_of(case, "with_link_us") == median_of(before.cases[number], "with_link_us")


def test_too_few_blocks_say_how_to_get_more(tmp_path):
    """The words for too little data must not sound like a finding."""
    text = " ".join(shown(tmp_path, n_blocks=3).split())
    assert "MPICH, too few blocks)" in text
    assert "have fewer than 10 blocks: --max-time " in text
    assert "not clearly" not in text


def test_cases_of_two_kinds_of_memory_have_no_ratio(tmp_path):
    """Two ranks on one H200: ours went through the host, NCCL stayed within the card's memory, and
    the table called ours 0.59 times as fast."""
    folder = unpack(tmp_path, "h200-card")
    result = read(folder / "2026-11-28T19-10-01Z-allreduce-8ca307.jsonl")
    text = render(result)
    assert "two kinds of memory" in " ".join(text.split())
    assert text.startswith("allreduce: 16 KiB 11 us, 32 MiB 18 GB/s\n")
    assert rows_of(text)["32 MiB"][:2] == ["100", "1839"]
    for words in (text, render(result, long=True)):
        assert "library/" not in words
        assert not re.search(r"0\.\d+x", words)
    assert not any(speed_ups(result).values())

    # Contenders on one card, whose memory ours shares, are alike.
    contenders = read(folder / "2026-11-28T19-06-53Z-allreduce-1ffef4.jsonl")
    assert "best/this" in render(contenders)


def test_every_share_above_100_percent_has_its_mark(tmp_path):
    """Rows of 104 to 119 % stood there without one, because the intervals overlap."""
    result = read(unpack(tmp_path, "xeon") / "2026-11-26T11-04-48Z-allreduce-8eb6ab.jsonl")
    assert not any(case.suspect for case in result.cases)
    text = render(result)
    shares = re.findall(r"\s(\d+)%(!?)\s", text)
    assert [share for share, _ in shares if int(share) > 100] == ["113", "105", "117", "119"]
    assert all((mark == "!") == (int(share) > 100) for share, mark in shares)
    note = "roofline of the measured parts: suspect, unless the intervals overlap"
    assert note in " ".join(text.split())
    assert note in " ".join(render(result, long=True).split())


def test_few_blocks_count_where_they_leave_a_ratio_open(tmp_path):
    """`84 of 138 cases have fewer than 10 blocks` stood below a table in which all was clear: the
    other algorithms, which it does not show, had few."""
    text = shown(
        tmp_path / "clear",
        n_blocks=12,
        change=lambda block: block if block.case % 6 < 2 or block.round < 3 else None,
    )
    assert "blocks" not in text
    few = shown(
        tmp_path / "few", n_blocks=7, us=lambda case, block: 20 + block.round * (block.case + 1) % 5
    )
    said = "4 of 4 cases in these tables without a clear ratio have fewer than 10 blocks"
    assert f"time ran out: {said}: --max-time 80" in " ".join(few.split())


def test_the_time_that_is_asked_for_is_enough_for_ten_blocks_each(tmp_path):
    """Half as long again was asked of a run of which not one case in ten was measured."""
    assert "10 blocks: --max-time 520" in " ".join(shown(tmp_path, n_blocks=1).split())


def test_a_run_that_measured_nothing_has_no_table(tmp_path):
    """25 sizes stood in it, without a figure."""
    text = shown(tmp_path, change=lambda block: None)
    assert not rows_of(text)
    assert "have fewer than 10 blocks: give it more --max-time" in " ".join(text.split())


def test_what_the_gpus_did_during_a_run_is_shown_once_for_each(tmp_path):
    """Two ranks share the second card; without a driver's word nothing is said."""
    result = write_run(tmp_path, **ONE)
    assert result.end is not None
    assert "GPUs:" not in render(result)
    cards = [("03", (90.0, 100.0, 110.0)), ("06", (190.0, 200.0, 210.0))]
    result.end.gpus = [
        WatchedGpu(
            rank=rank,
            bus_id=f"0000:{cards[card][0]}:00.0",
            start=GpuState(clocks_mhz="1980/2619", power_w=50),
            end=GpuState(clocks_mhz="1755/2619" if card else "1980/2619", power_w=60),
            power_w=cards[card][1],
            looks=17,
            throttled_s={"SwPowerCap": 1.5} if card else {},
            throttled_looks={"SwPowerCap": 2, "HwSlowdown": 1} if card else {},
        )
        for rank, card in enumerate([0, 1, 1])
    ]
    said = " ".join(render(result).split())
    assert (
        "GPUs: 1980/2619 MHz at the start, 1980/2619, 1755/2619 MHz at the end; 50 W at the "
        "start, 60 W at the end; 300 W [280 320] in all after a round" in said
    )
    named = (
        "GPU 0000:06:00.0 of rank 1 was throttled during the run (SwPowerCap for 1.5 s, "
        "HwSlowdown in 1 of 17 looks): other runs may be faster"
    )
    assert said.count("was throttled") == said.count(named) == 1
    assert f"{named}." in banner_of(result).facts


def test_a_row_names_the_build_that_it_measured(tmp_path):
    """`two_shot_push` stood beside the 259 us of its build +1024K; it took 310 itself."""
    runs = unpack(tmp_path, "h200-card").glob("*-allreduce-4b10cd.jsonl")
    text = render(read(next(runs)))
    assert rows_of(text)["4 MiB"][1:3] == ["259", "two_shot_push+1024K"]
    # The memory of all rows is in the heading, and does not push the names out of the line.
    assert re.search(r"best over host_staged .*\n +us +us algorithm", text)
