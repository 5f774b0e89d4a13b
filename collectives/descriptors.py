"""Passes file descriptors between the ranks of a host, through sockets of Linux's abstract names:
they end with their process, and nothing of them is in a folder. The ranks need a common network
namespace; pidfd_getfd would need the right to trace a peer, which Ubuntu and docker refuse."""

import os
import secrets
import socket
import struct
from contextlib import ExitStack

from collectives.communicator import Communicator
from kernels.devices.device import DeviceError

TOKEN_BYTES = 16
MOST_WAIT_S = 10.0  # for room in a peer's queue, which holds 10 messages unless a machine says else


def exchange(communicator: Communicator, own: int | None, undo: ExitStack) -> list[int | None]:
    """Every rank's file descriptor, by rank, as new ones of this process, which `undo` closes; this
    rank's is its `own`. A rank without one passes None. All ranks call it. Raises Refusal."""
    token = secrets.token_bytes(TOKEN_BYTES)  # names of sockets are public, and tokens are not
    with ExitStack() as sockets:
        with communicator.all_or_none(OSError):
            inbox = sockets.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            inbox.bind(b"\0wiretax-" + secrets.token_hex(TOKEN_BYTES).encode())
            inbox.settimeout(MOST_WAIT_S)
        facts = communicator.all_gather((inbox.getsockname(), token, own is not None))

        with communicator.all_or_none():
            for rank, (name, *_) in enumerate(facts):
                if own is not None and rank != communicator.rank:
                    _send(inbox, name, token, own, communicator.rank_name(rank))

        # All are sent, so nobody has to wait for one.
        inbox.setblocking(False)
        senders = {token: rank for rank, (_, token, has_one) in enumerate(facts) if has_one}
        senders.pop(token, None)
        descriptors: list[int | None] = [None] * communicator.size
        descriptors[communicator.rank] = own
        with communicator.all_or_none():
            while senders:
                sender, received = _receive(inbox)
                for descriptor in received:
                    undo.callback(os.close, descriptor)
                if sender in senders:  # otherwise a stranger has sent it
                    descriptors[senders.pop(sender)] = received[0]
    return descriptors


def _send(inbox: socket.socket, name: bytes, token: bytes, descriptor: int, peer: str) -> None:
    try:
        # socket.send_fds of Python 3.11 takes no address.
        passed = socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", descriptor)
        inbox.sendmsg([token], [passed], 0, name)
    except OSError as error:
        raise DeviceError(
            f"a file descriptor of its memory cannot be passed to {peer}: {error.strerror or error}"
            " (containers: start all ranks in one, or each with docker run --network=host)"
        ) from error


def _receive(inbox: socket.socket) -> tuple[bytes, list[int]]:
    """The token and the descriptors of a message that is there."""
    try:
        token, received, flags, _ = socket.recv_fds(inbox, TOKEN_BYTES, 1, socket.MSG_CMSG_CLOEXEC)
    except OSError as error:
        raise DeviceError(f"a peer's file descriptor has not arrived: {error.strerror}") from error
    if flags & socket.MSG_CTRUNC and not received:
        raise DeviceError("this process cannot open a peer's file descriptor beside its others")
    return token, received
