"""The ranks of a run and their untimed communication: the only file that imports mpi4py."""

import ctypes
import os
import platform
import re
import shutil
import site
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from ctypes import c_int
from pathlib import Path
from typing import TYPE_CHECKING

from wiretax.common.launched import ranks_on_host

if TYPE_CHECKING:
    from mpi4py import MPI

THREAD_LEVELS = ("single", "funneled", "serialized", "multiple")
LAUNCHER = os.getppid()  # later the parent is this rank's guard
VENDORS = {"Open MPI": "Open MPI", "Intel": "Intel MPI", "CRAY": "Cray MPICH", "Cray": "Cray MPICH"}


class Refusal(Exception):
    """Some rank cannot continue. All ranks raise it, with one sentence."""

    lacks_memory = False  # a rank's device has none left


class Mistake(Refusal):
    """What the user asked for is wrong, such as a file that the command line names."""

    is_mistake = True


def find_mpirun() -> str | None:
    """The mpirun beside this interpreter, which mpi4py needs, or the first in PATH. MPICH's, which
    mpi4py prefers, is mpiexec.hydra: Open MPI's wheel may have taken the other name, or Intel's,
    whose mpirun is a script that works in an activated environment alone. `pip install --user` puts
    it into a folder that few shells have in PATH."""
    folders = [sysconfig.get_path("scripts"), str(Path(sys.executable).parent)]
    if site.ENABLE_USER_SITE:  # from which this Python then imports first
        scheme = sysconfig.get_preferred_scheme("user")
        folders.insert(0, sysconfig.get_path("scripts", scheme))
    path = os.pathsep.join(folders)
    found = (shutil.which(name, path=path) for name in ("mpiexec.hydra", "mpirun"))
    return next(filter(None, found), None) or shutil.which("mpirun")


def name_library(mpirun: str | None) -> bool:
    """Has mpi4py load the MPICH that `mpirun` belongs to, where mpi4py would look elsewhere first:
    a Python in /usr puts wheels into /usr/local, as in containers of engines, some of which have
    another MPI in the loader's path. False if there is none, or the user has named one."""
    library = Path(mpirun or "/nowhere/bin/mpirun").parent.with_name("lib") / "libmpi.so.12"
    is_elsewhere = library.exists() and library.parent != Path(sys.prefix, "lib")
    if not is_elsewhere or "MPI4PY_LIBMPI" in os.environ:
        return False
    os.environ["MPI4PY_LIBMPI"] = str(library)
    return True


def best_thread_level() -> str:
    """The thread level at which MPI is fastest, decided before MPI is up. MULTIPLE, the default of
    mpi4py, makes MPICH four to six times slower at 4 to 16 KB. But when ranks outnumber cores,
    MPICH 5.0.2 yields the core at no other level: four ranks on two cores took 1.5 s for 1 MB at
    FUNNELED, with any polling variables, and 1.5 ms at MULTIPLE."""
    # A bound rank sees only its own core; its launcher sees all of them.
    cores = max(len(os.sched_getaffinity(process)) for process in (0, LAUNCHER))
    return "multiple" if (ranks_on_host() or 1) > cores else "funneled"


class Communicator:
    """All ranks, through MPI, or some: `among`. `nodes` are the ranks of each host in order; this
    rank's is `host`. `whole` are all ranks of the run, `ranks` the numbers of these ranks there.
    Rank 0 of `gather` gets all items, others None; `node_gather` has the items of this host's
    ranks.
    `thread_level` None: the fastest for these ranks and cores. Raises Refusal before MPI is up if
    its library cannot start, and Mistake if it does not speak to the launcher."""

    def __init__(self, thread_level: str | None = None) -> None:
        try:
            import mpi4py

            mpi4py.rc.initialize, mpi4py.rc.finalize = False, True
            try:
                from mpi4py import MPI
            except RuntimeError:
                if not name_library(find_mpirun()):
                    raise
                from mpi4py import MPI

            self.mpi = MPI
            # An MPICH without PMIx would abort below a launcher that speaks PMIx alone.
            is_pmix = "PMIX_RANK" in os.environ and "PMI_RANK" not in os.environ
            version = MPI.Get_library_version()
            if is_pmix and version.startswith("MPICH Version") and "pmix" not in version:
                raise Mistake(
                    "this MPICH does not speak PMIx, which the launcher speaks: start the ranks "
                    "with the mpirun that came with MPICH, or in a job of Slurm with srun "
                    "--mpi=pmi2"
                )
            level = getattr(MPI, f"THREAD_{(thread_level or best_thread_level()).upper()}")
            # It waits for all ranks, and bypasses mpi4py as `finish` does.
            library = ctypes.CDLL(MPI.__file__)
            if code := library.MPI_Init_thread(None, None, level, ctypes.byref(c_int())):
                raise RuntimeError(f"MPI_Init_thread returned error {code}")
        except (ImportError, RuntimeError) as error:  # mpi4py's
            raise Refusal(
                f"cannot load or start an MPI library: {str(error).splitlines()[-1]}; "
                "pip install mpich brings one, or name yours in MPI4PY_LIBMPI"
            ) from error
        for communicator in MPI.COMM_SELF, MPI.COMM_WORLD:  # as mpi4py does
            communicator.Set_errhandler(MPI.ERRORS_RETURN)
        self._join(MPI.COMM_WORLD)
        self.whole, self.ranks = self, [*range(self.size)]
        levels = {getattr(MPI, f"THREAD_{level.upper()}"): level for level in THREAD_LEVELS}
        self.thread_level = levels[MPI.Query_thread()]

    def _join(self, world: "MPI.Intracomm") -> None:
        self.world, self.rank, self.size = world, world.rank, world.size
        self.all_gather, self.gather, self.broadcast = world.allgather, world.gather, world.bcast
        self.barrier, node = world.Barrier, world.Split_type(self.mpi.COMM_TYPE_SHARED)
        self.node_gather, self.local_rank = node.allgather, node.rank
        own_node = tuple(node.allgather(self.rank))
        self.nodes: list[tuple[int, ...]] = sorted(set(world.allgather(own_node)))
        self.host, self.hosts = self.nodes.index(own_node), len(self.nodes)
        self.host_names: list[str] = world.allgather(platform.node())  # of each rank

    def among(self, ranks: Sequence[int]) -> "Communicator":
        """A communicator of these ranks in this order; they call it together."""
        part = copy(self)
        part._join(self.world.Create_group(self.world.group.Incl(ranks)))
        part.ranks = [self.ranks[rank] for rank in ranks]
        return part

    @property
    def library(self) -> str:
        text = self.mpi.Get_library_version()
        version = re.search(r"\d+\.\d+(\.\d+)?", text)
        name = next((VENDORS[word] for word in VENDORS if word in text), self.mpi.get_vendor()[0])
        return f"{name} {version.group() if version else 'of unknown version'}"

    def first_reason(self, reason: str | None) -> str | None:
        """The reason of the first rank that has one, on every rank; None if no rank has one."""
        return next(filter(None, self.all_gather(reason)), None)

    def finish(self) -> None:
        """Ends MPI, which waits for all ranks. It bypasses mpi4py, which holds the interpreter's
        lock: then no watchdog thread could notice a lost rank."""
        ctypes.CDLL(self.mpi.__file__).MPI_Finalize()

    @contextmanager
    def all_or_none(self, *expected: type[Exception]) -> Iterator[None]:
        """If one rank raises an `expected` exception inside (default: its device refuses, or lacks
        memory), all ranks raise one Refusal that names it, a Mistake if it is the user's. Inside,
        no rank may wait for another: the rank that raised has already left. Only if a Refusal is
        `expected`, the ranks of a host may agree inside."""
        from kernels.devices.device import DeviceError  # loads numpy, which --help does without

        failure, expected = None, expected or (DeviceError, MemoryError)
        try:
            yield
        except expected as error:  # a Refusal names its rank
            name = "" if isinstance(error, Refusal) else f"{self.rank_name(self.rank)}: "
            kind = Mistake if getattr(error, "is_mistake", False) else Refusal
            failure = name, str(error), type(error).__name__, kind
        if failed := list(filter(None, self.all_gather(failure))):
            name, sentence, _, kind = failed[0]
            is_everywhere = len(failed) == self.whole.size and len({own[1:] for own in failed}) == 1
            refusal = kind(sentence if is_everywhere else name + sentence)
            refusal.lacks_memory = any(own[2] == "OutOfMemory" for own in failed)
            raise refusal

    def rank_name(self, rank: int) -> str:
        """`rank 2`, and of a run on several hosts `rank 2 on wt2`. A part names no host, because
        runs store its sentences."""
        on_host = f" on {self.host_names[rank]}" if self is self.whole and self.hosts > 1 else ""
        return f"rank {self.ranks[rank]}{on_host}"
