"""Tests of a real GPU are asked for by name: `pytest -m gpu`, as `make test-gpu` does. What may run beside other tests
is told from what must not, for `make test` to have the first two at once: `-m beside`, then `-m "not beside"`.
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.machine import files
from kernels.devices.device import DeviceError
from kernels.devices.gpu_driver import visible_gpus

# They judge no time, but for tests that are marked `alone`, and look for nothing that others may have left.
BESIDE = {
    "advise", "calibration", "campaign_manifest", "card", "collectives", "dashboard", "dashboard_browser",
    "dashboard_store", "device_gpu", "environment", "fit", "foreign", "gpu", "history", "house", "import",
    "import_damage", "import_formats", "kernels_broken", "kernels_compile", "library_gpu", "measure",
    "memory_model", "nccl", "procure", "readme", "reports_accept", "reports_case", "reports_compare",
    "reports_exposed", "reports_forest", "reports_page", "reports_peers", "reports_regress", "reports_result",
    "reports_show", "reports_stats", "reports_verdict", "routing", "sanitizers", "serving", "topology", "unguarded",
}

# Of these, files that launch no ranks and take seconds: `make check` runs them before a commit.
UNIT = {name for name in BESIDE if name.startswith(("reports_", "import"))} | {
    "advise", "campaign_manifest", "environment", "fit", "foreign", "history", "house", "measure", "nccl", "procure",
    "readme", "routing", "serving", "topology"}


def pytest_configure(config: pytest.Config) -> None:
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # hundreds of launches would each compile all our modules anew
    data = tempfile.TemporaryDirectory(prefix="wiretax-tests-")
    config.add_cleanup(data.cleanup)
    os.environ["XDG_DATA_HOME"] = data.name  # a table that was tuned on this machine decides nothing here
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
    """Makes the machine whose /proc and /sys lie below a folder this one; returns the folder."""

    def use(root: Path) -> Path:
        monkeypatch.setattr(files, "ROOT", root)
        return root

    return use


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages of a whole store, made once for all the tests that only look at them."""
    from tests.synthetic_site import make_site, write_store

    folder = tmp_path_factory.mktemp("site")
    return make_site(write_store(folder / "results"), folder / "site")
