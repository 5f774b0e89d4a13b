"""`advise`: how to split a model over GPUs, and the all-reduce time at which the answer changes."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

from reports.advice import advice_text, serving, specs, validate
from reports.advice.reduce_times import from_link, from_log, from_runs
from reports.advice.serving import Workload
from reports.advice.splits import GB, Question, on_gpu, peer_link
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
    add("--skew", metavar="X", type=skew, default=1.0,
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


def skew(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,6})?", text) or float(text) < 1:
        raise argparse.ArgumentTypeError(
            f"{printable(text)!r} is not a skew: busiest over mean, 1 or more")
    return float(text)


def advise(arguments: argparse.Namespace) -> int:
    """Prints the advice and returns 0. Raises ResultError for unknown names and unusable files."""
    logs = [read_imported(path) for path in arguments.run if is_imported(path)]
    if logs and len(arguments.run) > 1:
        raise ResultError("an imported log is one launch of another program: name it alone")
    results = [] if logs else [read(path) for path in arguments.run]
    if arguments.validate:
        sys.stdout.write(validate.render(read(arguments.validate), results))
        return 0
    question = read_question(arguments)
    link = specs.link(arguments.link or peer_link(question.gpu, question.gpus)
                      or question.gpu.slot)
    sources: list[Result | Imported] = [*logs, *results]
    if logs:
        times = from_log(logs[0], question.gpus, link)
    elif results:
        times = from_runs(results, question.gpus, link)
    else:
        times = from_link(link, question.gpus)
    sys.stdout.write(advice_text.render(question, times, sources))
    return 0


def read_question(arguments: argparse.Namespace) -> Question:
    """The question on the command line. Raises ResultError."""
    if (arguments.model is None) == (arguments.config is None) or arguments.gpu is None:
        raise ResultError("advise needs --gpu, and either --model or --config")
    model = specs.model(arguments.model) if arguments.model else specs.model_of(arguments.config)
    gpu = specs.gpu(arguments.gpu)
    size = re.fullmatch(r"([0-9]{1,5}(?:\.[0-9]{1,3})?) ?GB", arguments.weights, re.IGNORECASE)
    weights_bytes = (float(size[1]) * GB if size
                     else serving.weights_bytes(model, specs.bits(arguments.weights)))
    if arguments.skew > arguments.gpus:
        raise ResultError(f"a skew of {arguments.skew:g} over {arguments.gpus} GPUs: the busiest "
                          f"gets at most all, {arguments.gpus} times the mean")
    if not weights_bytes:
        raise ResultError("a model of 0 GB has no weights")
    workload = Workload(model, weights_bytes, gpu.bandwidth_gb_s, context=arguments.context,
                     skew=arguments.skew)
    return Question(on_gpu(workload, gpu, in_fp8=arguments.weights.lower() == "fp8"), gpu,
                    arguments.gpus, printable(arguments.weights), arguments.prompt,
                    arguments.batch, arguments.slots)
