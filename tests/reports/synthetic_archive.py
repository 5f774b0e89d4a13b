"""Makes the archive of a survey that nobody measured: two R9700s in slots of PCIe 5 x16 that reach
each other's memory, with RCCL and our kernels, five launches, and the link.

Its machine is called `synthetic`, by which `references check` refuses it; `machine_id=OTHER` makes
one that it takes, for tables of a test's own. `packed` makes an archive of changed files, with the
hashes of what they are now."""

import hashlib
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from bench.surveys.survey_archive import pack
from tests.bench.synthetic_link import made_up
from tests.reports.synthetic_candidates import R9700
from tests.reports.synthetic_run import rewrite_cases, rewrite_head, write_run
from wiretax import __version__
from wiretax.record.archive import CONTENTS, Contents, StepRecord
from wiretax.record.histogram import steps_of
from wiretax.record.schema import Block, CaseHeader

SYNTHETIC, OTHER = "synthetic", "5a11ab1e0c0d"  # ids of machines
SIZES = 16 << 10, 32 << 20
# A call of RCCL of 16 KiB from a graph, as shares of the break-even of docs/answer.md.
SHARES_OF_EVEN = {"faster": 0.25, "near": 1.0, "slower": 2.0}
GRAPH_US = 50.0
LAUNCHES = 5
LINK_GB_S, BUSBW_GB_S = 52.0, 44.0  # below the 63 GB/s of the slots
OURS = 0.5  # the time of our fastest kernel over RCCL's
EAGER_US = 6.0  # what a launch without a graph adds
LIBRARY = "RCCL 2.27.7"
STEPS = np.linspace(0.97, 1.03, 25)  # of a block, over its time

Files = dict[str, bytes]  # by their names in the archive's folder


def write_archive(path: Path, graph_us: float = GRAPH_US, **fields: Any) -> Path:
    """Writes the archive of `files_of` as `path`, such as `survey.tar.gz`, and returns it."""
    return packed(path, files_of(graph_us, **fields))


def files_of(
    graph_us: float = GRAPH_US,
    launches: int = LAUNCHES,
    machine_id: str = SYNTHETIC,
    slower: float = 1.0,
) -> Files:
    """The runs, page and logs of a survey in which a call of RCCL of 16 KiB took `graph_us` from a
    graph, and all calls `slower` times as long. Launches differ by 1 %: half of them are above the
    mean."""
    files: Files = {"index.html": b"<title>synthetic</title>", "logs/link.out.txt": b"synthetic"}
    with tempfile.TemporaryDirectory() as room:
        folder = Path(room)
        paths = [made_up(folder / "results/link", 2, lambda *_: LINK_GB_S, blocks=6).path]
        paths += [launch(folder, number, graph_us, slower) for number in range(launches)]
        for path in paths:
            mark(path, machine_id)
            files[path.relative_to(folder).as_posix()] = path.read_bytes()
    return files


def launch(folder: Path, number: int, graph_us: float, slower: float) -> Path:
    """Writes a launch of the all-reduces."""
    run_id = f"2026-11-20T06-{16 + number}-00Z-allreduce-1a2b3{number}"
    factor, draw = slower * math.exp(0.01 * (-1) ** number), np.random.default_rng(number)

    def us(case: CaseHeader, block: Block) -> float:
        small_us = graph_us if case.mode == "chained" else graph_us + EAGER_US
        time_us = small_us if case.size_bytes == SIZES[0] else case.size_bytes / BUSBW_GB_S / 1e3
        ours = 1.0 if case.algorithm == "library" else OURS if case.size_bytes == SIZES[0] else 0.9
        # A chain has its link, which the run's cases are without.
        return factor * ours * time_us * draw.normal(1, 0.002) + (block.chain_only_us or 0.0)

    def change(block: Block) -> Block:
        """As the harness stores a block: its time is the median of its steps."""
        calls = 160 if block.consume_us is None else 1
        block.consume_us = None if calls > 1 else 2.0 * slower
        block.total_us = round(block.time_us + (block.consume_us or 0.0), 6)
        block.mean_us = block.time_us
        block.n, block.steps = len(STEPS), steps_of(block.total_us * calls * STEPS)
        return block

    made = write_run(
        folder / "results/allreduce",
        sizes=SIZES,
        algorithms=("library", "auto"),
        library_variants=("graph",),
        n_blocks=6,
        seed=number,
        run_id=run_id,
        gpu=R9700,
        scale=0.17,  # of the parts of the link: no time is below its bound
        us=us,
        change=change,
    )
    return made.path


def mark(path: Path, machine_id: str) -> None:
    """Says in a run what it ran on."""
    versions = {"driver": "70051831", "runtime": "70051831", "module": "amdgpu 6.14.14"}
    ranks = [
        {
            "rank": rank,
            "host": 0,
            "node": SYNTHETIC,
            "device": "hip",
            "arch": "gfx1201",
            "gpu": R9700,
            "cpus": [rank],
            "pci_bus_id": bus_id,
            "memory_bytes": 32 << 30,
            **versions,
        }
        for rank, bus_id in enumerate(("0000:03:00.0", "0000:43:00.0"))
    ]
    facts = {
        "cpu.model": "AMD EPYC 9354 32-Core Processor",
        "gpu.links": ["PCIe 5 x16", "PCIe, two root complexes of one socket"],
        **{f"gpu.{name}": [value] for name, value in versions.items()},
    }
    pairs = {"0 -> 1": ["P2P/IPC"], "1 -> 0": ["P2P/IPC"]}
    rewrite_head(
        path,
        version=__version__,
        machine_id=machine_id,
        software_id="d4e5f6",
        environment={
            name: {"value": value, "source": SYNTHETIC, "status": "ok"}
            for name, value in facts.items()
        },
        world__ranks=ranks,
        world__library={"library": LIBRARY, "transports": {"plain": pairs}, "set_by_wiretax": {}},
        memory={"requested": "mapped", "behaved": "mapped"},
        notes=["synthetic: nobody measured this"],
    )
    rewrite_cases(path, lambda case: case.update(library=case["library"] and LIBRARY))


def packed(path: Path, files: Mapping[str, bytes], /, **fields: Any) -> Path:
    """Writes an archive of these files, with a `survey.json` that fits them, but for `fields`."""
    path.write_bytes(pack("survey", {**files, CONTENTS: listed(files, **fields)}))
    return path


def listed(files: Mapping[str, bytes], /, **fields: Any) -> bytes:
    """The `survey.json` that fits these files, but for `fields`."""
    runs = [name for name in files if name.startswith("results/")]
    steps = [
        StepRecord(
            name=run.split("/")[1],
            launch=1 + sum(other.split("/")[1] == run.split("/")[1] for other in runs[:place]),
            command=f"mpirun -n 2 python -m bench.{run.split('/')[1]} --device=hip",
            status="done",
            sentence="synthetic",
            elapsed_s=55.0,
            run=run,
        )
        for place, run in enumerate(runs)
    ]
    contents: dict[str, Any] = {
        "made": "2026-11-20T06:22:00Z",
        "version": __version__,
        "command": "python -m bench.survey --quick -n 2",
        "status": 0,
        "vendor": "hip",
        "ranks": 2,
        "shares_gpus": False,
        "steps": steps,
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    }
    return msgspec.json.encode(Contents(**contents | fields))
