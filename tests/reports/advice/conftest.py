"""What the tests of `procure` share."""

import pytest

from tests.reports.synthetic_candidates import write_launches


@pytest.fixture(scope="module")
def launches(tmp_path_factory):
    """Six launches: 16 KiB takes about 3.1 us chained, and 32 MiB reaches about 7 GB/s."""
    write_launches(folder := tmp_path_factory.mktemp("procure") / "box", 6)
    return folder.parent
