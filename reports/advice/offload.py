"""A model that does not fit, with the rest of its weights in host memory: computed by the CPU, as
fast as it reads that memory, or streamed to the GPUs for each step, as fast as the link allows.

Experts go first, since a token reads few of them."""

from dataclasses import dataclass, fields, replace
from math import ceil

from reports.advice.serving import Deployment, split_name
from reports.advice.spans import Span
from reports.advice.specs import GB, SECTIONS
from reports.tables.sentences import number

HOST_GB_S: float = SECTIONS["host_memory"]["gb_s"]
HOST_SOURCE: str = SECTIONS["host_memory"]["source"]


@dataclass(frozen=True)
class Offloaded(Deployment):
    """A deployment of one replica with a part of its weights in host memory of `host_gb_s`. The CPU
    computes with them, or, without `on_cpu`, each GPU gets its share over its own link of
    `link_gb_s` in each step. What computing takes a CPU is not counted."""

    on_cpu: bool = True
    host_gb_s: float = HOST_GB_S
    link_gb_s: float = 0

    def rest_bytes(self, streams: int) -> float:
        """The weights that do not fit beside the cache of so many streams."""
        return max(0.0, self.gpus * (super().memory_bytes(streams) - self.usable_bytes))

    def memory_bytes(self, streams: int) -> float:
        """Of each GPU, without the weights in host memory."""
        return super().memory_bytes(streams) - self.rest_bytes(streams) / self.gpus

    def lack(self, streams: int) -> str | None:
        """Whether even without weights so many streams would not fit."""
        if self.rest_bytes(streams) > self.weights_bytes:
            return "the cache does not fit, even with all weights in host memory"
        return None

    def read_bytes(self, streams: int, tokens: float) -> float:
        """What so many tokens read of the rest: all but the experts that none of them uses."""
        model, rest_bytes = self.model, self.rest_bytes(streams)
        unused: float = (1 - model.top_k / model.experts) ** tokens
        return rest_bytes - min(rest_bytes, self.expert_bytes) * unused

    def decode_us(self, streams: int) -> Span:
        """A decode step. Of the groups of streams in a pipeline the one CPU serves each."""
        us = super().decode_us(streams)
        groups = min(self.stages, streams)
        group = ceil(streams / groups)
        tokens = group * self.step_tokens
        read_bytes = self.read_bytes(streams, tokens)
        if not self.on_cpu:
            return us + read_bytes / self.streamed_gb_s / 1e3

        # The GPUs neither read nor compute it.
        cached_bytes, all_bytes = self.kv_bytes(group), self.work_bytes(tokens)
        kept_bytes = all_bytes - read_bytes
        kept_flop = self.work_flop(tokens) * kept_bytes / all_bytes
        all_us = self.work_us(tokens, cached_bytes)
        kept_us = self.longer_us(kept_bytes + cached_bytes, kept_flop)
        host_us = read_bytes / self.host_gb_s / 1e3
        return (us + (kept_us - all_us + host_us)).at_least(groups * host_us)

    def pass_us(self, prompts: int) -> Span:
        """All chunks of a prompt: with either way the GPUs compute them, and the rest crosses the
        link once a chunk."""
        read_bytes = self.read_bytes(self.batch, self.prompt / self.chunks)
        return super().pass_us(prompts) + self.chunks * read_bytes / self.streamed_gb_s / 1e3

    @property
    def streamed_gb_s(self) -> float:
        """All links of a tensor split at once, no more than the host memory gives; of a pipeline
        one after another."""
        return min(self.tensor * self.link_gb_s, self.host_gb_s)


def offloaded(load: Deployment, host_gb_s: float, link_gb_s: float) -> dict[str, Offloaded]:
    """The ways to serve what does not fit on the GPUs of a load, by name: as a pipeline whose rest
    the CPU computes, and as a tensor split whose rest is streamed. What cannot be so either is left
    out."""
    values = {field.name: getattr(load, field.name) for field in fields(Deployment)}
    n, whole = load.gpus, Offloaded(**values, host_gb_s=host_gb_s, link_gb_s=link_gb_s)
    one = replace(whole, tensor=1, stages=1, replicas=1, experts="")
    ways = [replace(one, stages=n), replace(one, tensor=n, on_cpu=False)]
    return {
        f"{split_name(way)}, rest {'on the CPU' if way.on_cpu else 'streamed'}": way
        for way in ways
        if way.obstacle is None
    }


def offload_text(item: tuple[str, Offloaded]) -> str:
    """What a way over host memory reaches, what holds it back, and how many times as long a token
    takes as on GPUs of enough memory."""
    name, way = item
    token_ms = way.figures["token_us"].value / 1e3
    enough_ms = Deployment.decode_us(way, way.batch).value / way.accepted / 1e3
    bound = f"{number(way.streamed_gb_s)} GB/s of the links or of the host memory"
    if way.on_cpu:
        origin = f", ASSUMED: {HOST_SOURCE}" if way.host_gb_s == HOST_GB_S else ""
        bound = f"the host memory's {number(way.host_gb_s)} GB/s{origin}"
    return (
        f"{name}: {number(way.rest_bytes(way.batch) / GB)} GB of weights in host memory; at least "
        f"{number(token_ms)} ms a token, {number(token_ms / enough_ms)} times as long as with "
        f"enough memory ({bound})."
    )
