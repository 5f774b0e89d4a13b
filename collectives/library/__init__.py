"""The baseline libraries: MPI on CPUs, NCCL and RCCL on GPUs; `collectives.world` opens one."""
