"""Flags of nccl-tests that have nothing to choose here. A value is taken with a note if a run does
what it says, or if it is nccl-tests' default: a script that repeats a default asks for nothing that
one without the flag does not. Another value is refused: the run would not do what it says."""

import argparse
from dataclasses import dataclass
from functools import partial

from bench.harness.feature import Feature
from bench.harness.options import NOTHING, AddOption, Parser, whole_number


@dataclass(frozen=True)
class Flag:
    """A flag by its names in nccl-tests. Without `taken` every value is."""

    short: str
    long: str
    text: str
    taken: tuple[int, ...] = ()


# As in nccl-tests 2.19.6; -F is a flag of rccl-tests, and so is its name.
FLAGS = (
    Flag(
        "-g",
        "--ngpus",
        "a rank is one process with one GPU or core; for more start more ranks",
        (1,),
    ),
    Flag(
        "-t", "--nthreads", "a rank is one process with one thread; for more start more ranks", (1,)
    ),
    Flag(
        "-m", "--agg_iters", "calls are not aggregated; --mode chained times calls in a row", (1,)
    ),
    Flag("-r", "--root", "no effect: there is no root"),
    Flag("-p", "--parallel_init", "no effect: no thread initialises the library"),
    Flag(
        "-z",
        "--blocking",
        "no effect: each isolated call is waited for, after a barrier that "
        "is not in its time, as with -z 3",
    ),
    Flag("-y", "--stream_null", "no effect: calls have a stream of their own"),
    Flag(
        "-C",
        "--report_cputime",
        "times are of the collective, not of the CPU that launches it",
        (0,),
    ),
    Flag(
        "-a",
        "--average",
        "a time is the slowest rank's, as with -a 3; the mean of -a 1 is lower",
        (1, 3),
    ),
    Flag(
        "-R",
        "--local_register",
        "copied and registered buffers are both measured",
        (0, 1, 2),
    ),
    Flag("-u", "--unalign", "timed buffers are aligned; bench.soak checks others", (0,)),
    Flag(
        "-I",
        "--per_iter_timing",
        "no columns i_min to i_cv%; reports show --format csv has percentiles of single iterations",
        (0,),
    ),
    Flag("-D", "--device_implementation", "--algorithm chooses the implementation", (0,)),
    Flag("-N", "--run_cycles", "a run has one cycle; bench.campaign launches many", (1,)),
    Flag("-S", "--report_timestamps", "rows have no time stamp", (0,)),
    Flag("-M", "--memory_report", "the use of memory is not reported", (0,)),
    Flag("-F", "--cache_flush", "caches are not flushed between iterations", (0,)),
)


@dataclass(frozen=True)
class NcclFlags(Feature):
    """The flags of a command line, and a note on each."""

    texts: tuple[str, ...]

    @staticmethod
    def add_options(add: AddOption) -> None:
        others = " ".join(flag.short for flag in FLAGS[1:])
        for flag in FLAGS:
            add(
                flag.short,
                flag.long,
                changes=NOTHING,
                type=partial(whole_number, 0),
                dest=flag.long[2:],
                metavar="N",
                help=argparse.SUPPRESS
                if flag != FLAGS[0]
                else f"this and {others}: flags of nccl-tests, taken with a note or refused with "
                "the reason",
            )

    @classmethod
    def parse(cls, parser: Parser, namespace: argparse.Namespace) -> "NcclFlags | None":
        texts = []
        for flag in FLAGS:
            value = getattr(namespace, flag.long[2:])
            if value is None:
                continue
            text = f"{flag.short} {value}: {flag.text}"
            if flag.taken and value not in flag.taken:
                parser.error(text)
            texts.append(f"{text}.")
        return cls(tuple(texts)) if texts else None

    def notes(self) -> list[str]:
        return list(self.texts)
