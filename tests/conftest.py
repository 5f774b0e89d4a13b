"""Markers and shared fixtures. Tests of a real GPU run only with `pytest -m gpu`, as in `make test-gpu`. Tests marked
`beside` may run next to others: `make test` runs two of their files at once (`-m beside`), then the rest
(`-m "not beside"`).
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.machine import files
from kernels.devices.device import DeviceError
from kernels.devices.gpu_driver import visible_gpus

# Tests in these files judge no time, except those marked `alone`, and do not look for leftovers of other tests.
BESIDE = {
    "advise", "calibration", "campaign_manifest", "card", "collectives", "dashboard", "dashboard_browser",
    "dashboard_store", "device_gpu", "environment", "fit", "foreign", "gpu", "history", "house", "import",
    "import_damage", "import_formats", "kernels_broken", "kernels_compile", "library_gpu", "measure",
    "memory_model", "nccl", "procure", "readme", "reports_accept", "reports_case", "reports_compare",
    "reports_exposed", "reports_forest", "reports_page", "reports_peers", "reports_regress", "reports_result",
    "reports_show", "reports_stats", "reports_verdict", "routing", "sanitizers", "serving", "topology", "unguarded",
}

# The files in BESIDE that launch no ranks and take seconds; `make check` runs them before a commit.
UNIT = {name for name in BESIDE if name.startswith(("reports_", "import"))} | {
    "advise", "campaign_manifest", "environment", "fit", "foreign", "history", "house", "measure", "nccl", "procure",
    "readme", "routing", "serving", "topology"}


def pytest_configure(config: pytest.Config) -> None:
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # otherwise each of hundreds of launches compiles all modules
    data = tempfile.TemporaryDirectory(prefix="wiretax-tests-")
    config.add_cleanup(data.cleanup)
    os.environ["XDG_DATA_HOME"] = data.name  # tests do not use this machine's tuning table
    config.addinivalue_line("markers", "gpu: needs a real GPU and the CuPy for it")
    config.addinivalue_line("markers", "beside: may run beside others; said here of whole files")
    config.addinivalue_line("markers", "unit: launches no ranks and takes seconds; set here for whole files")
    config.addinivalue_line("markers", "alone: what is said of its file is not true of this test")
    if "gpu" not in config.option.markexpr:
        config.option.markexpr = f"not gpu and ({config.option.markexpr or 'not gpu'})"
    if config.option.markexpr == "gpu":
        try:
            visible_gpus()
        except DeviceError as error:
            pytest.exit(f"the tests of a GPU need one: {error}", 3)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.stem.removeprefix("test_") in BESIDE and not item.get_closest_marker("alone"):
            item.add_marker("beside")
            if item.path.stem.removeprefix("test_") in UNIT:
                item.add_marker("unit")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Path]:
    """A function that makes the tests read /proc and /sys below a folder, and returns the folder."""

    def use(root: Path) -> Path:
        monkeypatch.setattr(files, "ROOT", root)
        return root

    return use


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages of a whole store, made once for all tests that only read them."""
    from tests.synthetic_site import make_site, write_store

    folder = tmp_path_factory.mktemp("site")
    return make_site(write_store(folder / "results"), folder / "site")
