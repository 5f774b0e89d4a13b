"""The message of a call and its group, as torch notes them in a trace. A size is as of nccl-tests:
all ranks' segments together."""

import math
import re
from typing import Annotated, Any, NamedTuple

import msgspec

from wiretax.common.untrusted import MOST_LETTERS, printable

MOST_EXACT = 1 << 53  # in a float64
Count = Annotated[int, msgspec.Meta(ge=0, le=MOST_EXACT)]
# As torch names types, but for `c10::` and capitals; all of `float8` have a byte.
ELEMENT_BYTES = {
    "double": 8,
    "long": 8,
    "long int": 8,
    "float": 4,
    "int": 4,
    "bfloat16": 2,
    "half": 2,
    "short": 2,
    "char": 1,
    "signed char": 1,
    "byte": 1,
    "unsigned char": 1,
    "bool": 1,
}
# Operators whose first tensor is the whole message. Of a gather only the result is, and ranks may
# give each other parts of different sizes in an all-to-all.
GIVEN_WHOLE = re.compile(r"all_?reduce|reduce_?scatter|broadcast|\b(reduce|scatter|send|recv)\b")


class CallArgs(msgspec.Struct):
    """What torch >= 2.2 writes to a kernel of NCCL (appendCollectiveArgs of Kineto), and the shapes
    that an operator has in a profile with `record_shapes`."""

    collective: str = msgspec.field(name="Collective name", default="")
    n_in: Count = msgspec.field(name="In msg nelems", default=0)
    n_out: Count = msgspec.field(name="Out msg nelems", default=0)
    dtype: str = ""
    group: str = msgspec.field(name="Process Group Name", default="")
    shapes: list[Any] = msgspec.field(name="Input Dims", default_factory=list)
    types: list[str] = msgspec.field(name="Input type", default_factory=list)


class Message(NamedTuple):
    """0 and empty where the trace does not say."""

    size_bytes: int = 0
    group: str = ""


def message_of_kernel(args: CallArgs) -> Message:
    """If another rank gives or gets more in an all-to-all, this one's trace has no size."""
    is_uneven = args.n_in != args.n_out or args.collective == "all_to_allv"
    n_elements = max(args.n_in, args.n_out)
    if is_uneven and args.collective.startswith("all_to_all"):
        n_elements = 0
    return Message(min(n_elements * element_bytes(args.dtype), MOST_EXACT), cut(args.group))


def message_of_operator(name: str, args: CallArgs) -> Message:
    """From shapes, such as those of `_C_custom_ar::all_reduce`."""
    if not GIVEN_WHOLE.search(name):
        return Message()
    for shape, dtype in zip(args.shapes, args.types, strict=False):
        size = element_bytes(dtype)
        if size and isinstance(shape, list) and all(type(n) is int and n >= 0 for n in shape):
            return Message(min(size * math.prod(shape), MOST_EXACT))
    return Message()


def element_bytes(dtype: str) -> int:
    """0 for an unknown type."""
    name = dtype.removeprefix("c10::").lower()
    return 1 if name.startswith("float8") else ELEMENT_BYTES.get(name, 0)


def cut(text: str) -> str:
    return printable(text[:MOST_LETTERS])
