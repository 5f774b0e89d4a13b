"""A contender's file: what it declares in capitals, read without running it, and its functions."""

import ast
import faulthandler
import hashlib
import importlib.abc
import importlib.metadata
import os
import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from collectives.collective import COLLECTIVES, DATATYPES, REDOPS
from collectives.communicator import Mistake
from collectives.contenders import FORMERLY_SHIPPED, SHIPPED
from collectives.operation import CollectiveCase, World
from collectives.registry import ALGORITHMS

MOST_BYTES = 1 << 20
MOST_CHARACTERS, MOST_TITLE = 300, 60  # of an error message, of a title
DEVICES = "cpu", "cuda", "hip"
# What the items of a tuple are chosen from.
KNOWN: dict[str, tuple[str, ...]] = {
    "collectives": (*COLLECTIVES, "allreduce_rmsnorm", "gemv_allreduce"),
    "datatypes": tuple(DATATYPES),
    "redops": REDOPS,
    "devices": DEVICES,
}


@dataclass(frozen=True)
class Contender:
    """What a file declares; each field is a constant there, in capitals.

    `multiple`: a segment has a multiple of so many bytes, and is not empty. `one_host`: it takes
    several ranks of one host. `shares_gpus`: it also runs where ranks share a GPU. `variants`:
    `case.variant` is each of these in turn. `distribution`: the package that it needs, with the
    version whose interface it calls: `vllm==0.33.0`; `install` says how, unless pip can.
    `unverified`: nobody has run it yet."""

    title: str
    collectives: tuple[str, ...] = ("all_reduce",)
    datatypes: tuple[str, ...] = KNOWN["datatypes"]
    redops: tuple[str, ...] = ("sum",)
    devices: tuple[str, ...] = DEVICES
    in_place: bool = False
    multiple: int = 0
    one_host: bool = False
    shares_gpus: bool = False
    variants: tuple[str, ...] = ()
    distribution: str = ""
    install: str = ""
    unverified: bool = False


@dataclass(frozen=True)
class ContenderFile(importlib.abc.SourceLoader):
    """A file that declares a Contender; `name` is its algorithm's. It loads its own module: the
    bytes that the digest is of, since a compiled file beside them may be older."""

    path: Path
    source: bytes
    contender: Contender

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def is_shipped(self) -> bool:
        return self.path.parent == SHIPPED

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.source).hexdigest()[:7]

    @property
    def version(self) -> str:
        """Of the distribution that it needs; "" if that is not installed, or it needs none."""
        with suppress(importlib.metadata.PackageNotFoundError, ValueError):  # "" is no name
            return importlib.metadata.version(self.contender.distribution.partition("==")[0])
        return ""

    @property
    def identity(self) -> str:
        """The title with the versions that its times depend on: `vLLM 0.33.0`, `mine 1a2b3c4`."""
        digest = "" if self.is_shipped else self.digest
        return " ".join(filter(None, (self.contender.title, self.version, digest)))

    def reason_against_world(self, world: World, versions: list[str]) -> str | None:
        """Why it cannot run between these ranks, which have these versions."""
        contender, device, ranks = self.contender, world.device, world.communicator
        if device.name not in contender.devices:
            devices = " and ".join(contender.devices)
            return f"{contender.title} runs on {devices}, not on {device.name}"
        package = contender.distribution.partition("==")[0]
        if package and not all(versions):
            install = contender.install or f"pip install {package}"
            return f"{contender.title} is not installed: {install}"
        if len(set(versions)) > 1:
            return f"ranks have {contender.title} {' and '.join(sorted(set(versions)))}"
        if contender.one_host and (ranks.size == 1 or ranks.hosts > 1):
            return f"{contender.title} takes part in runs of several ranks on one host"
        wants_own = device.sharers > 1 and not contender.shares_gpus
        return f"{contender.title} needs one GPU a rank" if wants_own else None

    def reason_against(self, case: CollectiveCase) -> str | None:
        """Why it does not suit this case."""
        contender = self.contender
        if case.collective.name not in contender.collectives:
            return f"{contender.title} has no {case.collective.name}"
        if case.datatype.name not in contender.datatypes:
            verb = "reduce" if case.collective.reduces else "move"
            return f"{contender.title} does not {verb} {case.datatype.name}"
        if case.collective.reduces and case.redop not in contender.redops:
            return f"{contender.title} has no {case.redop}"
        if case.in_place and not contender.in_place:
            return f"{contender.title} has no in-place form"
        if contender.multiple and (
            not case.segment_bytes or case.segment_bytes % contender.multiple
        ):
            return f"{contender.title} takes whole vectors of {contender.multiple} B, at least one"
        return None

    def load(self) -> ModuleType:
        """Runs the file. Raises Mistake if a user's file raises, or has no function `bind`, and
        whatever a shipped file raises."""
        faulthandler.enable(2, all_threads=False)  # a launcher does not say which file crashed
        if not self.is_shipped:
            sys.path.append(str(self.path.parent))  # last: what lies beside it hides no package
        name = f"wiretax_contender_{self.name}"
        module = sys.modules[name] = ModuleType(name)
        try:
            self.exec_module(module)
        except (Exception, SystemExit) as error:
            if self.is_shipped:
                raise
            raise Mistake(self.sentence_about(error)) from error
        if not callable(getattr(module, "bind", None)):
            raise Mistake(f"--contender {self.path.name} has no function bind(case)")
        return module

    def get_filename(self, fullname: str) -> str:
        return str(self.path)

    def get_data(self, path: str | bytes) -> bytes:
        return self.source

    def sentence_about(self, error: BaseException) -> str:
        """One sentence about an error, without paths: with its line in this file, or with the
        version of a shipped file's project."""
        text = re.sub(r"(?<!\w)/\S+", "<path>", " ".join(str(error).split()))[:MOST_CHARACTERS]
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
        if self.is_shipped:
            _, _, written_for = self.contender.distribution.partition("==")
            is_other = written_for and self.version.partition("+")[0] != written_for
            note = f" (called here as {written_for} is)" if is_other else ""
            return f"{self.identity} fails: {text}{note}"
        trace, line = error.__traceback__, ""
        while trace:
            if trace.tb_frame.f_code.co_filename == str(self.path):
                line = f", line {trace.tb_lineno}"
            trace = trace.tb_next
        return f"--contender {self.path.name}{line}: {text}"


def read(name: str) -> ContenderFile:
    """The file of this path, or the shipped one of this name, not yet run. Raises Mistake."""
    path = Path(name) if name.endswith(".py") else SHIPPED / f"{name}.py"
    if path.parent.resolve() == FORMERLY_SHIPPED and not os.path.exists(path):
        path = SHIPPED / path.name
    source = read_source(f"--contender {name}", path)
    try:
        tree = ast.parse(source, str(path))
    except (SyntaxError, ValueError) as error:
        number = getattr(error, "lineno", None)  # null bytes have none
        line = f", line {number}" if number else ""
        raise Mistake(f"--contender {name}{line}: {getattr(error, 'msg', error)}") from error
    return ContenderFile(path.resolve(), source, declared(tree, path))


def read_source(option: str, path: Path) -> bytes:
    """The bytes of a file whose name can be that of an algorithm. Raises Mistake."""
    try:
        if not path.is_file():
            raise Mistake(f"{option}: there is no such file")
        with path.open("rb") as file:
            source = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise Mistake(f"{option} cannot be read: {error.strerror}") from error
    if len(source) > MOST_BYTES:
        raise Mistake(f"{option}: the file has more than {MOST_BYTES >> 20} MiB")
    if not re.fullmatch(r"[A-Za-z_]\w*", path.stem) or path.stem.endswith("library"):
        raise Mistake(
            f"{option}: the file's name, without {path.suffix}, names its algorithm: letters, "
            "digits and _, and no library at its end"
        )
    if any(path.stem in known for known in ALGORITHMS.values()):
        raise Mistake(f"{option}: {path.stem} is an algorithm of ours: give the file another name")
    return source


def declared(tree: ast.Module, path: Path) -> Contender:
    """The constants of a file. Raises Mistake for a value of another type, or an unknown one."""
    defaults = vars(Contender(path.stem))
    values = dict[str, Any](title=path.stem)
    for node in tree.body:
        if not isinstance(node, ast.Assign):
            continue
        for target in node.targets:
            constant = getattr(target, "id", "")
            name = constant.lower()
            if not constant.isupper() or name not in defaults:
                continue
            kind = type(defaults[name])
            try:
                value = ast.literal_eval(node.value)
            except (ValueError, TypeError):  # TypeError: a set of lists
                value = None
            value = (value,) if kind is tuple and isinstance(value, str) else value
            if type(value) is not kind:
                raise Mistake(
                    f"--contender {path.name}, line {node.lineno}: {constant} is not a constant "
                    f"of type {kind.__name__}"
                )
            allowed = KNOWN.get(name)
            if allowed and (unknown := [item for item in value if item not in allowed]):
                raise Mistake(
                    f"--contender {path.name}, line {node.lineno}: unknown {unknown[0]!r} in "
                    f"{constant}: choose from {', '.join(allowed)}"
                )
            values[name] = value
    if not 0 < len(values["title"]) <= MOST_TITLE or not values["title"].isprintable():
        raise Mistake(f"--contender {path.name}: TITLE is not one short line of text")
    return Contender(**values)
