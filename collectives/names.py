"""The name of what a case ran: `two_shot+nt+128K over host_staged`."""

from typing import NamedTuple


class BuildName(NamedTuple):
    """An algorithm, the words of its build, and the memory where a run has several kinds."""

    algorithm: str
    words: tuple[str, ...] = ()
    memory: str | None = None

    def __str__(self) -> str:
        name = "+".join((self.algorithm, *self.words))
        return f"{name} over {self.memory}" if self.memory else name

    @classmethod
    def parse(cls, text: str) -> "BuildName":
        name, _, memory = text.partition(" over ")
        algorithm, *words = name.split("+")
        return cls(algorithm, tuple(words), memory or None)
