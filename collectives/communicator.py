"""The ranks of a run and how they talk outside the timed path: the only file that imports mpi4py."""

import ctypes
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

THREAD_LEVELS = ("single", "funneled", "serialized", "multiple")
# What each launcher tells a process of its rank, looked at before MPI is up.
RANK_VARIABLES = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID", "MV2_COMM_WORLD_RANK")
SIZE_VARIABLES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_NTASKS", "MV2_COMM_WORLD_SIZE")
LOCAL_SIZE_VARIABLES = ("MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE",
                        "SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE")


class Disagreement(Exception):
    """Some rank could not go on; all raise this together, with the first's sentence and the `types` that were met."""

    def __init__(self, sentence: str, types: frozenset[str] = frozenset()) -> None:
        super().__init__(sentence)
        self.types = types


def _told(names: Iterable[str]) -> int | None:
    """The first of these variables that is a number, or begins with one as Slurm's `4(x2)`, 4 on each of 2 hosts."""
    return next((int(found[0]) for name in names if (found := re.match(r"\d+", os.environ.get(name, "")))), None)


def launched_rank() -> int | None:
    """This process's rank by its launcher's word; None where no launcher started it."""
    return _told(RANK_VARIABLES)


def launched_ranks() -> int | None:
    """How many ranks there are by the launcher's word; None where it has none."""
    return _told(SIZE_VARIABLES)


def best_thread_level() -> str:
    """The level at which MPI is fastest here, decided before MPI is up.

    MULTIPLE, mpi4py's own choice, makes MPICH four to six times slower at 4 to 16 KB. But where ranks outnumber cores
    MPICH 5.0.2 gives the core away at no other level: four ranks on two cores took 1.5 s for 1 MB at FUNNELED, whatever
    its polling variables, and 1.5 ms at MULTIPLE.
    """
    # A rank that was bound sees its own core alone; its launcher, whose child it is, all that the ranks have together.
    cores = max(len(os.sched_getaffinity(process)) for process in (0, os.getppid()))
    return "multiple" if (_told(LOCAL_SIZE_VARIABLES) or 1) > cores else "funneled"


def scant_memory() -> str | None:
    """A sentence where /dev/shm may not hold what an MPI library keeps there for the ranks of this host: one that runs
    out of it is ended by a bus error or a segmentation fault, and says nothing.

    MPICH 5.0.2 took 6 MiB for a rank and 42 for eight. It died in some tmpfs of less than 18 MiB, with eight ranks in
    some of up to 48, and in none that had the room asked for here.
    """
    ranks = _told(LOCAL_SIZE_VARIABLES) or 1
    with suppress(OSError):
        room = os.statvfs("/dev/shm")  # its size: what is free changes while the other ranks start
        if (has := room.f_blocks * room.f_frsize >> 20) < (wanted := 16 + 5 * ranks):
            return (f"/dev/shm has {has} MiB, and MPI may die where {ranks} ranks have less than {wanted} there: "
                    "give a container more, docker run --shm-size=1g")
    return None


class Communicator:
    """All ranks, by MPI. `thread_level` None: the best for this many ranks on these cores."""

    def __init__(self, thread_level: str | None = None) -> None:
        import mpi4py

        mpi4py.rc.thread_level = thread_level or best_thread_level()
        from mpi4py import MPI

        self.mpi = MPI
        self.world = MPI.COMM_WORLD
        self.rank, self.size = self.world.rank, self.world.size
        self.node = self.world.Split_type(MPI.COMM_TYPE_SHARED)
        self.local_rank = self.node.rank
        self.hosts = self.world.allreduce(int(self.local_rank == 0))
        levels = {getattr(MPI, f"THREAD_{level.upper()}"): level for level in THREAD_LEVELS}
        self.thread_level = levels[MPI.Query_thread()]
        self._status = MPI.Status()

    @property
    def library(self) -> str:
        """The MPI library's name and version, e.g. `MPICH 5.0.2`."""
        text = self.mpi.Get_library_version()
        version = re.search(r"\d+\.\d+(\.\d+)?", text)
        known = {"Open MPI": "Open MPI", "Intel": "Intel MPI", "CRAY": "Cray MPICH", "Cray": "Cray MPICH"}
        name = next((name for word, name in known.items() if word in text), self.mpi.get_vendor()[0])
        return f"{name} {version.group() if version else 'of unknown version'}"

    def all_gather(self, item: Any) -> list[Any]:
        return self.world.allgather(item)

    def first_word(self, word: str | None) -> str | None:
        """The first rank's that has one, on every rank."""
        return next(filter(None, self.all_gather(word)), None)

    def node_gather(self, item: Any) -> list[Any]:
        """All items of the ranks on this host, in the order of their local ranks."""
        return self.node.allgather(item)

    def gather(self, item: Any) -> list[Any] | None:
        """All ranks' items on rank 0, None elsewhere."""
        return self.world.gather(item, 0)

    def broadcast(self, item: Any) -> Any:
        """Rank 0's item on every rank."""
        return self.world.bcast(item, 0)

    def barrier(self) -> None:
        self.world.Barrier()

    def finish(self) -> None:
        """Ends MPI, which waits for all ranks. Not by mpi4py, which lets no thread of Python see that one is lost."""
        ctypes.CDLL(self.mpi.__file__).MPI_Finalize()

    @contextmanager
    def together(self, *expected: type[Exception]) -> Iterator[None]:
        """Whatever of `expected` a rank raises inside, all ranks raise as one Disagreement that names that rank.

        Inside, a rank must not wait for another: the one that raised is already outside.
        """
        said = None
        try:
            yield
        except expected as error:
            said = (str(error), type(error).__name__)
        everyone = self.all_gather(said)
        failed = [rank for rank, what in enumerate(everyone) if what]
        if failed:
            sentence = everyone[failed[0]][0]
            everywhere = len(failed) == self.size and len(set(everyone)) == 1
            types = frozenset(what[1] for what in everyone if what)
            raise Disagreement(sentence if everywhere else f"rank {failed[0]}: {sentence}", types)

    def function(self, name: str) -> int:
        """The address of an MPI function in the library that mpi4py has loaded."""
        loaded = ctypes.CDLL(self.mpi.__file__)
        return ctypes.cast(getattr(loaded, name), ctypes.c_void_p).value or 0

    def handle(self, name: str) -> int:
        """The C handle of a predefined object (`FLOAT`, `SUM`, `COMM_WORLD`): 4 bytes in MPICH, 8 in Open MPI."""
        thing = getattr(self.mpi, name)
        return int.from_bytes(ctypes.string_at(self.mpi._addressof(thing), self.mpi._sizeof(thing)), "little")

    @property
    def in_place(self) -> int:
        """The address that stands for MPI_IN_PLACE."""
        return int(self.mpi.IN_PLACE)

    @property
    def status(self) -> int:
        """The address of a place for what MPI says of a message."""
        return int(self.mpi._addressof(self._status))
