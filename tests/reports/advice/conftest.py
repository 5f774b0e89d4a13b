"""What the tests of advice share."""

import pytest

from tests.reports.contributed_rows import contributed as rows_of_archives
from tests.reports.synthetic_candidates import write_launches


@pytest.fixture(scope="module")
def launches(tmp_path_factory):
    """Six launches: 16 KiB takes about 3.1 us chained, and 32 MiB reaches about 7 GB/s."""
    write_launches(folder := tmp_path_factory.mktemp("procure") / "box", 6)
    return folder.parent


@pytest.fixture
def contributed(tmp_path):
    """A table of contributed rows without rows, in place of the project's."""
    with rows_of_archives(tmp_path) as path:
        yield path


@pytest.fixture(autouse=True, scope="module")
def found_rows_alone(tmp_path_factory):
    """Figures that are typed here are of rows that were found: an archive that an owner sends
    changes none."""
    with rows_of_archives(tmp_path_factory.mktemp("contributed")):
        yield
