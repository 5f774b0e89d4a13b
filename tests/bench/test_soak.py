"""The soak: a run is clean when the epoch wraps. A soak finds and locates wrong results, and
ends within two seconds of Ctrl-C with its counts."""

import re
import signal
import time
from functools import partial

import pytest

from bench.soak import START_EPOCH
from tests.bench.faulty_runs import Launch, soon_s, wait_for
from tests.bench.launches import launch
from tests.fake_gpu import environment
from tests.kernels.broken_kernels import LL, RING, SYNC, Patch, apply, tree
from tests.launch import few

soak = partial(launch, command="soak")

COUNTED = re.compile(
    r"soak: (\d+) launches in \d+ s, (\d+) wrong elements; \d+ batches, each algorithm at least "
    r"(\d+) times, and the epoch went to (\d+)"
)
SMALL = "-e 32K -d float -o sum"
LOCATED = (
    r"wiretax: all_reduce \w+ \w+ float32 sum \d+ B.*, launch \d+: rank [01] got "
    r"\S+ \(0x[0-9a-f]{8}\) at offset \d+, element \d+; \S+ \(0x[0-9a-f]{8}\) expected\n"
    r"wiretax: it was batch (\d+); to repeat it: mpirun -n 2 python -m bench\.soak (.*)\n"
)


def clean(done, folder, fewest):
    """Check that a soak of at least `fewest` launches found no wrong element and left no file."""
    assert (done.returncode, done.stderr) == (0, "")
    counted = COUNTED.search(done.stdout)
    assert counted
    assert int(counted[1]) > fewest
    assert counted[2] == "0"
    assert not list(folder.iterdir())
    return counted


@pytest.mark.alone  # the wrap is 1000 launches away
def test_a_soak_is_clean_across_the_epochs_wrap_and_leaves_nothing(tmp_path):
    done = soak(tmp_path, "--soak 2s --seed 3", SMALL)
    assert int(clean(done, tmp_path, 300)[4]) < START_EPOCH
    drawn_from = r"seed 3, from epoch 4294966296 on: .*one_shot_ll, .* 32768 B"
    assert re.match(rf"soak of all_reduce for 2 s on 2 ranks .*{drawn_from}", done.stdout)


def test_a_soak_also_checks_the_library_and_has_its_own_sizes(tmp_path):
    """A round trip of sendrecv is two successive MPI calls. The smallest size of a sweep, 16 KiB,
    is no limit for a soak of small messages."""
    done = soak(tmp_path, "--soak 1s --collective sendrecv -e 1K -d float --algorithm library")
    clean(done, tmp_path, 10)
    assert "; 1 to 1024 B\n" in done.stdout


def test_a_soak_ends_at_a_wrong_result_and_locates_it(tmp_path):
    out, broken = tmp_path / "out", tree(tmp_path / "tree", "flip_bit")
    done = soak(out, f"--soak 60s {SMALL} --algorithm ring --timeout 2", tree=broken)
    assert done.returncode == 1
    assert re.fullmatch(LOCATED, done.stderr), done.stderr
    counted = COUNTED.search(done.stdout)
    assert counted
    assert int(counted[2]) > 0
    wait_for(
        lambda: not list(out.iterdir()), soon_s(2)
    )  # after a fault, the witness removes the files


SENT = "if (s == 0) return copy(sent, a.send + at, segment.count"
SHORT_BATCHES = "import bench.soak; bench.soak.BATCH_S = 0.1; bench.soak.main()"


def test_the_command_that_a_soak_prints_repeats_the_fault_at_once(tmp_path):
    """The kernel is wrong for one count in 64, which only some batches draw. One seed alone found
    such a fault after 121, 695 and 1392 launches."""
    out, broken = tmp_path / "out", tree(tmp_path / "tree")
    apply(broken, [Patch(RING, SENT, f"{SENT} - (a.count % 64 == 59)")])
    options = f"--soak 60s {SMALL} --algorithm ring --timeout 5 --seed 2"
    first = soak(out, options, program=SHORT_BATCHES, tree=broken)
    found = re.fullmatch(LOCATED, first.stderr)
    assert found, first.stderr
    assert int(found[1]) > 1
    again = soak(out, *found[2].split(), tree=broken)
    repeated = re.fullmatch(LOCATED, again.stderr)
    assert repeated, again.stderr
    assert found[1] == repeated[1]
    assert "; 1 batches" in again.stdout


MARK = "return epoch ? epoch : 1;"
OLD = {
    "a mark of 16 bits": Patch(LL, MARK, MARK.replace("epoch :", "epoch << 16 | 1 :")),
    "the sign of the difference": Patch(
        SYNC, "seen - wanted < (2ull << 32) - (unsigned)wanted", "(long long)(seen - wanted) >= 0"
    ),
    "a mark of 31 bits": Patch(LL, MARK, MARK.replace("epoch :", "epoch << 1 | 1 :")),
}


@pytest.mark.parametrize("name", few(OLD, 2))
def test_a_soak_finds_what_passes_for_new_after_many_launches(tmp_path, name):
    """A soak of a minute in the order that is drawn, without repetitions, found none of these."""
    broken = tree(tmp_path / "tree")
    apply(broken, [OLD[name]])
    algorithms = "one_shot_ll" if OLD[name].path == LL else "one_shot_pull,two_shot"
    done = soak(tmp_path, f"--soak 60s {SMALL} --algorithm {algorithms}", tree=broken)
    assert done.returncode == 1
    assert re.fullmatch(LOCATED, done.stderr), done.stderr


SEQUENCES_ALONE = """
from bench.soak import Sampler, main
Sampler.singles = lambda *_: []
main()
"""
HALF_BY_BLOCK = "the half by a counter per block"


@pytest.mark.parametrize(
    ("sizes", "is_found"), few([("-e 256K", True), ("-b 64K -e 64K", False)], 1)
)
def test_a_graph_of_alternating_sizes_finds_what_one_size_misses_on_a_fake_gpu(
    tmp_path, sizes, is_found
):
    broken, variables = tree(tmp_path / "tree", HALF_BY_BLOCK), environment()
    variables["PYTHONPATH"] = f"{broken}:{variables['PYTHONPATH']}"
    time = "--soak 40s" if is_found else "--soak 2s"
    options = f"{time} {sizes} -d float -o sum --algorithm one_shot_pull"
    done = launch(tmp_path, options, program=SEQUENCES_ALONE, tree=broken, **variables)
    assert done.returncode == is_found, done.stdout
    if is_found:
        located = LOCATED.replace(", launch", r", \d+ of \d+ in a graph, launch")
        assert re.search(located, done.stderr), done.stderr


@pytest.fixture
def soaking(tmp_path):
    """A soak that has begun."""
    run = Launch(tmp_path, "--soak 60s --timeout 2", SMALL, program=("-m", "bench.soak"), small=())

    def pages():
        return [page.read_bytes() for page in tmp_path.glob("*.flight/rank-1")]

    wait_for(lambda: any(b'"step": "soak"' in page for page in pages()), 60)
    time.sleep(0.2)
    return run


def test_an_interrupted_soak_ends_within_two_seconds_with_its_counts(tmp_path, soaking):
    soaking.signal(soaking.process.pid, signal.SIGINT)
    done = soaking.end()
    assert done.returncode == 130
    assert soaking.took_s < soon_s(2)
    counted = COUNTED.search(done.stdout)
    assert counted
    assert counted[2] == "0"
    assert not list(tmp_path.iterdir())
