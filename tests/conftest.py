"""Markers and shared fixtures. Tests of a real GPU run only with `pytest -m gpu`, as in `make test-gpu`. `make test`
runs two files at once, and after them the tests marked `alone`.
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.machine import files
from kernels.devices.device import DeviceError
from kernels.devices.gpu_driver import visible_gpus

# Tests in these files judge times, look for leftovers of other tests, or launch ranks that wait in
# loops and would slow others down: they run alone. `bench/cli` is tests/bench/test_cli.py.
ALONE = {
    "bench/cli",
    "bench/collective_commands",
    "bench/corruption",
    "bench/faults",
    "bench/features/arrival_skew",
    "bench/features/footprint",
    "bench/features/slowed",
    "bench/features/soak",
    "bench/harness/flight",
    "bench/harness/progress",
    "bench/host_faults",
    "bench/layers/fused_commands",
    "bench/link",
    "bench/stress",
    "bench/tune",
    "collectives/collectives",
    "collectives/copy_engine",
    "collectives/library_gpu",
    "collectives/multimem",
    "collectives/overlap",
    "collectives/peers",
    "collectives/quantized",
    "collectives/routed",
    "kernels/background_gpu",
    "kernels/device_cpu",
    "kernels/device_gpu",
    "kernels/gpu",
    "kernels/shared_memory",
    "pytest_plugin",
    "reframe",
}

# Tests in these files launch no ranks and take seconds: `make check` runs them before a commit.
UNIT = {
    "bench/campaigns/campaign_manifest",
    "bench/harness/measure",
    "bench/layers/steps",
    "bench/machine/environment",
    "bench/machine/topology",
    "collectives/nccl",
    "collectives/routing",
    "house",
    "readme",
    "reliability/mutants",
    "reports/advice/advise",
    "reports/advice/procure",
    "reports/advice/scaling",
    "reports/advice/serving",
    "reports/imports/import",
    "reports/imports/import_damage",
    "reports/imports/import_formats",
    "reports/store/case",
    "reports/store/foreign",
    "reports/store/result",
    "reports/store/stats",
    "reports/tables/exposed",
    "reports/tables/frame",
    "reports/tables/show",
    "reports/tables/spread",
    "reports/trends/fit",
    "reports/trends/history",
    "reports/verdicts/accept",
    "reports/verdicts/borrowing",
    "reports/verdicts/compare",
    "reports/verdicts/forest",
    "reports/verdicts/page",
    "reports/verdicts/peers",
    "reports/verdicts/regress",
    "reports/verdicts/verdict",
}


def pytest_configure(config: pytest.Config) -> None:
    os.environ.pop(
        "PYTHONDONTWRITEBYTECODE", None
    )  # otherwise each of hundreds of launches compiles all modules
    data = tempfile.TemporaryDirectory(prefix="wiretax-tests-")
    config.add_cleanup(data.cleanup)
    os.environ["WIRETAX_QUIET"] = "1"  # tests read what a command prints otherwise
    os.environ["XDG_DATA_HOME"] = data.name  # tests do not use this machine's tuning table
    config.addinivalue_line("markers", "gpu: needs a real GPU and the CuPy for it")
    config.addinivalue_line(
        "markers", "emulated: executes machine code in an emulator, see `make test-emulated`"
    )
    config.addinivalue_line("markers", "alone: must not run beside other tests")
    config.addinivalue_line("markers", "unit: launches no ranks and takes seconds")
    wants_gpu = config.option.markexpr == "gpu"
    for marker in ("gpu", "emulated"):
        if marker not in config.option.markexpr:
            config.option.markexpr = (
                f"not {marker} and ({config.option.markexpr or f'not {marker}'})"
            )
    if wants_gpu:
        try:
            visible_gpus()
        except DeviceError as error:
            pytest.exit(f"the tests of a GPU need one: {error}", 3)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not item.path.is_relative_to(Path(__file__).parent):
            continue  # the test of a `--wiretax`
        folder = item.path.parent.relative_to(Path(__file__).parent)
        name = (folder / item.path.stem.removeprefix("test_")).as_posix()
        if name in ALONE:
            item.add_marker("alone")
        if name in UNIT:
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
    from tests.reports.synthetic_site import make_site, write_store

    folder = tmp_path_factory.mktemp("site")
    return make_site(write_store(folder / "results"), folder / "site")
