"""Writes a team's folder of runs, and its pages, for tests of the dashboard: sweeps, of which one
stores how long its calls took, whole steps, a campaign, an imported log, and a hostile run."""

from pathlib import Path

import numpy as np

from reports.__main__ import main
from tests.reports.synthetic_campaign import no_effect, slower, write_campaign
from tests.reports.synthetic_run import rewrite_cases, rewrite_head, write_run
from tests.reports.synthetic_together import layer, steps
from wiretax.record.histogram import steps_of

LOG = """# nThread 1 nGpus 2 minBytes 8 maxBytes 16 step: 2(factor) warmup iters: 5 validation: 1
#     size    count  type redop root   time algbw busbw #wrong   time algbw busbw #wrong
#      (B)  (elem.)                    (us) (GB/s) (GB/s)        (us) (GB/s) (GB/s)
     16384     4096 float   sum   -1  10.00  1.64  1.64      0  11.00  1.49  1.49      0
  33554432  8388608 float   sum   -1 900.00 37.28 37.28      0 910.00 36.87 36.87      0
# Out of bounds values : 0 OK
# Avg bus bandwidth    : 19.32
"""
HOSTILE = (
    "<script>window.harmed=1</script>\"'><img src=x onerror=window.harmed=1>$\\frac$ \x1b[31m"
    "\u202e&amp;"
)


# The steps of a block, as multiples of its time: one in 50 is slow.
STEPS = np.where(np.arange(200) % 50, 1.0, 5.0)


def with_steps(block):
    block.n, block.steps = len(STEPS), steps_of(block.cost_us * STEPS)
    return block


def write_store(folder: Path) -> Path:
    """Writes the folder, which gives eight pages."""
    write_run(
        folder,
        sizes=[16384, 65536, 1 << 20, 32 << 20],
        n_blocks=12,
        n=10,
        fast_rounds=[3],
        change=with_steps,
        run_id="2026-11-20T06-15-00Z-allreduce-000",
    )
    steps(folder / "steps", 10.0, 12.0, 20.0)
    rewrite_head(layer(folder / "layers").path, run_id="2026-11-20T06-15-00Z-made-layer")
    variants = {"main": no_effect, "new": slower(5)}
    write_campaign(folder / "campaign-1a2b3c4d", variants)
    rewrite_head(write_hostile(folder / "foreign", HOSTILE), run_id=HOSTILE)
    log = folder / "<img src=x onerror=window.harmed=1>.log"
    log.write_text(LOG)
    assert main(["import", "--out", str(folder / "imports"), str(log)]) == 0
    return folder


def write_hostile(folder, hostile, run_id="hostile", seed=7):
    """Writes a run with `hostile` in every string that the schema leaves free."""
    path = write_run(
        folder,
        sizes=[16384, 1 << 20],
        algorithms=["library", "auto", "one_shot_push"],
        modes=["isolated"],
        n_blocks=6,
        n=4,
        seed=seed,
        run_id=run_id,
    ).path

    def change(case):
        for name in ("variant", "memory", "datatype", "redop", "reason"):
            case[name] = hostile
        if case["algorithm"] == "library":
            case["library"] = hostile
        else:
            case["algorithm"] += hostile

    rewrite_cases(path, change)
    words = dict.fromkeys(("version", "machine_id", "software_id"), hostile)
    facts = {hostile: {"value": hostile, "source": hostile}, "cpu.model": {"value": hostile}}
    ranks = [{"rank": rank, "device": "cpu", "arch": hostile, "gpu": hostile} for rank in range(2)]
    rewrite_head(
        path,
        **words,
        argv=[hostile, "--model", hostile],
        notes=[hostile],
        environment=facts,
        world__ranks=ranks,
    )
    return path


def make_site(store: Path, site: Path, *options: str) -> Path:
    """Writes the pages of a store."""
    assert main(["dashboard", str(store), "-o", str(site), *options]) == 0
    return site
