"""Routed all-to-all: tokens to the ranks of their experts and back, by our kernels
(kernels/experts/alltoall_routed.cu) and by the library. The library exchanges rows between kernels
of ours that pack and unpack them (routed_records.cu), and is told all routes in advance."""

from ctypes import c_long, c_void_p
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from collectives import choice
from collectives.binding import chunk_that_fits, launch_with, row_stride, run_sequence
from collectives.collective import Array
from collectives.experts.routing import Routes
from collectives.operation import (
    Algorithm,
    Bound,
    CollectiveCase,
    KernelAlgorithm,
    LibraryAlgorithm,
    Operation,
    Unsupported,
    World,
)
from kernels.devices.device import MOST_BLOCKS, Arguments, Memory
from kernels.devices.layout import Shared

CHOICE = np.dtype([("expert", np.int32), ("place", np.int32), ("weight", np.float32)])
WAYS = ("dispatch", "combine", "round_trip")


class Routing(Shared, file="experts/routing.h"):
    """A rank's tables for a batch, and the rows of its experts; routing.h explains each field.
    CHOICE is `Choice` there."""

    _fields_ = (
        ("ranks", Arguments),
        ("tokens", c_long),
        ("most_tokens", c_long),
        ("experts", c_long),
        ("top_k", c_long),
        ("most_rows", c_long),
        ("step_tokens", c_long),
        ("owner", c_void_p),
        ("tokens_of", c_void_p),
        ("choices", c_void_p),
        ("counting", c_void_p),
        ("first", c_void_p),
        ("came", c_void_p),
        ("rows", c_void_p),
        ("out", c_void_p),
        ("in_", c_void_p),
        ("record", c_void_p),
        ("arrived", c_void_p),
    )


@dataclass(frozen=True, kw_only=True)
class RoutedCase(CollectiveCase):
    """Rows of `count` elements: this rank's tokens, at `send` before a dispatch and at `receive`
    after a combine, and the experts' rows in `routing`."""

    routes: Routes
    routing: Routing


def make_tables(world: World, routes: Routes, rows: Memory, row_bytes: int) -> Routing:
    """Fills the tables of this rank. Raises DeviceError."""
    rank, ranks, most = world.rank, routes.ranks, int(routes.tokens_of.max())
    top_k = routes.chosen.shape[1]
    home, place = routes.home, routes.place
    came = np.zeros((ranks, most, top_k), CHOICE)
    came["place"] = -1
    came["expert"][home, place] = routes.chosen
    came["weight"][home, place] = routes.weights
    token, choice = routes.rows_of(rank)
    came["place"][home[token], place[token], choice] = np.arange(len(token))
    sent, arriving = routes.leaving[rank], routes.leaving[:, rank]
    arrays = {
        "owner": routes.owner.astype(np.int32),
        "tokens_of": routes.tokens_of.astype(np.int32),
        "choices": came[rank, : routes.tokens_of[rank]],
        "counting": np.zeros((MOST_BLOCKS, routes.experts), np.int32),
        "first": np.zeros((ranks, routes.experts), np.int32),
        "came": came,
        "out": np.zeros(sent.sum() * row_stride(row_bytes), np.uint8),
        "in_": np.zeros(arriving.sum() * row_stride(row_bytes), np.uint8),
        "record": _numbered(sent),
        "arrived": _numbered(arriving),
    }
    memories = {name: world.device.store(array) for name, array in arrays.items()}
    routing = Routing(
        tokens=int(routes.tokens_of[rank]),
        most_tokens=most,
        experts=routes.experts,
        top_k=top_k,
        most_rows=len(token),
        rows=rows.address,
        **{name: memory.address for name, memory in memories.items()},
    )
    routing.keep(rows, *memories.values())
    return routing


def _numbered(selected: Array) -> Array:
    """Numbers the selected tokens, (ranks, places), by rank, then by place; -1 for the others."""
    numbers = np.cumsum(selected).reshape(selected.shape) - 1
    return np.where(selected, numbers, -1).astype(np.int32)


def _bind(direction: str, world: World, case: RoutedCase) -> Bound:
    way, routing = case.shape["way"], case.routing
    chunk_bytes = chunk_that_fits(world, case, world.mapped.half_bytes / (2 * world.ranks))
    token_bytes = row_stride(case.segment_bytes) + routing.top_k * CHOICE.itemsize
    routing.step_tokens = (chunk_bytes - 4 * routing.experts) // token_bytes
    if routing.step_tokens < 1:
        return Unsupported(
            f"a row of {case.segment_bytes} B is longer than a slot of {chunk_bytes} B"
        )
    arguments = world.mapped.arguments(case.send, case.receive, case.count, chunk_bytes)
    return launch_with(
        world,
        case,
        arguments,
        routing,
        "experts/alltoall_routed",
        f"{way}_{direction}",
        world.device.blocks_for(chunk_bytes),  # a block handles whole tokens
        case.build.threads,
    )


def _bind_library(world: World, case: Any) -> Bound:
    """For each direction of a RoutedCase: pack rows, exchange them, unpack them."""
    rank, routing, routes = world.rank, case.routing, case.routes
    arguments = Arguments(send=case.send, receive=case.receive, count=case.count, rank=rank)
    blocks = world.device.blocks_for(case.segment_bytes * routing.most_tokens)
    own = world, case, arguments, routing, "experts/routed_records"
    stride = row_stride(case.segment_bytes)
    out = routing.out, routes.between[rank] * stride
    in_ = routing.in_, routes.between[:, rank] * stride
    bounds = list[Bound]()
    for way, rows, ends in (("dispatch", "tokens", (out, in_)), ("combine", "parts", (in_, out))):
        if case.shape["way"] not in (way, "round_trip"):
            continue
        exchanged = world.library.bind_exchange(world, *ends)
        packed, unpacked = (launch_with(*own, f"{do}_{rows}", blocks) for do in ("pack", "unpack"))
        bounds += [packed, exchanged, unpacked]
    return run_sequence(world, bounds)


PUSH = KernelAlgorithm(
    "direct_push",
    "each rank stores tokens and sums into their reader's slab",
    partial(_bind, "push"),
    pushes=True,
)
PULL = KernelAlgorithm(
    "direct_pull",
    "each rank stores tokens and sums into its own slab; readers read them from it",
    partial(_bind, "pull"),
)
LIBRARY = LibraryAlgorithm(
    "library",
    "MPI_Alltoallv, or a group of ncclSend and ncclRecv, between our kernels that pack and unpack",
    _bind_library,
    variants=("plain", "graph"),
)
FLAT = Algorithm("flat", LIBRARY.about, _bind_library, spans_hosts=True)  # for auto


def _bind_auto(world: World, case: CollectiveCase) -> Bound:
    algorithm: Algorithm = PULL if world.device.is_cpu else PUSH
    if world.node:
        algorithm = FLAT
    bound = algorithm.bind(world, case)
    return replace(bound, choice=algorithm.name) if isinstance(bound, Operation) else bound


AUTO = Algorithm(
    choice.AUTO,
    "direct_pull between CPU cores, direct_push between GPUs, flat between hosts",
    _bind_auto,
)
ALGORITHMS = (LIBRARY, AUTO, PUSH, PULL)
