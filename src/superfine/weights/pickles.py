"""Pickles of strangers -> containers, numbers and arrays; nothing of theirs is imported or called.

A pickle is a program. The machine here runs its stack and its containers, and
knows by name only what builds tensors and arrays. Whatever else it names stays
a name; objects of classes that aren't here become a `Stub` that holds their
state; a call of anything else ends the reading. Python's own unpickler is not
used: it calls what it was given, and takes memory on the word of the file.

Sources: Python's pickletools (the opcodes, taken apart one by one with every
length checked), torch/serialization.py (both layouts of a checkpoint).
"""

import io
import math
import pickletools
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, NoReturn

import numpy as np
import numpy.typing as npt

from superfine.errors import ModelError

__all__ = ["Name", "Stub", "named_arrays", "read_array_pickle", "read_torch"]

Array = npt.NDArray[np.generic]

_MOST_STEPS: Final = 500_000
_MOST_PARTS: Final = 100_000
_MOST_TIMES_UNPACKED: Final = 20  # weights hardly pack; a bomb unpacks to a thousand times its size
_DEEPEST: Final = 64
_MAGIC: Final = 0x1950A86A20F9469CFC6C  # begins torch's legacy layout
_SAFER: Final = "ask its maker for a .safetensors file"
_DAMAGE: Final = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    Warning,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True)
class Name:
    """A class or function that a pickle names, as module.name; never looked up."""

    text: str


@dataclass(eq=False)
class Stub:
    """An object whose class isn't here: its class's name and what the file says of it. It does nothing."""

    name: str
    arguments: tuple[Any, ...] = field(default=(), repr=False)
    state: Any = field(default=None, repr=False)
    items: dict[Any, Any] = field(default_factory=dict, repr=False)


def read_torch(content: bytes, source: str) -> Any:
    """What `torch.save` wrote, in its zip or its legacy layout, from any device, of any class.

    Returns dicts, lists, tuples, sets, numbers, strings, arrays (bfloat16 as
    float32, everything else in its own dtype; views of one storage share
    memory), `Stub` for objects of classes and `Name` for classes. A dict's
    entries under tensors, as optimisers keep them, are left out.

    Raises ModelError where the file calls anything, is damaged, unpacks to more
    than 20 times its size, or holds quantised or other tensors unknown here.
    """
    try:
        return (_read_zip if content[:4] == b"PK\x03\x04" else _read_legacy)(content, source)
    except _DAMAGE as error:
        raise ModelError(f"{source}: its pickle is damaged or cut off ({_reason(error)}); fetch it again") from error


def read_array_pickle(content: bytes, source: str) -> Any:
    """A pickle of containers, numbers, strings and NumPy arrays, and no more.

    Raises ModelError where it names anything else, or is damaged.
    """

    def refuse(name: Name, _: tuple[Any, ...]) -> NoReturn:
        raise ModelError(f"{source}: holds an object of {_shown(name.text)} where only arrays belong; {_SAFER}")

    budget = _Budget(len(content))
    try:
        return _Machine(source, _array_calls(budget), refuse, _no_persistent).run(io.BytesIO(content))
    except _DAMAGE as error:
        raise ModelError(f"{source}: its pickle is damaged or cut off ({_reason(error)}); fetch it again") from error


def named_arrays(tree: Any, source: str) -> dict[str, Array]:
    """The arrays of a tree under dotted names, modules' as torch's `state_dict` would name them.

    Raises ModelError where the tree is nested without end.
    """
    found: dict[str, Array] = {}
    visits = 0

    def walk(node: Any, name: str, depth: int) -> None:
        nonlocal visits
        visits += 1
        if visits > _MOST_PARTS or depth > _DEEPEST or len(name) > 250:
            raise ModelError(f"{source}: its weights are nested without end; {_SAFER}")
        if isinstance(node, np.ndarray):
            found[name] = node
        else:
            for key, value in _children(node):
                walk(value, f"{name}.{key}" if name else key, depth + 1)

    walk(tree, "", 0)
    return found


def _children(node: Any) -> Iterator[tuple[str, Any]]:
    match node:
        case dict():
            yield from ((str(key), value) for key, value in node.items() if isinstance(key, str | int))
        case list() | tuple():
            yield from ((str(place), value) for place, value in enumerate(node))
        case Stub(state=dict(state)):
            passing = state.get("_non_persistent_buffers_set")
            for kind in ("_parameters", "_buffers", "_modules"):
                for key, value in _children(state.get(kind)):
                    if kind != "_buffers" or not isinstance(passing, set) or key not in passing:
                        yield key, value


# ---- the machine


class _Budget:
    """Bytes that a file of `size` may make in all: each part a few times, not a thousand times."""

    def __init__(self, size: int) -> None:
        self._left = 4 * size + 1_000_000

    def take(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise ValueError("it makes more than it holds")


Calls = dict[str, Callable[..., Any]]


class _Machine:
    """Runs pickles one after another.

    calls: what a pickle may call, by name. create: an object of a class, from
    its name and arguments. persistent: what stands for a persistent id.
    """

    def __init__(
        self,
        source: str,
        calls: Calls,
        create: Callable[[Name, tuple[Any, ...]], Any],
        persistent: Callable[[Any], Any],
    ) -> None:
        self._source = source
        self._calls = calls
        self._create = create
        self._persistent = persistent
        self._steps = 0

    def run(self, file: io.BytesIO) -> Any:
        """The object of the pickle that begins here; the file stands behind it then."""
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        for opcode, argument, _ in pickletools.genops(file):
            self._steps += 1
            if self._steps > _MOST_STEPS:
                raise ValueError(f"over {_MOST_STEPS:,} steps")
            self._step(opcode.name, argument)
        return self._stack.pop()

    def _step(self, opcode: str, argument: Any) -> None:  # noqa: PLR0912, PLR0915 - pickles have many opcodes
        stack = self._stack
        match opcode:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode])
            case "INT" | "BININT" | "BININT1" | "BININT2" | "LONG" | "LONG1" | "LONG4":
                if argument.bit_length() > 1024:
                    raise ValueError("a number of more than 1,024 bits")
                stack.append(argument)
            case "FLOAT" | "BINFLOAT" | "STRING" | "BINSTRING" | "SHORT_BINSTRING" | "BINBYTES" | "SHORT_BINBYTES":
                stack.append(argument)
            case "BINBYTES8" | "BYTEARRAY8" | "UNICODE" | "SHORT_BINUNICODE" | "BINUNICODE" | "BINUNICODE8":
                stack.append(argument)
            case "MARK":
                self._marked.append(stack)
                self._stack = []
            case "POP":
                if stack:
                    stack.pop()
                else:
                    self._items()
            case "POP_MARK":
                self._items()
            case "DUP":
                stack.append(stack[-1])
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(_filled(self._memo[argument]))
            case "EMPTY_LIST" | "EMPTY_DICT" | "EMPTY_SET" | "EMPTY_TUPLE":
                stack.append({"LIST": list, "DICT": dict, "SET": set, "TUPLE": tuple}[opcode[6:]]())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple([stack.pop() for _ in range(int(opcode[-1]))][::-1]))
            case "TUPLE":
                self._collect(tuple)
            case "LIST":
                self._collect(list)
            case "DICT":
                self._collect(_dict_of_flat)
            case "FROZENSET":
                self._collect(_set_of)
            case "APPEND":
                _put(stack[-2], [stack.pop()])
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _put(stack[-1], [key, value])
            case "APPENDS" | "SETITEMS" | "ADDITEMS":
                items = self._items()
                _put(self._stack[-1], items)
            case "GLOBAL":
                stack.append(_name(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                stack.append(_name(module, attribute))
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(self._call(function, arguments))
            case "NEWOBJ" | "NEWOBJ_EX":
                named = stack.pop() if opcode == "NEWOBJ_EX" else {}
                arguments, kind = stack.pop(), stack.pop()
                if not isinstance(kind, Name) or not isinstance(arguments, tuple) or named:
                    raise ValueError("an object of no class")
                stack.append({} if kind.text in _DICTS else self._create(kind, arguments))
            case "BUILD":
                state = stack.pop()
                stack[-1] = _built(stack[-1], state)
            case "PERSID" | "BINPERSID":
                stack.append(self._persistent(argument if opcode == "PERSID" else stack.pop()))
            case _:  # INST, OBJ: calls of Python 2; EXT, NEXT_BUFFER: things outside of the file
                raise ModelError(f"{self._source}: its pickle uses {opcode}, which no weights need: refused; {_SAFER}")

    def _items(self) -> list[Any]:
        """What lies above the last mark."""
        items = self._stack
        self._stack = self._marked.pop()
        return items

    def _collect(self, make: Callable[[list[Any]], Any]) -> None:
        items = self._items()
        self._stack.append(make(items))

    def _call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise ModelError(f"{self._source}: holds a pickle that calls what it made itself: refused; {_SAFER}")
        if function.text == "copyreg._reconstructor":
            kind = arguments[0]
            if not isinstance(kind, Name):
                raise ValueError("an object of no class")
            return self._create(kind, ())
        if function.text not in self._calls:
            raise ModelError(f"{self._source}: holds a pickle that calls {_shown(function.text)}: refused; {_SAFER}")
        return self._calls[function.text](*arguments)


_DICTS: Final = ("collections.OrderedDict", "collections.defaultdict", "collections.Counter")
_PYTHON_2: Final = {"__builtin__": "builtins", "copy_reg": "copyreg"}


def _name(module: Any, attribute: Any) -> Name:
    if not isinstance(module, str) or not isinstance(attribute, str) or len(module) + len(attribute) > 500:
        raise ValueError("a name that is none")
    return Name(f"{_PYTHON_2.get(module, module)}.{attribute}")


def _shown(text: str) -> str:
    """What a file says, short enough for a sentence and without what no one can read."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:100])


def _reason(error: BaseException) -> str:
    return _shown(str(error) or type(error).__name__)


def _put(holder: Any, items: list[Any]) -> None:
    match holder:
        case list():
            holder.extend(items)
        case set():
            holder.update(_set_of(items))
        case dict():
            holder.update(_dict_of_flat(items))
        case Stub():
            holder.items.update(_dict_of_flat(items))
        case _:
            raise ValueError(f"items for a {type(holder).__name__}")


def _dict_of_flat(items: list[Any]) -> dict[Any, Any]:
    if len(items) % 2:
        raise ValueError("a key without a value")
    return {_key(items[i]): items[i + 1] for i in range(0, len(items), 2) if not isinstance(items[i], np.ndarray)}


def _set_of(items: list[Any]) -> set[Any]:
    return {_key(item) for item in items}


def _key(key: Any) -> Any:
    """Hashing follows tuples down without end, so only flat ones may be keys."""
    plain = (str, int, float, bool, bytes, type(None), Name, Stub)
    if isinstance(key, plain) or (isinstance(key, tuple) and len(key) < 16 and all(isinstance(k, plain) for k in key)):
        return key
    raise ValueError(f"a {type(key).__name__} as a key")


def _no_persistent(_: Any) -> NoReturn:
    raise ValueError("a persistent id where none belongs")


# ---- what builds NumPy arrays


class _Dtype:
    """A dtype whose byte order comes after it."""

    def __init__(self, code: Any, *_: Any) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"f[248]|[iu][1248]|b1", code):
            raise ValueError("arrays of a dtype that is no plain number")
        self.final = np.dtype(code)

    def build(self, state: Any) -> None:
        _, order, *composed = state[:5]
        if not isinstance(order, str) or order not in "<>|=" or any(part is not None for part in composed):
            raise ValueError("arrays of a composed dtype")
        self.final = np.dtype(order + self.final.str[1:])


class _Blank:
    """An array that NumPy's pickles name first and fill then."""

    def __init__(self, budget: _Budget) -> None:
        self._budget = budget
        self.array: Array | None = None

    def build(self, state: Any) -> Array:
        _, shape, dtype, fortran, raw = state
        self.array = _array(raw, dtype, shape, "F" if fortran else "C", self._budget)
        return self.array


def _filled(entry: Any) -> Any:
    return entry.array if isinstance(entry, _Blank) and entry.array is not None else entry


def _built(target: Any, state: Any) -> Any:
    """`target` with its state; what a dict or a tensor carries beside its content isn't kept."""
    match target:
        case Stub():
            target.state = state
        case _Blank():
            return target.build(state)
        case _Dtype():
            target.build(state)
        case dict() | np.ndarray():
            pass
        case _:
            raise ValueError(f"a state for a {type(target).__name__}")
    return target


def _array(raw: Any, dtype: Any, shape: Any, order: Any, budget: _Budget) -> Array:
    """A view of bytes; shape and dtype have to account for each of them."""
    budget.take(len(raw) + 100)
    if isinstance(raw, str):  # Python 2's bytes
        raw = raw.encode("latin-1")
    if not isinstance(dtype, _Dtype) or order not in ("C", "F"):
        raise ValueError("an array of unknown kind")
    if math.prod(_lengths(shape)) * dtype.final.itemsize != len(raw):
        raise ValueError(f"an array of shape {str(shape)[:60]} in {len(raw)} bytes")
    return np.frombuffer(raw, dtype.final).reshape(shape, order=order)


def _lengths(lengths: Any) -> tuple[int, ...]:
    if not isinstance(lengths, tuple | list) or len(lengths) > 16:
        raise ValueError("a shape that is none")
    if any(type(length) is not int or not 0 <= length < 2**40 for length in lengths):
        raise ValueError("a shape that is none")
    return tuple(lengths)


def _array_calls(budget: _Budget) -> Calls:
    def counted(make: Callable[[Any], Any]) -> Callable[..., Any]:
        def call(given: Any = ()) -> Any:
            budget.take(64 * len(given))
            return make(given)

        return call

    def encoded(text: str, encoding: str = "latin1") -> bytes:
        if encoding not in ("latin1", "latin-1"):
            raise ValueError("bytes in an encoding that is not Latin-1")
        budget.take(len(text))
        return text.encode("latin-1")

    calls: Calls = {
        "_codecs.encode": encoded,
        "builtins.bytes": lambda: b"",  # how protocols before 3 write the empty one
        "builtins.set": counted(_set_of),
        "builtins.frozenset": counted(_set_of),
        "collections.OrderedDict": counted(_dict_of_pairs),
        "numpy.dtype": _Dtype,
    }
    for package in ("numpy.core", "numpy._core"):
        calls[f"{package}.multiarray._reconstruct"] = lambda *_: _Blank(budget)
        calls[f"{package}.multiarray.scalar"] = lambda dtype, raw: _array(raw, dtype, (), "C", budget).item()
        calls[f"{package}.numeric._frombuffer"] = partial(_array, budget=budget)
    return calls


def _dict_of_pairs(pairs: Any) -> dict[Any, Any]:
    if isinstance(pairs, dict):
        return dict(pairs)
    return _dict_of_flat([part for key, value in pairs for part in (key, value)])


# ---- what builds tensors


_STORAGES: Final = {
    "BFloat16Storage": "bfloat16",
    "BoolStorage": "?",
    "ByteStorage": "u1",
    "CharStorage": "i1",
    "DoubleStorage": "f8",
    "FloatStorage": "f4",
    "HalfStorage": "f2",
    "IntStorage": "i4",
    "LongStorage": "i8",
    "ShortStorage": "i2",
}


class _Storages:
    """The flat arrays that tensors are views of: made when a pickle names them, filled when their bytes are reached."""

    def __init__(self, source: str, most: int) -> None:
        self._source = source
        self._left = most
        self._found: dict[str, tuple[str, Array]] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def persistent(self, given: Any) -> Any:
        """What torch's persistent ids stand for: a storage, or a class with its source text, which isn't read."""
        match given:
            case ("module", Name() as kind, *_):
                return kind
            case ("storage", Name(text=kind), str() | int() as key, _, int(count), *view) if view in ([], [None]):
                return self._named(kind, str(key), count)
        raise ValueError("a persistent id that is no storage")

    def fill(self, key: str, raw: bytes | memoryview, order: str = "<") -> None:
        """Give a storage its bytes, of which it takes all."""
        code, array = self._found[key]
        values = np.frombuffer(raw, order + ("u2" if code == "bfloat16" else code))
        if values.size != array.size:
            raise ValueError(f"storage {key[:40]} has {values.size} values where {array.size} belong")
        if code == "bfloat16":  # the upper half of a float32
            array.view(np.uint32)[:] = values.astype(np.uint32) << 16
        elif code == "?":
            array[:] = values.view(np.uint8) != 0
        else:
            array[:] = values

    def size(self, key: str, count: int) -> int:
        """How many bytes `count` values of a storage take in the file."""
        code, _ = self._found[key]
        return count * (2 if code == "bfloat16" else np.dtype(code).itemsize)

    def _named(self, kind: str, key: str, count: int) -> Array:
        module, _, storage = kind.rpartition(".")
        if module not in ("torch", "torch.cuda") or storage not in _STORAGES:
            raise ModelError(
                f"{self._source}: holds a {_shown(kind)}, and only plain numbers of 8 to 64 bits are read; "
                "save it again in float32"
            )
        code = _STORAGES[storage]
        if key not in self._found:
            taken = count * (2 if code == "bfloat16" else np.dtype(code).itemsize)
            if not 0 <= taken <= self._left:
                raise ValueError(f"storage {key[:40]} of {count} values is larger than the file")
            self._left -= taken
            self._found[key] = (code, np.empty(count, "f4" if code == "bfloat16" else code))
        known, array = self._found[key]
        if (known, array.size) != (code, count):
            raise ValueError(f"storage {key[:40]} of two kinds")
        return array


def _torch_calls(budget: _Budget) -> Calls:
    def tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Array:
        if not isinstance(storage, np.ndarray) or storage.ndim != 1:
            raise ValueError("a tensor of no storage")
        (offset,), size, stride = _lengths((offset,)), _lengths(size), _lengths(stride)
        if len(size) != len(stride):
            raise ValueError("a tensor whose sizes and strides differ in number")
        last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
        if math.prod(size) > storage.size or (math.prod(size) and last >= storage.size):
            raise ValueError(f"a tensor of shape {size} in a storage of {storage.size} values")
        budget.take(math.prod(size) * storage.itemsize + 200)
        steps = tuple(step * storage.itemsize for step in stride)
        return np.lib.stride_tricks.as_strided(storage[min(offset, storage.size) :], size, steps)

    def parameter(data: Any, *_: Any) -> Any:
        return data

    def empty(*_: Any) -> dict[Any, Any]:
        return {}

    arrays = _array_calls(budget)
    return {
        **arrays,
        "collections.Counter": arrays["collections.OrderedDict"],
        "collections.defaultdict": empty,
        "torch.Size": parameter,
        "torch.device": parameter,
        "torch._utils._rebuild_parameter": parameter,
        "torch._utils._rebuild_parameter_with_state": parameter,
        "torch._utils._rebuild_tensor": tensor,
        "torch._utils._rebuild_tensor_v2": tensor,
        "torch.nn.backends.thnn._get_thnn_function_backend": empty,
        "torch.nn.parameter.Parameter": parameter,
    }


def _torch_machine(source: str, size: int, storages: _Storages) -> _Machine:
    return _Machine(
        source, _torch_calls(_Budget(size)), lambda name, given: Stub(name.text, given), storages.persistent
    )


def _read_zip(content: bytes, source: str) -> Any:
    if content.count(b"PK\x01\x02") > _MOST_PARTS:
        raise ModelError(f"{source}: a zip file of more than {_MOST_PARTS:,} parts; {_SAFER}")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        parts = {info.filename: info for info in archive.infolist()}
        total = sum(info.file_size for info in archive.infolist())
        if total > _MOST_TIMES_UNPACKED * len(content) + 1_000_000:
            raise ModelError(f"{source}: unpacks to {total:,} bytes, far more than weights do: refused; {_SAFER}")
        if len(parts) != len(archive.infolist()):
            raise ValueError("two parts of one name")
        roots = [name.removesuffix("data.pkl") for name in parts if re.fullmatch(r"[^/]*/data\.pkl", name)]
        if any(name.endswith("/constants.pkl") for name in parts):
            raise ModelError(f"{source}: is a TorchScript program, not a checkpoint; {_SAFER}")
        if len(roots) != 1:
            raise ModelError(f"{source}: is a zip file, but not one of torch.save; {_SAFER}")

        def part(name: str) -> bytes:
            with archive.open(parts[roots[0] + name]) as packed:
                raw = packed.read(parts[roots[0] + name].file_size)
                if len(raw) != parts[roots[0] + name].file_size or packed.read(1):
                    raise ValueError(f"part {name[:40]} has another size than it says")
                return raw

        storages = _Storages(source, total)
        tree = _torch_machine(source, total, storages).run(io.BytesIO(part("data.pkl")))
        big = roots[0] + "byteorder" in parts and part("byteorder") == b"big"
        for key in storages:
            storages.fill(key, part(f"data/{key}"), ">" if big else "<")
    return tree


def _read_legacy(content: bytes, source: str) -> Any:
    """Pickles of a magic number, a version, the machine's facts, the object, its storages' keys; then the storages."""
    file = io.BytesIO(content)
    storages = _Storages(source, len(content))
    machine = _torch_machine(source, len(content), storages)
    if content[257:262] == b"ustar":
        raise ModelError(f"{source}: is a tar archive, not a checkpoint of torch.save; unpack it first")
    if content[:1] != b"\x80" or machine.run(file) != _MAGIC:
        raise ModelError(f"{source}: was not made by torch.save; {_SAFER}")
    _, _, tree, keys = (machine.run(file) for _ in range(4))
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or sorted(keys) != sorted(storages):
        raise ValueError("its storages are not those that it lists")
    for key in keys:
        (count,) = struct.unpack("<q", file.read(8))
        if not 0 <= storages.size(key, count) <= len(content) - file.tell():
            raise ValueError(f"storage {key[:40]} is larger than the file")
        storages.fill(key, file.read(storages.size(key, count)))
    return tree
