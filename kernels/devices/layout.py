"""Structures that Python and C++ share: declared in both, and compared at each compilation."""

import ctypes
from collections.abc import Collection
from ctypes import c_double, c_long, c_uint8, c_uint64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

SOURCES = Path(__file__).parents[1]  # kernels/


class Shared(ctypes.Structure):
    """A structure that C++ declares in `file`, a path below kernels/, with the same name and the
    same fields in the same order; C++'s `in` is `in_`. A new one has zeros in all fields that get
    no value. Raises AttributeError for a name that is no field. `kept`: references that keep the
    memory behind its pointers alive."""

    file: ClassVar[Path]
    kept: tuple[object, ...] = ()

    def __init_subclass__(cls, file: str) -> None:
        super().__init_subclass__()
        cls.file = (SOURCES / file).resolve()

    def __setattr__(self, name: str, value: Any) -> None:
        if not hasattr(type(self), name):
            raise AttributeError(f"{type(self).__name__} of {self.file.name} has no field {name}")
        super().__setattr__(name, value)

    def keep(self, *references: object) -> None:
        """Keeps these too as long as the structure lives."""
        self.kept = (*self.kept, *references)


# The types of fields in C++. A C++ pointer of any type is a void pointer in Python.
TYPES: dict[Any, str] = {
    c_void_p: "void*",
    c_long: "long",
    c_uint64: "unsigned long long",
    c_uint8: "unsigned char",
    c_double: "double",
}

# Plain<T>::type is T with void pointers in place of all pointers; PeerPointers of sync.h are an
# array. NVRTC has no offsetof, and __builtin_offsetof only from 13.5 on; its front end makes
# offsetof of __INTADDR__. Templates, not type traits: no compiler at run time has <type_traits>.
COMPARISON = """
namespace layout {
template <class T>
struct Plain {
  typedef T type;
};
template <class T>
struct Plain<T*> {
  typedef void* type;
};
template <class T, unsigned long COUNT>
struct Plain<T[COUNT]> {
  typedef typename Plain<T>::type type[COUNT];
};
template <template <class> class Pointers, class T>
struct Plain<Pointers<T>> : Plain<decltype(Pointers<T>::of_rank)> {};

template <class A, class B>
struct Same {
  static constexpr bool value = false;
};
template <class A>
struct Same<A, A> {
  static constexpr bool value = true;
};
}  // namespace layout
#ifdef __CUDACC_RTC__
#define OFFSET_OF(structure, field) __INTADDR__(&((structure*)0)->field)
#else
#define OFFSET_OF(structure, field) __builtin_offsetof(structure, field)
#endif
#define HAS_TYPE(structure, field, ...) \\
  layout::Same<layout::Plain<decltype(structure::field)>::type, __VA_ARGS__>::value
"""


def type_in_cpp(kind: Any) -> str:
    """The text of a field's type in C++, such as `Line[128][8]` of `Line * 8 * 128`."""
    lengths = ""
    while issubclass(kind, ctypes.Array):
        lengths += f"[{kind._length_}]"
        kind = kind._type_
    name: str = kind.__name__ if issubclass(kind, Shared) else TYPES[kind]
    return name + lengths


@cache
def comparisons(structure: type[Shared]) -> str:
    """C++ that does not compile unless the structure has these fields, each with this type and at
    this place, no others, and no padding, where another would find room. If C++ lacks a name, the
    sentence is the compiler's."""
    name, total_bytes, lines = structure.__name__, 0, list[str]()
    for field, kind, *_ in structure._fields_:
        in_cpp, offset = field.rstrip("_"), getattr(structure, field).offset
        lines.append(
            f"static_assert(OFFSET_OF({name}, {in_cpp}) == {offset}, "
            f'"{name}.{in_cpp} is at byte {offset} in Python and not in C++");'
        )
        kind_in_cpp = type_in_cpp(kind)
        lines.append(
            f"static_assert(HAS_TYPE({name}, {in_cpp}, {kind_in_cpp}), "
            f'"{name}.{in_cpp} is {kind_in_cpp} in Python and not in C++");'
        )
        total_bytes += ctypes.sizeof(kind)
    lines.append(
        f"static_assert(sizeof({name}) == {total_bytes}, "
        f'"the fields of {name} have {total_bytes} bytes in Python and not in C++");'
    )
    return "\n".join(lines) + "\n"


def layout_checks(files: Collection[Path]) -> str:
    """C++ text that compares with Python's the structures that these files declare."""
    texts = [comparisons(each) for each in Shared.__subclasses__() if each.file in files]
    return COMPARISON + "".join(texts) if texts else ""
