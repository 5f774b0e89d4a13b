"""Writes a team's folder of runs, and its pages, for tests of the dashboard: sweeps, whole steps, a campaign, an
imported log, boxes to buy, and a hostile run."""

from pathlib import Path

import msgspec

from reports.__main__ import main
from tests.reports.synthetic_campaign import no_effect, slower, write_campaign
from tests.reports.synthetic_run import write_run
from tests.reports.synthetic_together import FUSED, THEN, Made, always, steps

LOG = """# nThread 1 nGpus 2 minBytes 8 maxBytes 16 step: 2(factor) warmup iters: 5 iters: 20 validation: 1
#       size         count      type   redop    root     time   algbw   busbw #wrong     time   algbw   busbw #wrong
#        (B)    (elements)                               (us)  (GB/s)  (GB/s)            (us)  (GB/s)  (GB/s)
       16384          4096     float     sum      -1    10.00    1.64    1.64      0    11.00    1.49    1.49      0
    33554432       8388608     float     sum      -1   900.00   37.28   37.28      0   910.00   36.87   36.87      0
# Out of bounds values : 0 OK
# Avg bus bandwidth    : 19.32
"""
SPEC = """hours_per_year = 6000
lifetime_years = 4
electricity = {price_per_kwh = 0.30, currency = "EUR"}
requirements = ["16K <= 8 us"]
[candidates.two-r9700]
runs = ["2026-*.jsonl"]
gpu = "r9700"
gpus = 2
price = {amount = 5200, currency = "EUR", date = 2026-11-01}
[candidates."<script>window.harmed=1</script>"]
runs = ["2026-*.jsonl"]
gpu = "rtx5090"
gpus = 2
price = {amount = 8900, currency = "EUR", date = 2026-11-03}
"""
HOSTILE = "<script>window.harmed=1</script>\"'><img src=x onerror=window.harmed=1>$\\frac$ \x1b[31m\u202e&amp;"


def write_store(folder: Path) -> Path:
    """Write the folder, which gives nine pages."""
    sizes = [16384 << step for step in range(0, 12, 2)]
    for number in range(2):
        write_run(
            folder,
            sizes=sizes,
            n_blocks=12,
            n=10,
            fast_rounds=[3],
            seed=number,
            run_id=f"2026-11-2{number}T06-15-00Z-allreduce-{number}{number}{number}",
        )
    steps(folder / "steps", 10.0, 12.0, 20.0)
    layer = (
        Made(folder / "layers")
        .run({"compute": always(10.0), FUSED: always(11.0), THEN: always(15.0)})
        .path
    )
    layer.write_bytes(layer.read_bytes().replace(b"made-1a2b3c", b"made-layer"))
    write_campaign(
        folder / "campaign-1a2b3c4d",
        {"main": no_effect, "new": slower(5)},
        fresh=6,
        fresh_sizes=[16384],
    )
    write_hostile(folder / "foreign")
    log = folder / "<img src=x onerror=window.harmed=1>.log"
    log.write_text(LOG)
    assert main(["import", "--out", str(folder / "imports"), str(log)]) == 0
    (folder / "boxes.toml").write_text(SPEC)
    return folder


def write_hostile(folder: Path) -> Path:
    """Write a run with markup in every string that the schema leaves free."""
    path = write_run(
        folder, sizes=[16384, 65536], n_blocks=6, n=4, modes=["isolated"], run_id="hostile"
    ).path
    lines = [msgspec.json.decode(line) for line in path.read_bytes().splitlines()]
    head = lines[0]
    head |= {
        "run_id": HOSTILE,
        "version": HOSTILE,
        "argv": [HOSTILE, "--model", HOSTILE],
        "machine_id": HOSTILE,
        "software_id": HOSTILE,
        "notes": [HOSTILE],
        "environment": {
            HOSTILE: {"value": HOSTILE, "source": HOSTILE},
            "cpu.model": {"value": HOSTILE},
        },
    }
    for rank in head["world"]["ranks"]:
        rank |= {"arch": HOSTILE}
    for case in [*head["cases"], *(line for line in lines if line["kind"] == "case")]:
        case |= {
            "variant": HOSTILE,
            "memory": HOSTILE,
            "datatype": HOSTILE,
            "redop": HOSTILE,
            "reason": HOSTILE,
        }
        case["algorithm"] = (
            case["algorithm"] if case["algorithm"] == "library" else case["algorithm"] + HOSTILE
        )
        case["library"] = case["library"] and HOSTILE
    path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    return path


def make_site(store: Path, site: Path, *options: str) -> Path:
    """Write the pages of a store."""
    assert main(["dashboard", str(store), "-o", str(site), *options]) == 0
    return site
