"""One of two ranks of a small tensor-parallel MLP on gloo, under torch.profiler.

    .venv-torch/bin/python tests/ranks/gloo_ranks.py RANK LATE_MS STEPS FOLDER

Rank 1 computes LATE_MS longer before each all-reduce. The folder receives the rank's trace, and
when it arrived at each call and went on, by a clock that both ranks share."""

import json
import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.profiler import ProfilerActivity, profile, record_function

LAYERS, TOKENS, HIDDEN, WIDTH = 2, 8, 512, 1024
WARM_UP = 5


def main() -> None:
    rank, late_ms, steps, folder = sys.argv[1:]
    is_late = rank == "1" and float(late_ms) > 0
    path = Path(folder)
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    store = f"file://{path.resolve()}/store"
    dist.init_process_group("gloo", store, rank=int(rank), world_size=2)
    tokens = torch.randn(TOKENS, HIDDEN)
    up, down = torch.randn(HIDDEN, WIDTH), torch.randn(WIDTH, HIDDEN)
    more = torch.randn(256, 256)
    arrivals_s, ends_s = list[float](), list[float]()

    def step() -> None:
        states = tokens
        for _ in range(LAYERS):
            states = torch.relu(states @ up) @ down
            until_s = time.monotonic() + float(late_ms) / 1e3
            while is_late and time.monotonic() < until_s:
                torch.mm(more, more)
            arrivals_s.append(time.monotonic())
            dist.all_reduce(states)
            ends_s.append(time.monotonic())
            states = states / states.norm()

    for _ in range(WARM_UP):
        step()
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        step()  # the ranks' profilers do not begin at once
        for number in range(int(steps)):
            with record_function(f"ProfilerStep#{number}"):
                step()
    profiler.export_chrome_trace(str(path / f"rank{rank}.json"))
    profiled = slice(-LAYERS * int(steps), None)
    times = {"arrivals_s": arrivals_s[profiled], "ends_s": ends_s[profiled]}
    (path / f"times{rank}.json").write_text(json.dumps(times))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
