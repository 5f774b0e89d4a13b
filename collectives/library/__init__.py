"""The baselines: MPI on CPUs, NCCL and RCCL on GPUs. Imported by `collectives` and `bench`."""
