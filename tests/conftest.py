"""Markers and shared fixtures. `make test` runs two files at once, and then the tests marked
`alone`. Tests of a real GPU run only with `pytest -m gpu`, as in `make test-gpu`."""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from bench.machine import files
from kernels.devices.device import DeviceError
from kernels.devices.gpu_driver import visible_gpus


def pytest_configure(config: pytest.Config) -> None:
    # Otherwise each of hundreds of launches compiles all modules.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    data = tempfile.TemporaryDirectory(prefix="wiretax-tests-")
    config.add_cleanup(data.cleanup)
    if not hasattr(config, "workerinput"):
        config.add_cleanup(partial(remove_segments, time.time()))
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # each command would start threads that spin
    os.environ["WIRETAX_QUIET"] = "1"  # tests read what a command prints otherwise
    os.environ["XDG_DATA_HOME"] = data.name  # tests do not use this machine's tuning table
    config.addinivalue_line("markers", "gpu: needs a real GPU and the CuPy for it")
    config.addinivalue_line(
        "markers", "emulated: executes machine code in an emulator, see `make test-emulated`"
    )
    config.addinivalue_line("markers", "alone: judges short times: runs beside no other test")
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


def remove_segments(since_s: float) -> None:
    """Removes the shared memory of MPICH that nobody maps: tests have killed its ranks."""
    mapped = ""
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with suppress(OSError):  # the process has ended
            mapped += maps.read_text()
    for path in Path("/dev/shm").glob("mpich_shm_*"):
        with suppress(OSError):
            if path.stat().st_mtime > since_s and path.name not in mapped:
                path.unlink()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """`-m alone` imports the few files with such tests: all files take seconds."""
    is_file = collection_path.name.startswith("test_") and "(alone)" in config.option.markexpr
    return True if is_file and "mark.alone" not in collection_path.read_text() else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Takes files from both ends in turn: two of tests/bench at once would leave cores idle."""
    paths = list(dict.fromkeys(item.path for item in items))
    turn = {path: min(2 * i, 2 * (len(paths) - i) - 1) for i, path in enumerate(paths)}
    items.sort(key=lambda item: turn[item.path])


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Path]:
    """A function that makes tests read /proc and /sys below a folder, and returns the folder."""

    def use(root: Path) -> Path:
        monkeypatch.setattr(files, "ROOT", root)
        return root

    return use


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users can enter, unlike those of pytest."""
    with tempfile.TemporaryDirectory(prefix="wiretax-tests-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages of a whole store, made once for all tests that only read them."""
    from tests.reports.synthetic_site import make_site, write_store

    folder = tmp_path_factory.mktemp("site")
    return make_site(write_store(folder / "results"), folder / "site")


@pytest.fixture(scope="module")
def on_the_path() -> Iterator[None]:
    """docs/experiments: its files are programs, not a package. Their style of pictures ends with
    the file of tests."""
    import matplotlib

    folder = str(Path(__file__).parents[1] / "docs" / "experiments")
    sys.path.insert(0, folder)
    with matplotlib.rc_context():
        yield
    sys.path.remove(folder)
