"""What an option is, and the parser of the benchmarks' command lines.

An option is declared once, as a field of a dataclass: `graph: int = changes_method(["-G"], ...)`.
The parser, the help and the default follow from that. Bad input ends the process with status 2
before any rank waits for another; only rank 0 prints the reason."""

import argparse
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, fields
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from bench.harness.console import CANNOT, USAGE, print_out, say
from collectives.communicator import Communicator, Mistake, Refusal
from wiretax.common.arguments import OneLineParser, unknown, whole_number
from wiretax.common.launched import launched_rank
from wiretax.common.program import BENCH, on_ranks, speaks
from wiretax.record.case import size_of

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Options = TypeVar("Options", bound=DataclassInstance)

OPTION = "option"  # the key of an option in the metadata of its field
MOST_BYTES = 16 << 30

# What an option changes; METHOD keeps runs apart.
CASES = "cases"  # which cases there are, or where they run: the key of a case or the world has it
METHOD = "method"  # how all cases are measured: `Run.method` has the value unless it is the default
NOTHING = "nothing"  # nothing that is measured, only how long, how precisely, or what is printed
# Where the help lists it, unless it names another group.
GROUPS = {CASES: "what", METHOD: "how", NOTHING: "output"}


class Option:
    """An option: what it `changes`, its flags, and in `settings` what else `add_argument` takes. A
    bool default makes a switch. `everywhere`: `add_run_options` adds it unasked."""

    def __init__(
        self,
        changes: str,
        flags: Sequence[str],
        group: str = "",
        everywhere: bool = True,
        **settings: Any,
    ) -> None:
        self.changes, self.flags, self.everywhere = changes, flags, everywhere
        self.group, self.settings = group or GROUPS[changes], settings
        if isinstance(settings.get("default"), bool):
            settings["action"] = "store_false" if settings["default"] else "store_true"


def option(changes: str, flags: Sequence[str], default: Any = None, **settings: Any) -> Any:
    """A field of a dataclass, with the `Option` that fills it. A default that is a text is one that
    a user could type: the option's `type` makes the value of it."""
    metadata = {OPTION: Option(changes, flags, default=default, **settings)}
    if isinstance(default, str) and "type" in settings:
        return field(default_factory=partial(settings["type"], default), metadata=metadata)
    return field(default=default, metadata=metadata)


changes_cases = partial(option, CASES)
changes_method = partial(option, METHOD)
changes_nothing = partial(option, NOTHING)


def declared(options: "type[DataclassInstance]") -> dict[str, Option]:
    """The options of a dataclass, by field."""
    return {each.name: each.metadata[OPTION] for each in fields(options) if OPTION in each.metadata}


def fill(options: "type[Options]", namespace: argparse.Namespace, **more: Any) -> "Options":
    """The dataclass with the parsed values that are fields, and `more` that the command sets."""
    values = vars(namespace) | more
    return options(
        **{each.name: values[each.name] for each in fields(options) if each.name in values}
    )


class Parser(OneLineParser):
    """Prints once for all ranks, and reports a mistake in one line. `changes` has what each option
    changes, by the name of its value. Those of `none_if_absent` are None, not their default, where
    the command line lacks them."""

    def __init__(self, **settings: Any) -> None:
        self.changes = dict[str, str]()
        self.none_if_absent: Sequence[str] = ()
        self.groups = dict[str, Any]()
        super().__init__(allow_abbrev=False, **settings)

    def add_groups(self, *titles: str) -> None:
        self.groups |= {title: self.add_argument_group(title) for title in titles}

    def add_option(self, name: str, option: Option) -> None:
        """Adds an option whose value gets this name. A parser without its group lists it among the
        first ones."""
        group = self.groups.get(option.group, self)
        group.add_argument(*option.flags, dest=name, **option.settings)
        self.changes[name] = option.changes

    def add(self, options: "type[DataclassInstance]", *names: str, **own: Option) -> None:
        """Adds the options of a dataclass in the order of its fields, all or those with these
        names. The command's `own` options replace declared ones."""
        known = declared(options)
        places = [each.name for each in fields(options)]
        for name in sorted({*(names or known), *own}, key=places.index):
            self.add_option(name, (known | own)[name])

    def set_help(self, **texts: str) -> None:
        """Replaces the help of these options, as `set_defaults` replaces defaults."""
        for action in self._actions:
            action.help = texts.get(action.dest, action.help)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """The options, with those of METHOD that are not at their defaults in `method`."""
        namespace = namespace or argparse.Namespace(**dict.fromkeys(self.none_if_absent))
        namespace, rest = super().parse_known_args(args, namespace)
        namespace.method = {
            name: value
            for name, value in vars(namespace).items()
            if self.changes.get(name) == METHOD and value != self.get_default(name)
        }
        return namespace, rest

    def print_help(self, file: Any = None) -> None:
        if not speaks():
            return
        try:
            print_out(self.format_help(), file)
        except OSError as error:
            Parser.error(self, f"cannot write: {error.strerror}")  # a gate would write an answer

    def error(self, message: str, status: int = USAGE) -> NoReturn:
        if speaks():
            say(self.prog, message)
        elif "PMIX_RANK" in os.environ:  # Open MPI kills all when one rank leaves: let rank 0 print
            time.sleep(1)
        os._exit(status)  # without MPI_Finalize: MPI is not up yet, or others would wait

    def start_mpi(self, thread_level: str | None = None) -> Communicator:
        """All ranks. Ends the process if MPI cannot start."""
        try:
            return Communicator(thread_level)
        except Refusal as refusal:
            self.error(str(refusal), USAGE if isinstance(refusal, Mistake) else CANNOT)

    def require_ranks(self) -> None:
        """Ends the process unless a launcher started it."""
        if launched_rank() is None:
            self.error(
                "this is one process, and a collective needs ranks: "
                f"{on_ranks(2, self.prog.removeprefix(BENCH))}"
            )


def size_bytes(text: str) -> int:
    """`16K`, `32M`, `1G` or plain bytes; powers of two, as in nccl-tests."""
    match = re.fullmatch(r"(\d+[KMG]?)(?:i?B)?", text, re.IGNORECASE | re.ASCII)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 16384, 16K or 32M")
    size = size_of(match[1].upper())
    if size > MOST_BYTES:
        raise argparse.ArgumentTypeError(f"{text} is above the largest size, 16G")
    return size


def name_among(kind: str, names: Sequence[str], text: str, aliases: Mapping[str, str] = {}) -> str:
    """The name that the text means; otherwise an error that suggests the nearest name."""
    name = aliases.get(text.lower(), text.lower())
    if name in names:
        return name
    accepted = [*names, *(alias for alias, meaning in aliases.items() if meaning in names)]
    raise argparse.ArgumentTypeError(unknown(kind, text, accepted))


def duration_s(text: str) -> float:
    """`90s`, `10m` or `2h`, also `5us` or `1.5ms`, in seconds."""
    match = re.fullmatch(r"(\d{1,6}(?:\.\d+)?)(us|ms|s|m|h)", text)
    if not match or not float(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 5us, 90s, 10m or 2h")
    return float(match[1]) * {"us": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}[match[2]]


def comma_separated(parse: Callable[[str], Any], text: str) -> list[Any]:
    """Each item once."""
    return list(dict.fromkeys(map(parse, text.split(","))))


def whole(least: int, most: int = 1 << 31) -> dict[str, Any]:
    """The settings of an option that takes a whole number."""
    return {"type": partial(whole_number, least, most=most), "metavar": "N"}


def listed(parse: Callable[[str], Any]) -> dict[str, Any]:
    """The settings of an option that takes a list of what `parse` takes, each item once."""
    return {"type": partial(comma_separated, parse), "metavar": "A,B"}


def names_among(
    kind: str, names: Sequence[str], text: str, aliases: Mapping[str, str] = {}
) -> list[str]:
    """The names of a list such as `half,float`; "all" means every name."""
    if text.lower() == "all":
        return list(names)
    return comma_separated(partial(name_among, kind, names, aliases=aliases), text)
