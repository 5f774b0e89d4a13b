"""`flashinfer.comm.comm_backend`."""

from typing import Any


class TorchDistBackend:
    def __init__(self, group: Any | None = None) -> None:
        assert group is not None
        self._group = group
