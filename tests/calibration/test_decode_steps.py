"""`tests.calibration.decode_steps` on runs with known parts."""

import re

import pytest

from tests.calibration.decode_steps import main
from tests.reports.advice.test_advise import write
from tests.reports.synthetic_together import CPUS, STEP, Made, always, write_link

pytestmark = pytest.mark.unit


def test_a_step_is_compared_with_the_sum_of_its_parts(tmp_path, capsys):
    """Otherwise the errors of the advisor's sum in docs/experiments would be wrong."""
    # 192 columns x 4096 x 2 B in 32 layers are 50.3 MB: 2.517 ms at 20 GB/s, plus 64 all-reduces of
    # 20 us.
    reduces = write(tmp_path / "a", {32768: 20}, ranks=CPUS, datatype="float32")
    link = write_link(tmp_path, 20)

    def printed(slots, ways_us):
        made = Made(tmp_path / f"{slots}", benchmark="decode", shape=STEP | {"slots": slots})
        step = made.run({name: always(us) for name, us in ways_us.items()}).path
        main(step, reduces, link)
        return capsys.readouterr().out

    ways = {"compute": 2600.0, "tensor_parallel": 4000.0}
    more = {"tensor_parallel_library": 5000.0, "pipeline_parallel": 5300.0}
    text = printed(2, ways | more)
    assert re.search(r"compute +2\.6 +2\.52 +-3\.2% +-", text)
    assert re.search(r"tensor +4 +3\.8 +-5\.1% +3\.88 +-3\.0%", text)
    assert re.search(r"tensor, library +5 +5\.08 +\+1\.5% +5\.16 +\+3\.2%", text)
    assert re.search(r"pipeline +5\.3 +5\.07 +-4\.3% +5\.24 +-1\.1%", text)
    # A single busy stage has the memory to itself.
    text = printed(1, {"compute": 2600.0, "pipeline_parallel": 2600.0})
    assert re.search(r"pipeline +2\.6 +2\.56 +-1\.7%", text)
