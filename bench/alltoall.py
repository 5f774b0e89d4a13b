"""All-to-all beside the library's, 16 KB to 32 MB: `mpirun -n 2 python -m bench.alltoall`

With --experts it is routed, as in a mixture of experts: the lines that name `experts` do that."""

from functools import partial

from bench.layers import experts
from bench.sweep import run_sweep, sweep_options, sweep_parser

if __name__ == "__main__":
    parser = sweep_parser(
        "alltoall",
        "alltoall",
        "Times all-to-all at each size beside the library's, and checks the results.",
    )
    experts.add_options(parser)
    namespace = parser.parse_args()
    options = sweep_options(parser, namespace)
    if batch := experts.parse(parser, namespace):
        run_sweep(*options, partial(experts.prepare, batch))
    run_sweep(*options)
