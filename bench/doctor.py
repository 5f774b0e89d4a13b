"""Shows how the GPUs of this machine reach each other, and what slows them down or stops them.

Alone it reads /sys, /proc and the drivers' libraries, in a second. Under mpirun, with one rank per
GPU, it also tests peer memory as a benchmark does, measures copies between all pairs, and makes one
call of NCCL or RCCL."""

import signal
import sys
from typing import NoReturn

from bench.harness.options import CANNOT, FINE, Parser, print_out
from bench.machine.diagnosis import page, section
from bench.machine.gpus import examine, examine_library, examine_ranks
from bench.machine.pci import gpu_bus_ids
from collectives.communicator import Communicator, launched_rank

TIME_LIMIT_S = 120.0
NO_GPU = ("No GPU to examine: /sys/bus/pci/devices lists no GPU of NVIDIA or AMD; on WSL, run"
          " mpirun -n 1 python -m bench.doctor, which asks the driver.")


def main() -> NoReturn:
    """Prints the page; exits with 0, with 2 for a wrong command line, with 3 without a GPU."""
    Parser(
        prog="bench.doctor", usage="[mpirun -n RANKS] python -m bench.doctor", description=__doc__,
        epilog="exit status: 0 page printed; 2 wrong command line; 3 no GPU").parse_args()
    signal.setitimer(signal.ITIMER_REAL, TIME_LIMIT_S)  # no rank waits for a lost one for ever
    communicator = None if launched_rank() is None else Communicator()
    facts, world = examine_ranks(communicator) if communicator else (examine(gpu_bus_ids()), None)
    say(communicator, page(facts) if facts["gpus"] else "\n".join([NO_GPU, *facts["refusals"]]))
    if world:  # after the page: a library's first call may hang
        say(communicator, f"\n{section('Library', examine_library(world))}")
    sys.exit(FINE if facts["gpus"] else CANNOT)


def say(communicator: Communicator | None, text: str) -> None:
    """Prints on rank 0."""
    if not communicator or communicator.rank == 0:
        try:
            print_out(f"{text}\n")
        except OSError as error:
            sys.exit(f"bench.doctor: cannot print the page: {error.strerror}")


if __name__ == "__main__":
    main()
