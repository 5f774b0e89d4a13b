"""The cost of a collective to compute beside it: `mpirun -n 2 python -m bench.footprint`"""

from bench.features.footprint import Footprint
from bench.harness.command import main
from bench.harness.options import Parser

ABOUT = "Times a collective alone and beside a matmul, and what either costs the other."

if __name__ == "__main__":
    first = Parser(prog="bench.footprint", add_help=False)
    Footprint.add_options(first.group("what"))
    main("footprint", first.parse_known_args()[0].collective, ABOUT, [Footprint])
