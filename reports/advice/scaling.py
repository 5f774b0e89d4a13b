"""All-reduce over several nodes by the alpha-beta model, for `advise --nodes`: the library's ring
and tree, `hierarchical` and `hierarchical_whole`. docs/scaling.md states the errors.

Steps and bytes: Thakur, Rabenseifner and Gropp, IJHPCA 19:1, 2005; Patarasuk and Yuan, JPDC 69:2,
2009; the two trees of Sanders, Speck and Traeff, Parallel Computing 35:12, 2009."""

from dataclasses import dataclass, field
from math import log2

import numpy as np

from reports.advice.reduce_times import ReduceTimes, Span, wire_factor
from reports.advice.specs import SECTIONS, Link, Network
from reports.tables.sentences import number

# The least and the most of published times over the model's (docs/scaling.md).
ERROR = np.array([1.0, 0.85, 2.5])
FLAT = "ring", "tree"


def library_us(
    algorithm: str,
    nodes: int,
    gpus: int,
    size_bytes: float,
    link: Link,
    network: Network,
) -> float:
    """The library's all-reduce over `nodes` x `gpus` GPUs by ring or tree, in the fastest protocol.
    `network` carries what leaves a node with `gpus` GPUs; `link` is within a node."""
    ranks, hops, times_us = nodes * gpus, max(1, int(log2(nodes))), []
    for protocol, by_tree in zip(
        *(SECTIONS["protocols"][name] for name in (algorithm, "tree")), strict=True
    ):
        within_us = protocol["nvlink_us" if link.kind in ("nvlink", "xgmi") else "pcie_us"]
        # With one GPU a node the latency of each hop is exposed: NCCL takes the tree's.
        between_us = (by_tree if gpus == 1 else protocol)["network_us"] + network.hop_us
        if algorithm == "ring":
            # 2 (n-1) steps of 1/n; all adapters carry rings. Each byte passes both kinds of links.
            alpha_us = 2 * ((ranks - nodes) * within_us + (nodes - 1) * between_us)
            sent, crossing = wire_factor(ranks), wire_factor(ranks)
        else:
            # Up a chain in each node and a tree over the nodes, and down again, in a pipeline.
            alpha_us = 2 * ((gpus - 1) * within_us + hops * between_us)
            sent, crossing = 2.0, wire_factor(nodes)
        ns_per_byte = crossing / network.total_gb_s(gpus)
        if gpus > 1:
            ns_per_byte = max(ns_per_byte, sent / link.total_gb_s(gpus))
        ns_per_byte /= protocol["share"]
        if most := protocol.get("most_gb_s"):
            ns_per_byte = max(ns_per_byte, sent / most[nodes > 2])
        times_us.append(protocol["start_us"] + alpha_us + size_bytes * ns_per_byte / 1e3)

    return float(min(times_us))


@dataclass
class ClusterTimes(ReduceTimes):
    """Modelled all-reduce times over `nodes` nodes; `node` has the times within a node, from a run
    or from published figures. The best of ring, tree and both hierarchical algorithms counts."""

    node: ReduceTimes = field(kw_only=True)
    nodes: int = field(kw_only=True)
    network: Network = field(kw_only=True)

    def by_algorithm(self, size_bytes: float) -> dict[str, Span]:
        """The time of each algorithm with its stated error."""
        gpus, link = self.node.gpus, self.link
        adapter_gb_s = self.network.total_gb_s(gpus) / gpus
        own = Network(self.network.name, adapter_gb_s, "", 0, self.network.hop_us)

        def between_us(size: float) -> Span:  # one GPU of each node, all groups at the same time
            return ERROR * min(library_us(name, self.nodes, 1, size, link, own) for name in FLAT)

        within_us = self.node(size_bytes) if gpus > 1 else np.zeros(3)
        phase_us = self.node(1) if gpus > 1 else np.zeros(3)  # the start of a second phase
        times_us = {}

        for name in FLAT:
            flat_us = library_us(name, self.nodes, gpus, size_bytes, link, self.network)
            # More ranks take no less; NCCL's latencies over PCIe are below published times.
            times_us[name] = np.maximum(ERROR * flat_us, within_us)

        # A reduce-scatter and an all-gather move the bytes of one all-reduce.
        times_us["hierarchical"] = within_us + phase_us + between_us(size_bytes / gpus)
        times_us["hierarchical_whole"] = within_us + between_us(size_bytes)
        return times_us

    def look_up(self, size_bytes: float) -> tuple[Span, str]:
        times_us = self.by_algorithm(size_bytes)
        name = min(times_us, key=lambda name: times_us[name][0])
        return times_us[name], f", MODELLED: {name}"


def cluster_times(node: ReduceTimes, nodes: int, network: Network) -> ClusterTimes:
    """Times over `nodes` nodes with the all-reduce times of `node` within each."""
    source = (
        f"MODELLED, not measured, over {nodes} nodes of {node.gpus}: {network.name}, "
        f"{number(network.total_gb_s(node.gpus))} GB/s one way a node ({network.source}), "
        f"and NCCL's latencies; brackets: {ERROR[1]:g} to {ERROR[2]:g} times the library's "
        f"part, as published times are (docs/scaling.md). Within a node: {node.source}"
    )
    return ClusterTimes(
        nodes * node.gpus,
        source,
        node.link,
        notes=node.notes,
        hosts=nodes,
        node=node,
        nodes=nodes,
        network=network,
    )
