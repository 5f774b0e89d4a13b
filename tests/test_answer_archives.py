"""What docs/answer.md, docs/claims.md, README.md and docs/gpu.md say once owners' archives have
become rows: with no edit, their figures, whose they are, and what they decide. All rows here are
made up, and none is stored."""

import re
from importlib import import_module

import pytest

from tests.launch import ROOT
from tests.reports.contributed_rows import contributed, sent

pytestmark = [pytest.mark.unit, pytest.mark.usefixtures("on_the_path")]
PAIR = "**Two R9700s and a dense 70B: "
ARCHIVE = "[archive 1a2b3c4d5e6f of Jane](references.md#from-owners-archives)"


@pytest.fixture(scope="module")
def measured(on_the_path):
    return import_module("answer_measured")


@pytest.fixture(scope="module")
def still_open(on_the_path):
    return import_module("answer_open")


@pytest.fixture(scope="module")
def marked(on_the_path):
    return import_module("answer_marked")


def first_screen(measured, folder, rows):
    """Both paragraphs on two R9700s."""
    with contributed(folder, rows):
        return measured.pair_text(import_module("answer_cases").figures())


@pytest.mark.parametrize(
    ("rows", "decided", "beside"),
    [
        pytest.param(
            sent(25.0),
            "one chat by tensor**, if the engine adds little to a call.",
            "25.0 us [24.2 25.8] by RCCL and 12.5 us [12.1 12.9] by Wiretax's kernel, from a graph "
            f"({ARCHIVE}): below the break-even of 202 us.",
            id="faster",
        ),
        pytest.param(
            sent(205.0, share=0.98),
            "no difference between by tensor and by layer can be told.**",
            "not to be told from the break-even of 202 us.",
            id="near",
        ),
        pytest.param(
            sent(420.0, share=0.9),
            "one chat by layer.**",
            "above the break-even of 202 us.",
            id="slower",
        ),
        pytest.param(
            sent(300.0),
            "by layer with RCCL, by tensor with Wiretax's kernel.**",
            "RCCL above the break-even of 202 us, Wiretax's kernel below it.",
            id="the library decides",
        ),
        pytest.param(
            [*sent(25.0), *sent(31.0, archive="99", contributor="")],
            "one chat by tensor**, if the engine adds little to a call.",
            "25.0 to 31.0 us on 2 machines by RCCL",
            id="two machines that agree",
        ),
        pytest.param(
            [*sent(25.0), *sent(310.0, share=0.9, archive="99")],
            "the machine decides between by tensor and by layer.**",
            "below and above the break-even of 202 us.",
            id="two machines that disagree",
        ),
    ],
)
def test_the_first_sentence_is_what_the_figures_demand(measured, tmp_path, rows, decided, beside):
    text = first_screen(measured, tmp_path, rows)
    assert text.startswith(PAIR + decided)
    assert beside in text
    passes = not re.match("one chat by layer|no difference", decided)
    assert ("necessary, not sufficient: an engine adds to a call" in text) == passes
    assert ("leave a call 225 to 703 us" in text) == ("one chat by tensor" not in decided)
    assert "**What an engine makes of it: an inference**, for nobody has published the pair" in text


def test_a_slow_call_is_held_against_what_others_paid_inside_engines(measured, tmp_path):
    """`By layer` beside an inference of 1.10 to 1.61 x by tensor would contradict itself."""
    others = "R9700s of others paid less, even inside engines."
    assert others in first_screen(measured, tmp_path, sent(420.0, share=0.9))
    assert others not in first_screen(measured, tmp_path, sent(300.0))  # one kernel took 150 us


def test_two_archives_of_a_machine_are_one_machine(measured, tmp_path):
    rows = [*sent(25.0), *sent(27.0, archive="99", machine=sent(25.0)[0]["machine"])]
    assert "25.0 to 27.0 us on 1 machine by RCCL" in first_screen(measured, tmp_path, rows)


@pytest.mark.parametrize(
    ("chunk_us", "said"),
    [
        (1400.0, "break-even of 4.82 ms, so by tensor shows the first token of one chunk earlier."),
        (4900.0, "4.90 ms [4.75 5.05] by RCCL and 4.41 ms"),
        (
            9000.0,
            "above prefill's break-even of 4.82 ms, so by layer shows the first token earlier",
        ),
    ],
)
def test_a_chunk_decides_the_prompt(measured, tmp_path, chunk_us, said):
    assert said in first_screen(measured, tmp_path, sent(25.0, chunk_us=chunk_us))


def test_a_variable_that_somebody_set_or_an_eager_call_is_no_graph_of_the_default(
    measured, tmp_path
):
    """NCCL_PROTO=Simple is what Wiretax sets on gfx12 for an old RCCL: not what an engine calls."""
    rows = sent(25.0, variant="NCCL_PROTO=Simple", kind="library", library="rccl")
    assert first_screen(measured, tmp_path, rows).startswith(f"{PAIR}an inference**")
    eager = [row for row in sent(25.0) if row["mode"] == "eager"]
    assert "takes 31.0 us [30.1 31.9] by RCCL, eager (" in first_screen(measured, tmp_path, eager)


def test_what_was_withdrawn_decides_nothing(measured, still_open, marked, tmp_path):
    """A row that turned out wrong must leave no trace on this page."""
    withdrawn = sent(25.0, withdrawn="the fans | were off")
    assert first_screen(measured, tmp_path, withdrawn) == first_screen(measured, tmp_path, [])
    readme = (ROOT / "README.md").read_text()
    with contributed(tmp_path):
        unchanged = marked.renewed(readme)
    with contributed(tmp_path, withdrawn):
        assert "An all-reduce of 16 KiB between two R9700s over PCIe." in open_part(still_open)
        assert marked.renewed(readme) == unchanged


def open_part(still_open):
    """The questions that stand open."""
    return still_open.text().partition(still_open.ANSWERED)[0]


def test_a_row_strikes_its_question_and_answers_it(still_open, tmp_path):
    """The list was a fixed text: a row would have stood beside `nobody has measured`."""
    wide = "between two R9700s over PCIe 5 x16 with P2P."
    token = "An all-reduce of 16 KiB between two R9700s over PCIe."
    with contributed(tmp_path):
        assert token in open_part(still_open)
        assert wide in open_part(still_open)
    with contributed(tmp_path, sent(25.0, fabric="PCIe 4 x8")):
        assert token not in open_part(still_open)
        assert wide in open_part(still_open)
        (line,) = [each for each in still_open.text().splitlines() if token in each]
        assert "25.0 us [24.2 25.8] by RCCL" in line
        assert f"over PCIe 4 x8 with peer access, from a graph ({ARCHIVE})" in line
    with contributed(tmp_path, sent(25.0)):
        assert wide not in open_part(still_open)
    staged = sent(25.0, transport="host memory")
    with contributed(tmp_path, staged):
        assert wide in open_part(still_open)
    with contributed(tmp_path, sent(25.0, gpu="RTX 5090", fabric="PCIe 4 x4")):
        assert "behind the chipset" not in open_part(still_open)
        assert token in open_part(still_open)


def test_tables_of_calls_boards_and_claims_take_the_rows(tmp_path, monkeypatch):
    """Also of slots of which nothing, or no lanes are known: those stopped `make figures`."""
    page, boards = import_module("answer_page"), import_module("answer_boards")
    monkeypatch.setattr(page, "h100_us", lambda: [6.5])  # an archive of ours, slow to unpack
    rows = [
        *sent(25.0),
        *sent(26.0, archive="2b", fabric="PCIe 5"),
        *sent(26.0, archive="3c", fabric="unknown", size_bytes=256 << 20),
        *sent(26.0, archive="4d", fabric="PCIe 3 x16", size_bytes=256 << 20),
    ]
    with contributed(tmp_path, rows):
        calls = page.call_table()
        assert "| 2x R9700, PCIe 5 x16, rccl, p2p, graph | 16 KiB | 25.0 |" in calls
        (ours,) = re.findall(r"\| 2x R9700, PCIe 5 x16, wiretax, p2p, graph \(kernel\).*", calls)
        assert ours.endswith(f"{ARCHIVE} |")
        (board,) = re.findall(r"\| x16/x16, PCIe 5, peers on .*", boards.board_table())
        assert "alone 12.5 to 31.0 us" in board
        assert ARCHIVE in board
        assert "lanes not printed, PCIe 5" in boards.board_table()
        assert import_module("answer_calls").of_paths()["acs_ms"] == "49.1 ms"
        claim = import_module("claims_table").table().claims["a10"]
        figures, verdict = import_module("claims_two_cards").a10(claim)
        assert verdict == claim.verdict
        assert "it took 25.0 us [24.2 25.8] by RCCL" in figures["r9700"]
    with contributed(tmp_path, sent(420.0)):
        assert "the dearest cost more than it saves" in page.wire_alone()["dearest"]
        assert import_module("claims_two_cards").a10(claim)[1] == claim.verdict


def test_readme_and_the_page_of_gpus_say_what_the_tables_say(marked, tmp_path):
    """`No wire between two GPUs has been measured` once stood there whatever was measured."""
    assert marked.stale() == [], "run make figures"
    for page in marked.PAGES:
        assert page.read_text().count("<!-- pairs -->") == 1
    with contributed(tmp_path):
        readme = marked.renewed((ROOT / "README.md").read_text())
        other = readme.replace("No wire between two GPUs has", "Many wires between GPUs have")
        assert other != readme
        assert marked.renewed(other) == readme
    with contributed(tmp_path, sent(25.0)):
        new = " ".join(marked.renewed(readme).split())
        assert "No wire" not in new
        assert "By owners' archives 2x R9700 ran Wiretax." in new
        assert "As far as calls tell, one chat by tensor, if the engine adds little" in new
        assert "25.0 us [24.2 25.8] by RCCL" in new
        assert "](docs/references.md#from-owners-archives)" in new, "who measured wires"
        assert len(marked.renewed(readme).splitlines()) <= len(readme.splitlines()) + 1
    with contributed(tmp_path, sent(25.0, gpu="RTX 5090", library="nccl", kind="library")):
        assert "2x RTX 5090 ran Wiretax. **No AMD GPU has run anything yet.**" in marked.pairs()


def test_make_figures_writes_every_page_that_rows_change(monkeypatch):
    """docs/references.md had a command of its own, which who adds a row would forget."""
    figures, written = import_module("figures"), list[str]()
    monkeypatch.setattr("sys.argv", ["figures.py", "answer"])
    pages = "answer_page", "answer_marked", "claims_page", "tests.references_page"
    for name in pages:
        monkeypatch.setattr(import_module(name), "write", lambda name=name: written.append(name))
    monkeypatch.setattr(figures, "FIGURES", {"answer": (lambda: None, ())})
    monkeypatch.setattr(figures, "write", lambda *_: None)
    figures.main()
    assert sorted(written) == sorted(pages)


def test_the_page_asks_for_the_archive_in_two_commands():
    page = (ROOT / "docs" / "answer.md").read_text()
    section = page.partition("## Test your own cards")[2].partition("\n## ")[0]
    commands = section.split("```sh\n")[1].partition("```")[0].splitlines()
    assert len(commands) == 2
    assert commands[1].endswith("wiretax survey --quick")
    assert section.index("issues/new?template=archive.yml") < section.index("mpirun")
