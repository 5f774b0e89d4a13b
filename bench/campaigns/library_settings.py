"""The settings of MPI libraries that `bench.tune_library` tries, from the libraries' documentation.

A setting is a tuple of words: environment variables (`NAME=VALUE`) and options of the benchmark.
The search also combines settings of different names. The sources:

- Intel MPI: `impi_info -all` of 2021.18, and its Developer Reference for Linux 2021.13, pages
  "I_MPI_ADJUST Family Environment Variables" and "Shared Memory Control". I_MPI_TUNING_MODE, with
  which the library tunes itself, supports Intel's processors only (page "Autotuning").
- Open MPI: `ompi_info --all` of 5.0.11, and docs.open-mpi.org/en/v5.0.x, "Tuning Collectives".
- MPICH: `mpivars` of 5.0.2, which prints each control variable with its description."""

Setting = tuple[str, ...]
DEFAULT: Setting = ()
THREAD_LEVELS = "--mpi-thread-level=single", "--mpi-thread-level=multiple"

# The number of presets of each collective; 0 is the library's own choice.
INTEL_PRESETS = {
    "all_reduce": ("ALLREDUCE", 32),
    "all_gather": ("ALLGATHER", 6),
    "reduce_scatter": ("REDUCE_SCATTER_BLOCK", 4),
    "alltoall": ("ALLTOALL", 18),
}
INTEL = [
    "FABRICS=shm",
    "SHM=bdw_sse",
    "SHM=bdw_avx2",
    "SHM=skx_avx512",
    "SHM=icx",
    "SHM_CELL_FWD_SIZE=32768",
    "SHM_CELL_FWD_SIZE=262144",
    "SHM_HEAP=1",
    "SHM_CMA=1",
    "THREAD_YIELD=2",
    "THREAD_YIELD=3",
    "WAIT_MODE=1",
]  # for more ranks than cores

# The number of algorithms of the component `tuned` for each collective.
OPEN_MPI_ALGORITHMS = {
    "all_reduce": ("allreduce", 7),
    "all_gather": ("allgather", 7),
    "reduce_scatter": ("reduce_scatter_block", 4),
    "alltoall": ("alltoall", 5),
}
OPEN_MPI_ALLREDUCE = [  # the component `sm`, and the segmented ring of `tuned`
    "coll_sm_priority=100",
    "coll_sm_priority=100 coll_sm_fragment_size=32768",
    "coll_sm_priority=100 coll_sm_fragment_size=131072",
    *(
        f"coll_tuned_allreduce_algorithm=5 coll_tuned_allreduce_algorithm_segmentsize={size} "
        "coll_tuned_use_dynamic_rules=1"
        for size in (65536, 262144, 1048576)
    ),
]
OPEN_MPI = [
    "smsc=^cma",
    "btl_sm_eager_limit=32768",
    "btl_sm_eager_limit=131072 btl_sm_rndv_eager_limit=131072",
    "btl_sm_max_send_size=131072",
    "btl_sm_max_send_size=1048576",
    "btl_sm_fbox_size=65536",
    "pml=ucx pml_ucx_tls=any pml_ucx_devices=any",
    "pml=cm",
    "mpi_yield_when_idle=1",
]

MPICH_ALGORITHMS = {
    "all_reduce": (
        "ALLREDUCE",
        "nb recursive_doubling recursive_multiplying ring tree recexch "
        "reduce_scatter_allgather k_reduce_scatter_allgather",
    ),
    "all_gather": (
        "ALLGATHER",
        "brucks k_brucks nb recursive_doubling ring recexch_doubling recexch_halving",
    ),
    "reduce_scatter": ("REDUCE_SCATTER_BLOCK", "nb recursive_doubling pairwise recursive_halving"),
    "alltoall": ("ALLTOALL", "brucks k_brucks nb pairwise scattered"),
}
MPICH_DEVICE = {  # collectives of its shared-memory device, which replace the algorithms above
    "all_reduce": [
        "ALLREDUCE_POSIX_INTRA_ALGORITHM=release_gather",
        "ALLREDUCE_COMPOSITION=1",
        "ALLREDUCE_COMPOSITION=2",
        "ALLREDUCE_COMPOSITION=4",
        *(
            f"REDUCE_INTRANODE_BUFFER_TOTAL_SIZE={size} BCAST_INTRANODE_BUFFER_TOTAL_SIZE={size}"
            for size in (65536, 262144, 1048576)
        ),
    ],
    "all_gather": ["ALLGATHER_POSIX_INTRA_ALGORITHM=ipc_read"],
    "alltoall": ["ALLTOALL_POSIX_INTRA_ALGORITHM=ipc_read"],
}
MPICH = [
    "DEVICE_COLLECTIVES=none",
    "CH4_CMA_ENABLE=0",
    "CH4_IPC_CMA_P2P_THRESHOLD=65536",
    "CH4_IPC_CMA_P2P_THRESHOLD=524288",
    "CH4_SHM_POSIX_IQUEUE_CELL_SIZE=16384",
    "CH4_NETMOD=ofi",
    "NOLOCAL=1",
    "POLLS_BEFORE_YIELD=10",
    "POSIX_POLL_FREQUENCY=10",
]


def settings_for(library: str, collective: str) -> list[Setting]:
    """The settings to try for a library such as `Open MPI 5.0.11`, the default first; of an unknown
    library the thread levels alone."""
    prefix, lines = "", list[str]()
    if library.startswith("Intel MPI"):
        prefix, (name, presets) = "I_MPI_", INTEL_PRESETS.get(collective, ("", 0))
        lines = [*(f"ADJUST_{name}={number}" for number in range(1, presets + 1)), *INTEL]
    elif library.startswith("Open MPI"):
        prefix, (name, count) = "OMPI_MCA_", OPEN_MPI_ALGORITHMS.get(collective, ("", 0))
        lines = [
            f"coll_tuned_{name}_algorithm={number} coll_tuned_use_dynamic_rules=1"
            for number in range(1, count + 1)
        ]
        lines += OPEN_MPI_ALLREDUCE * (collective == "all_reduce") + OPEN_MPI
    elif library.startswith("MPICH"):
        prefix, (name, algorithms) = "MPIR_CVAR_", MPICH_ALGORITHMS.get(collective, ("", ""))
        lines = [
            f"{name}_INTRA_ALGORITHM={word} DEVICE_COLLECTIVES=none" for word in algorithms.split()
        ]
        lines += MPICH_DEVICE.get(collective, []) + MPICH
    settings = [tuple(prefix + word for word in line.split()) for line in lines]
    return [DEFAULT, *settings, *((option,) for option in THREAD_LEVELS)]
