"""Ranks pass file descriptors to each other: threads of one process stand for the ranks."""

import array
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from collectives import descriptors
from collectives.communicator import Communicator, Refusal
from kernels.devices.device import DeviceError


class Rank(Communicator):
    """A rank that is a thread."""

    def __init__(self, rank, size, shared):
        self.rank, self.size, self.ranks, self.hosts = rank, size, [*range(size)], 1
        self.whole, self.shared = self, shared
        self.all_gather = self.gathered

    def gathered(self, item):
        items, meeting = self.shared
        items[self.rank] = item
        meeting.wait()
        everything = list(items)
        meeting.wait()
        return everything


def on_ranks(size, work):
    """What `work(communicator)` returns on each rank, or the Refusal that it raises."""
    shared = [None] * size, threading.Barrier(size, timeout=20)

    def run(rank):
        try:
            return work(Rank(rank, size, shared))
        except Refusal as refusal:
            return refusal

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(run, range(size)))


def named(number):
    descriptor = os.memfd_create(f"of rank {number}")
    os.write(descriptor, str(number).encode())
    return descriptor


def content(descriptor):
    return None if descriptor is None else os.pread(descriptor, 9, 0).decode()


def passed(communicator, owners):
    with ExitStack() as undo:
        own = named(communicator.rank) if communicator.rank in owners else None
        if own is not None:
            undo.callback(os.close, own)
        return [*map(content, descriptors.exchange(communicator, own, undo))]


def opened():
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("owners", [range(8), [0], [2, 5], []])
def test_each_rank_gets_the_descriptors_of_all_that_have_one(owners):
    before = opened()
    expected = [str(rank) if rank in owners else None for rank in range(8)]
    assert on_ranks(8, lambda communicator: passed(communicator, owners)) == [expected] * 8
    assert opened() == before


def test_what_a_stranger_sends_is_closed_and_not_taken(monkeypatch):
    """Every user can list the names of sockets."""
    plain, before = descriptors._send, opened()

    def send(inbox, name, *rest):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
            descriptor = named("of a stranger")
            rights = socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor])
            stranger.sendmsg([b"0" * descriptors.TOKEN_BYTES], [rights], 0, name)
            stranger.sendmsg([b"no descriptor"], [], 0, name)
            os.close(descriptor)
        plain(inbox, name, *rest)

    monkeypatch.setattr(descriptors, "_send", send)
    assert on_ranks(3, lambda each: passed(each, range(3))) == [["0", "1", "2"]] * 3
    assert opened() == before


def refused(name, work, monkeypatch):
    monkeypatch.setattr(descriptors, name, work)
    before = opened()
    reasons = [str(each) for each in on_ranks(2, lambda each: passed(each, range(2)))]
    assert opened() == before
    assert reasons[0] == reasons[1]
    return reasons[0]


def test_a_peer_out_of_reach_is_named_with_what_to_type(monkeypatch):
    """As in another network namespace, where its name leads nowhere."""
    plain = descriptors._send
    reason = refused(
        "_send", lambda inbox, name, *rest: plain(inbox, name + b"elsewhere", *rest), monkeypatch
    )
    assert reason.startswith(
        "rank 0: a file descriptor of its memory cannot be passed to rank 1: Connection refused"
    )
    assert reason.endswith("docker run --network=host)")


def test_a_descriptor_that_never_arrives_is_a_refusal_and_no_wait(monkeypatch):
    reason = refused("_send", lambda *_: None, monkeypatch)
    assert "a peer's file descriptor has not arrived: Resource temporarily" in reason


def test_a_message_whose_descriptor_is_cut_off_is_named(monkeypatch):
    cut = b"0" * descriptors.TOKEN_BYTES, list[int](), socket.MSG_CTRUNC, None
    monkeypatch.setattr(socket, "recv_fds", lambda *_: cut)
    with socket.socket() as inbox, pytest.raises(DeviceError, match="cannot open a peer's"):
        descriptors._receive(inbox)
