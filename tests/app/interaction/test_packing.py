"""Arrays on the wire: those of nnInteractive's own client, and what is no such array."""

import io
import struct
import tracemalloc

import blosc2
import numpy as np
import pytest
from nnInteractive.inference.remote import serialization
from nnInteractive.inference.remote.serialization import pack_array, unpack_array

from monailabel_app.errors import RequestError
from monailabel_app.interaction import packing
from monailabel_app.interaction.packing import TYPES, Declared, pack, unpack, unpack_mask

QUOTA = 2**16  # bytes


def check(declared: Declared) -> None:
    if declared.nbytes > QUOTA:
        raise RequestError(413, f"the array is {declared}: too large")


def message(shape=(4, 4), dtype=b"uint8", chunks=None, codec=1, magic=b"NNIA", version=1) -> bytes:
    """With the chunks of zeros that the shape needs, unless some are given: (bytes unpacked, packed, content)."""
    count = int(np.prod(shape))
    if chunks is None:
        packed = blosc2.compress2(bytes(count), typesize=1)
        chunks = [(count, len(packed), packed)]
    parts = [struct.pack("<4s4B", magic, version, codec, len(shape), len(dtype)), dtype]
    parts.append(struct.pack(f"<{len(shape)}qI", *shape, len(chunks)))
    return b"".join([*parts, *(struct.pack("<QQ", length, size) + content for length, size, content in chunks)])


@pytest.mark.parametrize("dtype", [*TYPES, ">i2"])
def test_round_trips(dtype, monkeypatch):
    monkeypatch.setattr(packing, "CHUNK_BYTES", 2**15)
    monkeypatch.setattr(packing, "LEAST_BYTES", 2**14)
    monkeypatch.setattr(serialization, "_CHUNK_SIZE", 2**15)
    rng = np.random.default_rng(0)
    for shape in [(1,), (2, 3, 4), (1, 7, 1, 9), (1, 40, 40, 40)]:
        array = (rng.random(shape) * 300 - 100).astype(dtype)
        for packed in (pack(array), pack_array(array)):
            ours, theirs = unpack(io.BytesIO(packed), lambda declared: None), unpack_array(packed)
            assert ours.dtype == theirs.dtype == array.dtype.newbyteorder("<")
            np.testing.assert_array_equal(ours, array)
            np.testing.assert_array_equal(theirs, array)


@pytest.mark.parametrize("dtype", [name for name in TYPES if "float" not in name])
def test_masks(dtype, monkeypatch):
    monkeypatch.setattr(packing, "CHUNK_BYTES", 2**12)
    monkeypatch.setattr(packing, "LEAST_BYTES", 2**11)
    monkeypatch.setattr(packing, "MARKED", 1000)
    monkeypatch.setattr(serialization, "_CHUNK_SIZE", 2**12)
    inside = np.random.default_rng(0).random((20, 30, 40)) < 0.3
    for array in (inside, ~np.zeros_like(inside), np.zeros_like(inside)):
        numbers = (array * 100).astype(dtype)
        for packed in (pack(numbers), pack_array(numbers)):
            mask = unpack_mask(io.BytesIO(packed), lambda declared: None)
            assert mask.dtype == bool
            np.testing.assert_array_equal(mask, array)


@pytest.mark.parametrize("at", [1, -1])
def test_masks_of_several_values(at, monkeypatch):
    monkeypatch.setattr(packing, "CHUNK_BYTES", 2**12)
    monkeypatch.setattr(packing, "LEAST_BYTES", 2**11)
    numbers = np.zeros(10_000, np.int16)
    numbers[0], numbers[at] = 1, -1
    with pytest.raises(RequestError, match="several values"):
        unpack_mask(io.BytesIO(pack(numbers)), lambda declared: None)


def test_a_mask_of_large_numbers_takes_little_memory(monkeypatch):
    monkeypatch.setattr(packing, "CHUNK_BYTES", 2**16)
    monkeypatch.setattr(packing, "LEAST_BYTES", 2**15)
    numbers = np.ones((64, 64, 64), np.int64)
    file = io.BytesIO(pack(numbers))
    tracemalloc.start()
    assert unpack_mask(file, lambda declared: None).all()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < numbers.nbytes / 3


def test_arrays_that_do_not_lie_together():
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4).transpose(2, 0, 1)[::2]
    np.testing.assert_array_equal(unpack_array(pack(array)), array)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is cut off"),
        (b"NNI", "is cut off"),
        (message(magic=b"PK\3\4"), "begins with"),
        (message(version=2), "version 2"),
        (message(codec=3), "codec 3"),
        (message(dtype=b"object"), "has the type b'object'"),
        (message(dtype=b"U999999999"), "has the type"),
        (message(shape=()), "has the shape []"),
        (message(shape=(0, 4)), "has the shape [0, 4]"),
        (message(shape=(-1, -16)), "has the shape [-1, -16]"),
        (message(shape=(2**40, 2**40)), "too large"),
        (message(shape=(2**62, 2**62, 2**62)), "too large"),
        (message(shape=(256, 257)), "too large"),
        (message(chunks=[]), "holds 0 bytes"),
        (message() + b"x", "holds more bytes"),
        (message()[:-1], "is cut off"),
        (message(chunks=[(16, 2**40, b"")]), "packed into"),
        (message(chunks=[(2**40, 32, bytes(32))]), "has a chunk of"),
        (message(chunks=[(0, 32, bytes(32))]), "has a chunk of 0 bytes"),
        (message(chunks=[(16, 32, bytes(32))]), "own header"),
        (message(chunks=[(16, 16, bytes(16))]), "packed into 16"),
        (message(chunks=[(1, 33, blosc2.compress2(b"x", typesize=1))] * 16), "has 16 chunks"),
        (message(shape=(3,), dtype=b"int32", chunks=[(6, 32, bytes(32))] * 1), "has a chunk of 6 bytes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_array(content, told):
    with pytest.raises(RequestError) as raised:
        unpack(io.BytesIO(content), check)
    assert told in raised.value.message and "\n" not in raised.value.message


def test_nothing_is_taken_for_what_is_refused():
    tracemalloc.start()
    with pytest.raises(RequestError):
        unpack(io.BytesIO(message(shape=(1, 4000, 4000, 4000), dtype=b"float64", chunks=[])), check)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < QUOTA


@pytest.mark.parametrize("seed", range(4))
def test_damaged_arrays(seed):
    """Whatever comes: an array as declared, or a refusal in one line, and no more memory than the quota."""
    rng = np.random.default_rng(seed)
    arrays = [(rng.random((20, 30, 40)) > p).astype(t) for p, t in ((0.9, "uint8"), (0.5, "int16"), (2, "bool"))]
    whole = [packed for array in arrays for packed in (pack(array), pack_array(array))]
    read = 0
    tracemalloc.start()
    for turn in range(1500):
        damaged = bytearray(whole[turn % len(whole)])
        for _ in range(rng.integers(1, 5)):
            damaged[rng.integers(min(rng.choice([40, 90, 10**6]), len(damaged)))] = rng.integers(256)
        if turn % 4 == 0:
            del damaged[rng.integers(len(damaged)) :]
        try:
            array = unpack(io.BytesIO(bytes(damaged)), check)
        except RequestError as error:
            assert error.status in (400, 413) and "\n" not in error.message
        else:
            read += 1
            assert array.nbytes <= QUOTA and np.isin(array.view(np.uint8), (0, 1)).all() or array.dtype != bool
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert read and peak < 8 * QUOTA  # what errors hold on to, too
