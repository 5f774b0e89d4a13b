"""How a kernel is built and cut: the words behind a name, as in `two_shot+nt+128K`."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

# The words without a number, and the field that each sets.
FLAGS = {"nt": "stream_slab", "ntr": "stream_receive", "slabs": "slabs"}
# The words with a number, by their last letter: the field, and the unit.
LIMITS = {"K": ("chunk_bytes", 1 << 10), "b": ("blocks", 1), "t": ("threads", 1)}
# Around the caches: into the slab, and into the receive buffer.
STORES = (False, False), (True, False), (False, True), (True, True)
GPU_CHUNK_BYTES = 256 << 10, 1 << 20, 2 << 20, 4 << 20  # each costs a flag across the link


@dataclass(frozen=True)
class Build:
    """How a kernel is built, as in `two_shot+nt+ntr+128K` or `one_shot_pull+16b+256t`: `nt` and
    `ntr` store non-temporally, into the slab and into the receive buffer. `slabs` treats
    registered buffers as unregistered. The others are upper limits; None leaves the choice to the
    device."""

    stream_slab: bool = False
    stream_receive: bool = False
    chunk_bytes: int | None = None
    blocks: int | None = None
    threads: int | None = None
    slabs: bool = False

    @property
    def words(self) -> tuple[str, ...]:
        """What `parse` reads: none for the default."""
        words = [word for word, name in FLAGS.items() if getattr(self, name)]
        for letter, (name, unit) in LIMITS.items():
            if number := getattr(self, name):
                words.append(f"{number // unit}{letter}")
        words.sort(key=lambda word: word == "slabs")  # last
        return tuple(words)

    @classmethod
    def parse(cls, words: Sequence[str]) -> "Build":
        """Raises ValueError for a word that is unknown, or sets what another one has set."""
        fields: dict[str, Any] = {}
        value: bool | int
        for word in words:
            if word in FLAGS:
                name, value = FLAGS[word], True
            elif re.fullmatch(r"[1-9]\d{0,4}[Kbt]", word):
                name, unit = LIMITS[word[-1]]
                value = int(word[:-1]) * unit
            else:
                raise ValueError(f"{word!r} is not one of {', '.join(FLAGS)}, 128K, 16b, 256t")
            if name in fields:
                raise ValueError(f"{word!r} sets {name} a second time")
            fields[name] = value
        return cls(**fields)


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


def cpu_builds(varies: Sequence[str], size_bytes: int) -> Iterator[Build]:
    """The builds that ever beat all others by 3 % at a size, on two processors
    (docs/experiments/performance.md)."""
    most_stores, chunks = 1, list[int | None]([None])
    if "stores" in varies and size_bytes >= 64 << 10:
        most_stores = 4 if size_bytes >= 1 << 20 else 2
    if "chunks" in varies and size_bytes >= 512 << 10:
        chunks.append(128 << 10)
    for chunk_bytes in chunks:
        for slab, receive in STORES[:most_stores]:
            yield Build(slab, receive, chunk_bytes=chunk_bytes)
        if "slabs" in varies:
            yield Build(chunk_bytes=chunk_bytes, slabs=True)


def gpu_builds(varies: Sequence[str], size_bytes: int, memory: str) -> Iterator[Build]:
    """Builds for GPUs. They cache no stores to host memory, and there each block polls over PCIe.
    Non-temporal stores pay for long results alone: their reader loses more than the writer
    gains."""
    is_host = memory == "host_staged"
    most_stores = 1
    if "stores" in varies and not is_host:
        most_stores = 4 if size_bytes >= 1 << 20 else 2
    shapes = [Build()]
    if "chunks" in varies:
        shapes += [Build(chunk_bytes=each) for each in GPU_CHUNK_BYTES if each < size_bytes]
    if "grid" in varies:
        if is_host:
            shapes.append(Build(blocks=2))
        shapes += [Build(blocks=8), Build(blocks=32), Build(threads=256)]
    for slab, receive in STORES[:most_stores]:
        for shape in shapes:
            yield replace(shape, stream_slab=slab, stream_receive=receive)
