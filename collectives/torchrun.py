"""Joins ranks that torchrun has started, or anything that sets its variables: no mpirun runs then.

MPICH's ranks find each other through a launcher that speaks PMI-1 (Flux RFC 13), a few lines of
text. Here rank 0 starts a process that answers them at MASTER_ADDR, on the port behind MASTER_PORT:
torchrun's own store has that one."""

import errno
import fcntl
import os
import secrets
import signal
import socket
import time
import traceback
from contextlib import suppress
from multiprocessing.connection import wait
from socket import SocketIO
from typing import Any

NUMBERS = "RANK", "WORLD_SIZE", "LOCAL_RANK"
# A pod or a shell script may set the address alone, which says nothing of ranks.
VARIABLES = *NUMBERS, "MASTER_ADDR", "MASTER_PORT"
LAUNCHERS = "PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK"
JOIN_S = 60.0  # for rank 0 to answer
LATE_S = 1.0  # after a loss, for those that are about to connect


def announce() -> bool:
    """Whether torchrun has started this process. If so, sets the variables of MPICH's launcher,
    which all else reads. Raises ValueError where only some variables are set, or a wrong one."""
    given = {name: os.environ.get(name, "") for name in VARIABLES}
    if not any(given[name] for name in NUMBERS) or os.environ.keys() & {*LAUNCHERS}:
        return False

    os.environ["PMI_RANK"] = given["RANK"] or "0"  # rank 0 prints
    rank, size, local_rank, port = (
        int(given[name]) if given[name].isdecimal() else -1 for name in (*NUMBERS, "MASTER_PORT")
    )
    is_a_rank = 0 <= rank < size < 1 << 31 and local_rank >= 0
    if not (is_a_rank and given["MASTER_ADDR"] and 0 < port < 65535):
        raise ValueError(
            f"torchrun's variables cannot be {' '.join(map('='.join, given.items()))}: start this "
            f"with torchrun, or unset {' '.join(NUMBERS)}"
        )

    os.environ["PMI_SIZE"] = given["WORLD_SIZE"]
    os.environ.setdefault("MPI_LOCALNRANKS", os.environ.get("LOCAL_WORLD_SIZE", str(size)))
    return True


def join() -> None:
    """Connects this announced rank with rank 0, which starts the process that answers. Raises
    OSError."""
    size = int(os.environ["WORLD_SIZE"])
    place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]) + 1
    run = os.environ.get("TORCHELASTIC_RUN_ID", "")
    greeting = f"wiretax {size} {place[1]} {run}\n".encode()
    if int(os.environ["RANK"]) == 0:
        listener, rank_0 = _listen(*place), os.getpid()
        if os.fork() == 0:
            os.setsid()  # Ctrl-C is for the ranks
            quiet = os.open(os.devnull, os.O_RDWR)
            for stream in range(3):  # torchrun waits for the end of its workers' output
                os.dup2(quiet, stream)
            try:
                _serve(listener, greeting, size)
            except BaseException:  # noqa: BLE001 - nobody else would tell
                with open(f"/proc/{rank_0}/fd/2", "a") as errors:
                    traceback.print_exc(file=errors)
            finally:  # without what rank 0 does at its own end
                os._exit(0)
        listener.close()
    connection = _connect(place, greeting)
    connection.set_inheritable(True)
    os.environ["PMI_FD"] = str(connection.detach())


def hear_of_losses() -> None:
    """Keeps the signal by which this rank learns, also while MPICH reads, that another has left. To
    be called before there are other threads."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGURG])
    with suppress(OSError, ValueError):  # without a launcher that speaks PMI-1
        fcntl.fcntl(int(os.environ.get("PMI_FD", -1)), fcntl.F_SETOWN, os.getpid())


def has_lost_one() -> bool:
    """Whether the process that answers has told this rank that another one has left."""
    return signal.sigtimedwait([signal.SIGURG], 0) is not None


def _listen(host: str, port: int) -> socket.socket:
    """At this address, or at all of this host's if it is another's, as that of a service."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            return socket.create_server(("", port))
        raise OSError(
            f"rank 0 cannot listen at {host}, port {port}, the one behind MASTER_PORT: "
            f"{error.strerror}"
        ) from error


def _connect(place: tuple[str, int], greeting: bytes) -> socket.socket:
    """A connection to the process that rank 0 has started for these ranks. Raises OSError."""
    deadline = time.monotonic() + JOIN_S
    while time.monotonic() < deadline:
        with suppress(OSError):
            connection = socket.create_connection(place, timeout=5)
            connection.sendall(greeting)
            if connection.recv(len(greeting)) == greeting:
                connection.settimeout(None)
                return connection
        time.sleep(0.05)
    raise OSError(
        f"rank 0 does not answer at {place[0]}, port {place[1]}, the one behind MASTER_PORT: does "
        "it run, may this host reach that port, and is no other run there?"
    )


def _serve(listener: socket.socket, greeting: bytes, size: int) -> None:
    """Answers ranks until the last has left. After one that left without a farewell, the others get
    an urgent byte once they wait for all, which MPICH does not read: it crashes if its connection
    ends. Before, they may not listen yet."""
    # MPICH names shared memory by it, and takes that of an earlier run with this name for its own.
    name = f"wiretax_{secrets.token_hex(8)}"
    replies = {
        "init": "response_to_init pmi_version=1 pmi_subversion=1 rc=0",
        "get_maxes": "maxes kvsname_max=64 keylen_max=64 vallen_max=1024 rc=0",
        "get_appnum": "appnum appnum=0 rc=0",
        "get_universe_size": f"universe_size size={size} rc=0",
        "get_my_kvsname": f"my_kvsname kvsname={name} rc=0",
        "put": "put_result rc=0",
        "barrier_in": "barrier_out rc=0",
        "finalize": "finalize_ack rc=0",
    }
    values, meeting, sources = dict[str, str](), list[SocketIO](), list[Any]([listener])
    connections, is_one_lost = dict[SocketIO, socket.socket](), False
    while sources:
        is_open = listener in sources
        patience_s = LATE_S if is_one_lost else JOIN_S
        ready: list[Any] = wait(sources, patience_s if is_open else None)
        is_one_lost |= not ready
        for source in ready:
            if source is listener:
                connection, _ = listener.accept()
                connection.settimeout(5)
                with suppress(OSError):  # of a stranger
                    if connection.recv(len(greeting)) == greeting:
                        connection.sendall(greeting)
                        connection.settimeout(None)
                        sources.append(connection.makefile("rwb", buffering=0))
                        connections[sources[-1]] = connection
                continue
            words = list[str]()
            with suppress(OSError):  # one line: a rank waits for its answer
                words = source.readline().decode().split()
            fields = dict(word.partition("=")[::2] for word in words)
            command, asking = fields.get("cmd", ""), [source]
            if command in ("", "finalize"):
                sources.remove(source)
                connections.pop(source).close()
            if not command:  # the connection has ended
                is_one_lost = True
                meeting = [each for each in meeting if each is not source]
                continue
            if command == "put":
                values[fields["key"]] = fields["value"]
            elif command == "get":
                value = values.get(fields["key"])
                replies["get"] = "get_result rc=" + ("-1" if value is None else f"0 value={value}")
            elif command == "barrier_in":
                meeting.append(source)
                if len(meeting) < size:
                    continue
                asking, meeting = meeting, []
            reply = replies.get(command, f"{command}_result rc=-1")
            for rank in asking:
                with suppress(OSError):  # its end is read next
                    rank.write(f"cmd={reply}\n".encode())
        while is_one_lost and meeting:
            with suppress(OSError):  # its end is read next
                connections[meeting.pop()].send(b"!", socket.MSG_OOB)
        if is_open and (not ready or len(sources) > size):
            sources.remove(listener)
            listener.close()
