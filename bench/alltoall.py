"""All-to-all beside the library's, 16 KB to 32 MB: `mpirun -n 2 python -m bench.alltoall`

With --experts it is routed, as in a mixture of experts: the lines that name `experts` do that.
"""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while modules load, Ctrl-C has nothing to keep
    import time

    started_s = time.monotonic()
    from bench.features import FEATURES
    from bench.harness.sweep import run_sweep
    from bench.harness.sweep_options import sweep_options, sweep_parser, sweep_run_options
    from bench.layers import experts
    from collectives.collective import COLLECTIVES

    collective = COLLECTIVES["alltoall"]
    parser = sweep_parser(
        "alltoall", collective,
        "Times all-to-all, checked, size by size: ours beside the library's.", FEATURES)
    experts.add_options(parser.add_argument_group("experts").add_argument)
    namespace = parser.parse_args()
    sweep = sweep_options(parser, collective, namespace, FEATURES)
    if batch := experts.parse(parser, namespace):
        experts.run(batch, sweep, namespace, started_s)
    run_sweep(sweep, sweep_run_options("alltoall", namespace), started_s)
