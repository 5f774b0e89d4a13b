"""How commands speak: their names in texts, complaints, and `--json`.

A command is `python -m bench.tune` in a checkout, which an editable installation runs too, and
`wiretax tune` where a wheel has put all folders inside the package `wiretax`."""

import json
import os
import re
import sys
from argparse import Namespace
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from wiretax.common.launched import launched_rank
from wiretax.common.untrusted import printable

if TYPE_CHECKING:
    import psutil

IS_CHECKOUT = find_spec("wiretax.bench") is None
RUN, BENCH, REPORTS = (
    ("python -m ", "bench.", "reports") if IS_CHECKOUT else ("", "wiretax ", "wiretax")
)
LAUNCHERS = "mpiexec", "mpirun", "mpiexec.hydra", "prterun", "orterun"
# The launchers' on a host; mpispawn is MVAPICH's.
DAEMONS = "hydra_pmi_proxy", "prted", "orted", "mpispawn", "slurmstepd", "torchrun"
# Torchrun's command line: of `python -m torch.distributed.run` no process has its name.
TORCHRUN = re.compile(
    r"[^\0]*python[^\0]*(\0-\w+)*"
    r"\0([^\0]*/torchrun|torchrun|-m\0torch\.distributed\.(run|launch))(\0|$)"
)
SCHEMA = 1  # of --json; grows when the meaning of a field changes
# Nobody has confirmed yet that this address is ours: nothing may install from it unattended.
REPOSITORY = "https://github.com/wiretax/wiretax"
SEND_ARCHIVE = f"{REPOSITORY}/issues/new?template=archive.yml"


def on_ranks(ranks: object, command: str) -> str:
    """How a user starts the ranks of a benchmark; `wiretax` starts them itself."""
    if IS_CHECKOUT:
        return f"mpirun -n {ranks} {RUN}{BENCH}{command}"
    return f"{BENCH}{command} -n {ranks}"


def typed(option: str, value: object) -> str:
    """An option as the user types it: where make started this, by make's variable for it, with the
    others that were typed. Make's rule names the variables in $WIRETAX_MAKE, such as
    `--budget=BUDGET --pairs=CAMPAIGN_ARGS`, and make exports those that its command line sets."""
    variables = dict(word.split("=") for word in os.environ.get("WIRETAX_MAKE", "").split())
    variable = variables.get(option, "")
    if variable.endswith("ARGS"):
        others = re.sub(rf"{option}[ =]+\S+", "", os.environ.get(variable, "")).split()
        return f'{variable}="{" ".join([*others, option, str(value)])}"'
    return f"{variable}={value}" if variable else f"{option} {value}"


def complain(*sentences: str) -> None:
    """Writes sentences to standard error, which may be full: the exit status says enough."""
    for sentence in sentences:
        with suppress(OSError):
            print(f"{REPORTS}: {printable(sentence)}", file=sys.stderr, flush=True)


def write_json(command: str, **fields: Any) -> None:
    """Prints the fields as one JSON object on standard output, as `json_text` makes it."""
    print(json_text(command, **fields))


def json_text(command: str, **fields: Any) -> str:
    """The fields as one JSON object, led by the schema and the command; docs/results.md describes
    them. Unknown and infinite figures are null, as msgspec writes them, paths are texts, and tables
    of pandas are lists of rows."""
    content = {"schema": SCHEMA, "command": command} | fields
    plain = msgspec.json.decode(msgspec.json.encode(content, enc_hook=_builtin))
    return json.dumps(plain, indent=1)


def answer(arguments: Namespace, text: str, **fields: Any) -> None:
    """Prints the text of a report, or its fields, if --json asks for them."""
    if arguments.json:
        write_json(arguments.command, **fields)
    else:
        print(text.rstrip("\n"))


def _builtin(value: Any) -> Any:
    if hasattr(value, "to_dict"):
        return value.to_dict("records")
    if hasattr(value, "tolist"):  # numpy's arrays and scalars
        return value.tolist()
    if isinstance(value, Path):
        return printable(str(value))

    raise TypeError(f"{type(value).__name__} has no form in JSON")


def speaks() -> bool:
    """Whether this process prints what every rank of a launch would print: the first rank does, and
    a process that has another's variables and no launcher above it, or whose output has a file of
    its own."""
    is_mpi_rank = bool(launched_rank())
    if not is_mpi_rank and os.environ.get("RANK", "0") in ("", "0"):
        return True

    import psutil  # takes 20 ms

    try:
        launchers = [
            parent
            for parent in psutil.Process().parents()
            if is_torchrun(parent) or (is_mpi_rank and parent.name() in LAUNCHERS + DAEMONS)
        ]
    except psutil.Error:
        return True

    if not launchers:
        return True
    own = "/proc/self/fd/1"
    if not os.path.isfile(own):
        return False
    for launcher in launchers:  # torchrun hands its own output on
        with suppress(OSError):
            if os.path.samefile(own, f"/proc/{launcher.pid}/fd/1"):
                return False
    return True


def is_torchrun(process: "psutil.Process") -> bool:
    """Raises psutil.Error."""
    return process.name() == "torchrun" or bool(TORCHRUN.match("\0".join(process.cmdline())))


def has_colours() -> bool:
    """Whether standard output goes to a terminal and NO_COLOR is unset. Of a rank, the launcher's
    decides: a rank has a pipe or, with Open MPI, a terminal wherever the output goes."""
    if os.environ.get("NO_COLOR") or os.path.isfile("/proc/self/fd/1"):
        return False

    import psutil  # takes 20 ms

    with suppress(psutil.Error):
        for parent in psutil.Process().parents():
            if parent.name() in LAUNCHERS:
                output = os.path.realpath(f"/proc/{parent.pid}/fd/1")
                return output.startswith(("/dev/pts/", "/dev/tty"))

    return bool(sys.stdout and sys.stdout.isatty())
