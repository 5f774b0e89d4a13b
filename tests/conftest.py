"""Tests of a real GPU are asked for by name: `pytest -m gpu`, as `make test-gpu` does."""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "gpu: needs a real GPU and the CuPy for it")
    config.option.markexpr = config.option.markexpr or "not gpu"
