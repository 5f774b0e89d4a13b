"""Tests of a real GPU are asked for by name: `pytest -m gpu`, as `make test-gpu` does."""

import os
import tempfile
from pathlib import Path

import pytest

from kernels.device import DeviceError
from kernels.gpu_driver import visible_gpus


def pytest_configure(config: pytest.Config) -> None:
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # hundreds of launches would each compile all our modules anew
    data = tempfile.TemporaryDirectory(prefix="wiretax-tests-")
    config.add_cleanup(data.cleanup)
    os.environ["XDG_DATA_HOME"] = data.name  # a table that was tuned on this machine decides nothing here
    config.addinivalue_line("markers", "gpu: needs a real GPU and the CuPy for it")
    config.option.markexpr = config.option.markexpr or "not gpu"
    if config.option.markexpr == "gpu":
        try:
            visible_gpus()
        except DeviceError as error:
            pytest.exit(f"the tests of a GPU need one: {error}", 3)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages of a whole store, made once for all the tests that only look at them."""
    from tests.synthetic_site import make_site, write_store

    folder = tmp_path_factory.mktemp("site")
    return make_site(write_store(folder / "results"), folder / "site")
