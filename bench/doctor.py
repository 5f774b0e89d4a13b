"""Shows how the GPUs of this machine reach each other, and what slows them down or stops them.

Alone it reads /sys, /proc and the drivers' libraries, in a second. Under mpirun, with one rank per
GPU, it also tests peer memory as a benchmark does, and makes one call of NCCL or RCCL. For peers
that hang the host, --ladder tests in steps instead, and keeps on disk how far it came."""

import os
import signal
import sys
from typing import Any, NoReturn

from bench.harness.console import CANNOT, FINE, WRONG, print_out
from bench.harness.options import RunOptions
from bench.harness.parser import Parser
from bench.harness.progress import Progress
from bench.machine.best_group import group_facts
from bench.machine.diagnosis import page, problems, section, unknowns
from bench.machine.gpu_state import Facts
from bench.machine.gpus import examine, examine_library, open_and_examine
from bench.machine.pci import gpu_bus_ids
from collectives.communicator import Communicator
from kernels.devices import gpu_access
from wiretax.common.launched import launched_rank, launched_ranks
from wiretax.common.program import BENCH, RUN, json_text, on_ranks

TIME_LIMIT_S = 120.0
LADDER = "~/.cache/wiretax/ladder"
STEP_S = 60.0  # of the ladder; it may compile
NO_GPU = (
    "No GPU to examine: /sys/bus/pci/devices lists no GPU of NVIDIA or AMD; on WSL, run"
    f" {on_ranks(1, 'doctor')}, which asks the driver."
)


def main() -> NoReturn:
    """Prints the page, and exits with 0, with 2 for a wrong command line, with 3 without a GPU; or
    climbs the ladder, and exits with its status."""
    parser = Parser(
        prog=f"{BENCH}doctor",
        usage=f"[mpirun -n RANKS] {RUN}{BENCH}doctor [--quiet] [--mixed-gpus]"
        " [--json | --ladder [DIR]]",
        description=__doc__,
        epilog="exit status: 0 page printed, or all steps of the ladder work; 1 a step is wrong or"
        " hangs; 2 wrong command line; 3 no GPU, MPI does not start, or a step is refused",
    )
    parser.add_argument(
        "--ladder",
        nargs="?",
        const=LADDER,
        metavar="DIR",
        help=f"climb from host memory to collectives between GPUs; each step's name is on disk in"
        f" DIR before it starts ({LADDER})",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print the facts as one JSON object; advise --doctor FILE reads it",
    )
    parser.add(RunOptions, "mixed_gpus", "quiet")
    arguments = parser.parse_args()
    sys.excepthook = end_all
    if arguments.json and arguments.ladder is not None:
        parser.error("--json goes without --ladder")
    if arguments.ladder is not None:
        from bench.harness.ladder import climb  # needs numpy
        from bench.harness.session import start

        if (launched_ranks() or 1) < 2:
            parser.error(f"--ladder climbs between GPUs: {on_ranks(2, 'doctor')} --ladder")
        run = RunOptions(
            "doctor",
            timeout_s=STEP_S,
            device="gpu",
            memory="host_staged",
            mixed_gpus=arguments.mixed_gpus,
            out=os.path.expanduser(arguments.ladder),
            quiet=arguments.quiet,
        )
        start(run, climb)
    progress = Progress("doctor", arguments.quiet)
    signal.setitimer(signal.ITIMER_REAL, TIME_LIMIT_S)  # no rank waits for a lost one for ever
    progress.show("examine the GPUs and their links")
    communicator = None if launched_rank() is None else parser.start_mpi()
    facts, world = examine(gpu_bus_ids()), None
    if communicator:
        facts, world = open_and_examine(communicator, arguments.mixed_gpus)
    else:  # which opens no GPU
        facts["obstacles"] = [f"{each}." for each in gpu_access.obstacles()]
    if arguments.json:
        say(communicator, json_of(facts))
        sys.exit(FINE if facts["gpus"] else CANNOT)
    nothing = "\n".join([NO_GPU, *facts["obstacles"], *facts["left_out"], *facts["refusals"]])
    say(communicator, page(facts) if facts["gpus"] else nothing)
    if world:  # after the page: a library's first call may hang
        progress.show("call the GPUs' library")
        library = section("Library", examine_library(world))
        say(communicator, f"\n{library}")
    sys.exit(FINE if facts["gpus"] else CANNOT)


def json_of(facts: Facts) -> str:
    """The facts, the sentences of the page, and by their number the GPUs for a split."""
    sizes = range(2, len(facts["gpus"]) + 1)
    wire = facts["wire"] and facts["wire"]._asdict()
    return json_text(
        "doctor",
        **facts | {"wire": wire},
        problems=[*problems(facts)],
        unknown=[*unknowns(facts)],
        groups={size: groups for size in sizes if (groups := group_facts(facts, size))},
    )


def end_all(*error: Any) -> None:
    """Shows an error, and ends this rank: at the end of MPI it would wait for the others."""
    sys.__excepthook__(*error)
    os._exit(WRONG)


def say(communicator: Communicator | None, text: str) -> None:
    """Prints on rank 0."""
    if not communicator or communicator.rank == 0:
        try:
            print_out(f"{text}\n")
        except OSError as error:
            sys.exit(f"{BENCH}doctor: cannot print the page: {error.strerror}")


if __name__ == "__main__":
    main()
