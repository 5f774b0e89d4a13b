"""Flags of nccl-tests that have nothing to choose here, for scripts that pass them. They take what
a run does anyway; another value is refused."""

from functools import partial

from bench.harness.feature import Feature
from bench.harness.options import NOTHING, AddOption
from reports.store.arguments import whole_number

PROCESS = "a rank is one process with one thread and one GPU or core; for more start more ranks (1)"
# As in nccl-tests 2.19.6, with the least and the most value.
FLAGS = (
    ("-g", "--ngpus", 1, 1, f"no effect: {PROCESS}"),
    ("-t", "--nthreads", 1, 1, "no effect, as -g (1)"),
    ("-m", "--agg_iters", 1, 1, "no effect: --mode chained times calls in a row (1)"),
    ("-r", "--root", 0, 99, "no effect: there is no root (0)"),
    ("-R", "--local_register", 0, 2, "no effect: registered buffers are measured too (0)"),
)


class NcclFlags(Feature):
    """The flags of a command line."""

    @staticmethod
    def add_options(add: AddOption) -> None:
        for short, long, least, most, text in FLAGS:
            number = partial(whole_number, least, most=most)
            add(short, long, changes=NOTHING, type=number, metavar="N", help=text)
