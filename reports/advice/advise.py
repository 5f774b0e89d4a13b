"""`advise`: how to split a model over GPUs, and the all-reduce time at which the answer changes."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

from reports.advice import advice_text, specs, validate
from reports.advice.reduce_times import read_times
from reports.advice.serving import GB, Workload
from reports.imports.imported import Imported, read_imported
from reports.store.foreign import printable
from reports.store.result import ResultError, is_imported, read
from reports.store.schema import Result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", metavar="NAME", help="such as llama-3.1-70b; see reports/advice/specs.toml")
    add("--config", metavar="FILE", type=Path, help="or the config.json of a Hugging Face model")
    add("--weights", metavar="TYPE", default="q4",
        help="q4 (4.5 bits), q8 (8.5), fp8, fp16, bf16, or a size such as 42.5GB; %(default)s")
    add("--gpu", metavar="NAME", help="such as r9700, rtx4090, h100-nvl")
    add("--gpus", metavar="N", type=whole(64), default=2, help="number of GPUs (%(default)s)")
    add("--run", metavar="RUN", type=Path, nargs="+", action="extend", default=[],
        help="runs of bench.allreduce over N ranks, each a launch on one machine; or one imported "
        "log")
    add("--link", metavar="NAME",
        help="link to assume without a run, such as pcie5x16 (the GPU's own)")
    add("--context", metavar="TOKENS", type=whole(10**8, 0), default=4096,
        help="cached tokens of each stream (%(default)s)")
    add("--prompt", metavar="TOKENS", type=whole(10**7), default=2048,
        help="length of a prompt (%(default)s)")
    add("--batch", metavar="N", type=whole(10**5), default=1,
        help="streams for latency (%(default)s)")
    add("--slots", metavar="N", type=whole(10**5), default=8,
        help="streams for throughput (%(default)s)")
    add("--skew", metavar="X", type=float, default=1.0,
        help="load of the busiest rank of an expert split, over the mean (%(default)s)")
    add("--validate", metavar="RUN", type=Path,
        help="compare a run of bench.decode with the prediction from --run: runs of "
        "bench.allreduce and bench.link on the same machine")


def whole(most: int, least: int = 1) -> Callable[[str], int]:
    """A parser of whole numbers within these limits."""
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(
                f"{printable(text)!r} is not a whole number from {least} to {most}")
        return int(text)

    return parse


def advise(arguments: argparse.Namespace) -> int:
    """Prints the advice and returns 0. Raises ResultError for unknown names and unusable files."""
    runs = [read_imported(path) if is_imported(path) else read(path) for path in arguments.run]
    results = [run for run in runs if isinstance(run, Result)]
    if len(results) < len(runs) > 1:
        raise ResultError("an imported log is one launch of another program: name it alone")
    if arguments.validate:
        sys.stdout.write(validate.render(read(arguments.validate), results))
    else:
        sys.stdout.write(advice_text.render(read_workload(arguments, runs), runs))
    return 0


def read_workload(arguments: argparse.Namespace, runs: list[Result | Imported]) -> Workload:
    """The question on the command line. Raises ResultError."""
    if (arguments.model is None) == (arguments.config is None) or arguments.gpu is None:
        raise ResultError("advise needs --gpu, and either --model or --config")
    model = specs.model(arguments.model) if arguments.model else specs.model_of(arguments.config)
    gpu, gpus, weights = specs.gpu(arguments.gpu), arguments.gpus, arguments.weights
    size = re.fullmatch(r"([0-9]{1,5}(?:\.[0-9]{1,3})?) ?GB", weights, re.IGNORECASE)
    weights_bytes = float(size[1]) * GB if size else model.parameters * specs.bits(weights) / 8
    if not 1 <= arguments.skew <= gpus:
        raise ResultError(f"a skew of {arguments.skew:g} over {gpus} GPUs: the busiest gets at "
                          f"least the mean and at most all, {gpus} times the mean")
    if not weights_bytes:
        raise ResultError("a model of 0 GB has no weights")
    link = specs.link(arguments.link) if arguments.link else specs.link_between(gpu, gpus)
    return Workload(model, gpu, gpus, printable(weights), weights_bytes,
                    read_times(runs, gpus, link), arguments.context, arguments.prompt,
                    arguments.batch, arguments.slots, arguments.skew)
