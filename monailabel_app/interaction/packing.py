"""Arrays as nnInteractive's clients send and take them.

    "NNIA", then one byte each: version 1, codec, number of axes, length of the type's name
    the type's name, as numpy has it; the length of each axis (int64); the number of chunks (uint32)
    for each chunk: its bytes unpacked and packed (uint64 each), and what blosc2 packed

All numbers are little-endian. What is declared is checked before anything is unpacked, so that a short message takes no
more memory than its receiver allows.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import blosc2
import numpy as np

from monailabel_app.errors import RequestError

MAGIC, VERSION = b"NNIA", 1
CODECS = {1: blosc2.Codec.ZSTD, 2: blosc2.Codec.LZ4}
OUR_CODEC = 1
TYPES = (
    "bool",
    *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)),
    *("float16", "float32"),
    "float64",
)
CHUNK_BYTES = 2**30  # unpacked: blosc2 takes less than 2 GiB at once
LEAST_BYTES = 2**20  # unpacked, of all chunks but the last: a million tiny ones would take minutes
BLOSC_HEADER = 32  # bytes; the most, too, by which a chunk is longer than what it packs
MARKED = 2**20  # numbers of a mask that are looked at together


@dataclass(frozen=True)
class Declared:
    """What a packed array says that it holds."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def stored(self) -> np.dtype:
        """The type of its bytes, which may be any in a message."""
        return np.dtype(np.uint8) if self.dtype == bool else self.dtype

    def __str__(self) -> str:
        return f"{self.dtype.name} of shape {list(self.shape[:8])}"


def pack(array: np.ndarray) -> bytes:
    """The message for an array of one of `TYPES`."""
    array = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    name = array.dtype.name.encode()
    voxels = array.reshape(-1).view(np.uint8)
    starts = range(0, len(voxels), CHUNK_BYTES)
    parts = [
        struct.pack("<4s4B", MAGIC, VERSION, OUR_CODEC, array.ndim, len(name)),
        name,
        struct.pack(f"<{array.ndim}qI", *array.shape, len(starts)),
    ]
    for start in starts:
        chunk = voxels[start : start + CHUNK_BYTES]
        packed = blosc2.compress2(
            chunk,
            codec=CODECS[OUR_CODEC],
            clevel=1,
            typesize=array.dtype.itemsize,
            filters=[blosc2.Filter.NOFILTER],  # masks pack best without
        )
        parts += [struct.pack("<QQ", len(chunk), len(packed)), packed]
    return b"".join(parts)


def unpack(file: BinaryIO, check: Callable[[Declared], None]) -> np.ndarray:
    """The array of a message.

    Args:
        file: holds the message, and nothing behind it.
        check: raises where the array must not be what it declares to be; it is called before memory is taken for it.

    Raises:
        RequestError: 400, not such a message, or one that is cut off or damaged; as `check`.
    """
    declared = _read_declared(file)
    check(declared)
    array = np.zeros(declared.shape, declared.stored)  # a damaged chunk may leave parts out
    rest = array.reshape(-1).view(np.uint8)
    for length, packed in _read_lengths(file, declared):
        _unpack_chunk(_read_bytes(file, packed), rest[:length])
        rest = rest[length:]
    return array.astype(bool) if declared.dtype == bool else array


def unpack_mask(file: BinaryIO, check: Callable[[Declared], None]) -> np.ndarray:
    """Where the array of a message is not 0: beside the mask, one chunk at a time is in memory.

    Args:
        file: as above.
        check: as above; it lets whole numbers and bool through, and no others.

    Raises:
        RequestError: as above; 400, beside 0 there are several values.
    """
    declared = _read_declared(file)
    check(declared)
    mask = np.zeros(declared.shape, bool)
    rest, values = mask.reshape(-1), set[int]()
    for length, packed in _read_lengths(file, declared):
        chunk = np.zeros(length, np.uint8)  # as above
        _unpack_chunk(_read_bytes(file, packed), chunk)
        values |= _mark(chunk.view(declared.stored), rest)
        rest = rest[length // declared.stored.itemsize :]
        if len(values) > 1:
            raise RequestError(400, "the mask holds several values, expected 0 and one other")
    return mask


def _mark(numbers: np.ndarray, mask: np.ndarray) -> set[int]:
    """Set a mask, which is False, where numbers are not 0; the lowest and the highest of these."""
    ends: set[int] = set()
    for start in range(0, len(numbers), MARKED):
        piece = numbers[start : start + MARKED]
        inside = piece != 0
        if inside.any():
            mask[start : start + len(piece)] = inside
            ends |= {int(piece[inside].min()), int(piece[inside].max())}
    return ends


def _read_lengths(file: BinaryIO, declared: Declared) -> Iterator[tuple[int, int]]:
    """The bytes of each chunk, unpacked and packed; who asks has read the chunk before the next ones are told."""
    (chunks,) = _read(file, "<I")
    if chunks > 1 + declared.nbytes // LEAST_BYTES:
        raise _refused(f"has {chunks} chunks for {declared.nbytes} bytes")
    position = 0
    for _ in range(chunks):
        length, packed = _read(file, "<QQ")
        if not 0 < length <= min(CHUNK_BYTES, declared.nbytes - position) or length % declared.dtype.itemsize:
            raise _refused(f"has a chunk of {length} bytes after {position} of {declared.nbytes}")
        if not BLOSC_HEADER <= packed <= length + BLOSC_HEADER:
            raise _refused(f"has a chunk of {length} bytes packed into {packed}")
        yield length, packed
        position += length
    if position != declared.nbytes or file.read(1):
        raise _refused(f"declares {declared} and holds {'more' if position == declared.nbytes else position} bytes")


def _unpack_chunk(packed: bytes, target: np.ndarray) -> None:
    unpacked, length, _ = blosc2.get_cbuffer_sizes(packed)
    if (unpacked, length) != (len(target), len(packed)):
        raise _refused(f"has a chunk whose own header tells {unpacked} bytes in {length}")
    try:
        blosc2.decompress2(packed, dst=target)
    except (ValueError, RuntimeError) as error:
        raise _refused("has a damaged chunk") from error


def _read_declared(file: BinaryIO) -> Declared:
    magic, version, codec, axes, name_length = _read(file, "<4s4B")
    if (magic, version) != (MAGIC, VERSION) or codec not in CODECS:
        raise _refused(f"begins with {magic!r}, version {version}, codec {codec}, expected {MAGIC!r}, 1 and 1 or 2")
    name = _read_bytes(file, name_length)
    if name not in (known.encode() for known in TYPES):
        raise _refused(f"has the type {name[:20]!r}, expected one of {', '.join(TYPES)}")
    shape = _read(file, f"<{axes}q")
    if not shape or min(shape) < 1:
        raise _refused(f"has the shape {list(shape)[:8]}, expected axes of one voxel or more")
    return Declared(shape, np.dtype(name.decode()))


def _read(file: BinaryIO, layout: str) -> tuple:
    return struct.unpack(layout, _read_bytes(file, struct.calcsize(layout)))


def _read_bytes(file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) < count:
        raise _refused("is cut off")
    return data


def _refused(problem: str) -> RequestError:
    return RequestError(400, f"the packed array {problem}")
