"""The label of a node: it distinguishes hosts with equal hardware and hides their names."""

import hashlib
import hmac
import os
import re
import socket
from collections import Counter

from bench.machine import files
from bench.machine.files import read
from collectives.communicator import Communicator

VARIABLE = "WIRETAX_NODE"
NAME = r"[A-Za-z0-9_.-]{1,32}"
CONTAINER_ID = "[0-9a-f]{12}"  # the host name that Docker and Podman give a container


def chosen_name() -> str | None:
    """The name that the user chose for this host, if any. Raises ValueError for a bad one."""
    name = os.environ.get(VARIABLE) or None
    if name and not re.fullmatch(NAME, name):
        raise ValueError(
            f"{VARIABLE} is {name[:40]!r}, and the name of a node has 1 to 32 "
            "letters, digits, dots, dashes or underscores"
        )
    return name


def host_label() -> str | None:
    """Eight hexadecimal digits of the host's name, keyed by /etc/machine-id so that nobody can
    find the name by trying likely ones. None in a container whose name changes with each start.

    Hosts may share the id (cloned images) or the name. systemd draws a new id at each boot for a
    diskless host, and then mounts it from /run: such an id is no key."""
    host = socket.gethostname()
    if re.fullmatch(CONTAINER_ID, host) or "KUBERNETES_SERVICE_HOST" in os.environ:
        return None
    is_drawn_at_boot = (files.ROOT / "run/machine-id").exists()
    key = "" if is_drawn_at_boot else read("etc/machine-id")
    return hmac.new(key.encode(), f"wiretax {host}".encode(), hashlib.sha256).hexdigest()[:8]


def label(communicator: Communicator) -> str | None:
    """The label of this rank's host. All ranks call it. A name that several hosts have does not
    count: mpirun passes the variable of the host on which it starts to all hosts."""
    name = chosen_name()
    is_first = communicator.local_rank == 0
    hosts_of = Counter(communicator.all_gather(name if is_first else None))
    return name if name and hosts_of[name] == 1 else host_label()
