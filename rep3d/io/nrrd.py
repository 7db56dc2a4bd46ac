"""NRRD files with their voxels inside: geometry, voxels and the fields of their headers.

Read by the rules of http://teem.sourceforge.net/nrrd/format.html without their liberties: NrrdIO, and so ITK, lets a
header name other files to read the voxels from, in more ways than one. Here no header makes anybody open a second file.
"""

from __future__ import annotations

import io
import math
import os
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rep3d.io.bounded import GzipReader, fill, open_regular
from rep3d.io.geometry import MAX_BYTES, Geometry, VolumeError, check_bytes, check_geometry, plain_geometry
from rep3d.io.itk import to_itk, write_itk

MAX_HEADER = 2**23  # bytes
MAGIC = re.compile(r"NRRD000[1-5]")
END = re.compile(rb"\n\r?\n")  # of the header: a blank line
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")  # no line of a header has these
NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
VECTOR = re.compile(rf"\( *({NUMBER}) *, *({NUMBER}) *, *({NUMBER}) *\)")
ESCAPES = {r"\n": "\n", r"\\": "\\"}
# The names of the types: those of C, and those with the number of bits.
TYPES = {
    "i1": "signed char,int8,int8_t",
    "u1": "uchar,unsigned char,uint8,uint8_t",
    "i2": "short,short int,signed short,signed short int,int16,int16_t",
    "u2": "ushort,unsigned short,unsigned short int,uint16,uint16_t",
    "i4": "int,signed int,int32,int32_t",
    "u4": "uint,unsigned int,uint32,uint32_t",
    "i8": "longlong,long long,long long int,signed long long,signed long long int,int64,int64_t",
    "u8": "ulonglong,unsigned long long,unsigned long long int,uint64,uint64_t",
    "f4": "float",
    "f8": "double",
}
DTYPES = {name: code for code, names in TYPES.items() for name in names.split(",")}
GZIP = ("gzip", "gz")
ENDIANS = {"little": "<", "big": ">"}
SPACES = {  # the signs by which their axes become RAS
    "left-posterior-superior": (-1, -1, 1),
    "lps": (-1, -1, 1),
    "right-anterior-superior": (1, 1, 1),
    "ras": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1),
    "las": (-1, 1, 1),
}
NO_SPACE = "the header does not tell where the scan lies (no space): left may be right"
NO_SPACINGS = "; nor how large its voxels are (no spacings): 1 mm is taken"
UNITS = ("mm", "millimeter", "millimetre", "")
SPATIAL = ("domain", "space", "none", "???")  # kinds of the axes of a volume
LAYERS = "list"  # the kind of an axis of several volumes
NEEDED = ("type", "dimension", "sizes", "encoding")
READ = (*NEEDED, "endian", "space", "spacedirections", "spaceorigin", "spacings", "kinds", "spaceunits", "units")
DISPLAYED = ("min", "max", "oldmin", "oldmax", "sampleunits", "content", "labels")
IGNORED = (*DISPLAYED, "centers", "centerings", "thicknesses", "measurementframe")
SKIPS = ("byteskip", "lineskip")  # what lies between header and voxels: nothing


@dataclass(frozen=True, eq=False)
class Header:
    """What the header of a NRRD file tells.

    Args:
        geometry: of one volume, with the voxels' type in memory.
        fields: key and value pairs, such as those of segments.
        dtype: of the voxels in the file.
        sizes: of the axes in the file, the fastest first.
        layer_axis: which of four axes counts volumes; None where there is one volume.
        is_gzip: whether the voxels are compressed.
        offset: bytes before the voxels.
    """

    geometry: Geometry
    fields: dict[str, str]
    dtype: np.dtype
    sizes: tuple[int, ...]
    layer_axis: int | None
    is_gzip: bool
    offset: int

    @property
    def layers(self) -> int:
        """How many volumes there are."""
        return 1 if self.layer_axis is None else self.sizes[self.layer_axis]

    @property
    def nbytes(self) -> int:
        """Of the voxels in the file, unpacked."""
        return math.prod(self.sizes) * self.dtype.itemsize


def read_header(path: Path, max_bytes: int = MAX_BYTES) -> Header:
    """What the header of a NRRD file tells; it may hold several volumes along an axis of the kind "list".

    Args:
        max_bytes: at most, of the voxels of all volumes in memory.

    Raises:
        VolumeError: no NRRD file with its voxels inside; a header that breaks the rules, or tells what is not known
            here; refused by `check_geometry`.
    """
    with open_regular(path) as file:
        content = file.read(MAX_HEADER)
    end = END.search(content)
    if not content.startswith(b"NRRD") or (end is None and len(content) < MAX_HEADER):
        raise VolumeError(path, "the file is no NRRD file with its voxels inside")
    if end is None:
        raise VolumeError(path, f"the header is longer than {MAX_HEADER} bytes")
    told, fields = _parse(path, content[: end.start()])
    header = _interpret(path, told, fields, end.end())
    check_geometry(path, header.geometry, max_bytes)
    check_bytes(path, f"{header.layers} volumes of {header.geometry.shape} voxels", header.nbytes, max_bytes)
    return header


def read_geometry(path: Path, max_bytes: int = MAX_BYTES) -> Geometry:
    """The geometry of a NRRD file that holds one volume, from its header.

    Args:
        max_bytes: at most, of the voxels in memory.

    Raises:
        VolumeError: as of `read_header`; or several volumes.
    """
    return _single(path, read_header(path, max_bytes)).geometry


def read_volume(path: Path, max_bytes: int = MAX_BYTES) -> tuple[np.ndarray, Geometry]:
    """The voxels (D, H, W) of a NRRD file and their geometry.

    Raises:
        VolumeError: as of `read_geometry`; or the file is damaged, cut, or longer than its header says.
    """
    header = _single(path, read_header(path, max_bytes))
    return read_layers(path, header)[0], header.geometry


def read_layers(path: Path, header: Header) -> np.ndarray:
    """The voxels (layers, D, H, W) of all volumes of a NRRD file.

    Args:
        header: what `read_header` gave.

    Raises:
        VolumeError: the file is damaged, cut, or longer than its header says.
    """
    content = np.empty(header.nbytes, np.uint8)
    try:
        with open_regular(path) as file:
            file.seek(header.offset)
            voxels: io.BufferedReader | GzipReader = GzipReader(file) if header.is_gzip else file
            count = fill(content, voxels)
            rest = voxels.read(1)
    except (OSError, EOFError, zlib.error) as error:
        raise VolumeError(path, f"the file cannot be read ({os.path.getsize(path)} bytes; {error})") from None
    if count != header.nbytes or rest:
        raise VolumeError(
            path, f"the file is cut or goes on: its voxels are not the {header.nbytes} bytes of its header"
        )
    stored = content.view(header.dtype).reshape(header.sizes, order="F")
    layers = stored[None] if header.layer_axis is None else np.moveaxis(stored, header.layer_axis, 0)
    return layers.astype(header.geometry.dtype, copy=False)


def write_volume(
    path: Path, voxels: np.ndarray, affine: np.ndarray, *, fields: Mapping[str, str] | None = None, compress: bool
) -> None:
    """Write voxels (D, H, W) with an affine (4, 4) to RAS millimetres.

    Args:
        fields: of the header, beside those of the grid.

    Raises:
        OSError: it cannot be written.
    """
    image = to_itk(voxels, affine)
    for name, value in (fields or {}).items():
        image.SetMetaData(name, value)
    write_itk(image, path, compress=compress)


def _single(path: Path, header: Header) -> Header:
    if header.layers != 1:
        raise VolumeError(
            path, f"the file holds {header.layers} volumes, expected one (in 3D Slicer: segments must not overlap)"
        )
    return header


def _parse(path: Path, content: bytes) -> tuple[dict[str, str], dict[str, str]]:
    """The fields of a header by their names without blanks, in lower case, and its key and value pairs.

    Raises:
        VolumeError: a line that no rule allows, or one field twice.
    """
    try:
        magic, *lines = content.replace(b"\r\n", b"\n").removesuffix(b"\r").decode().split("\n")
    except UnicodeDecodeError:
        raise VolumeError(path, "the header is no text in UTF-8") from None
    if not MAGIC.fullmatch(magic):
        raise VolumeError(path, "the file is no NRRD file of the versions 1 to 5")
    told: dict[str, str] = {}
    fields: dict[str, str] = {}
    for number, line in enumerate(lines, 2):
        if CONTROL.search(line):
            raise VolumeError(path, f"line {number} of the header has a control character")
        if line.startswith("#"):
            continue
        name, _, value = line.partition(":")
        if not name or value[:1] not in tuple("= "):  # also where there is no colon
            raise VolumeError(
                path, f"line {number} of the header is no field ('name: value') and no key ('key:=value')"
            )
        if value[0] == "=":
            known, value = fields, re.sub(r"\\[\\n]", lambda found: ESCAPES[found[0]], value[1:])
        else:
            known, name, value = told, name.replace(" ", "").lower(), value.strip()
        if name in known:
            raise VolumeError(path, f"line {number} of the header repeats a field")
        known[name] = value
    _check_names(path, told)
    return told, fields


def _check_names(path: Path, told: Mapping[str, str]) -> None:
    if "datafile" in told:
        raise VolumeError(path, "the file is no NRRD file with its voxels inside: its header names a data file")
    unknown = [name for name in told if name not in READ + IGNORED + SKIPS]
    if unknown:
        raise VolumeError(path, f"the header has the field {unknown[0][:40]!r}, which is not read here")
    for name in SKIPS:
        if told.get(name, "0") != "0":
            raise VolumeError(path, f"{name} is {told[name][:20]!r}, expected 0: the voxels follow the header")
    missing = [name for name in NEEDED if name not in told]
    if missing:
        raise VolumeError(path, f"the file is no NRRD file: its header tells no {', '.join(missing)}")


def _interpret(path: Path, told: Mapping[str, str], fields: dict[str, str], offset: int) -> Header:
    """Raises VolumeError: a value that is not known here."""
    sizes = tuple(_whole(path, "sizes", word) for word in told["sizes"].split())
    if told["dimension"] != str(len(sizes)) or len(sizes) not in (3, 4):
        raise VolumeError(
            path, f"dimension is {told['dimension'][:20]!r} and sizes has {len(sizes)} numbers, expected three of each"
        )
    dtype = _dtype(path, told)
    encoding = told["encoding"].lower()
    if encoding not in ("raw", *GZIP):
        raise VolumeError(path, f"encoding is {encoding[:20]!r}, expected raw or gzip")
    kinds = told.get("kinds", "??? " * len(sizes)).lower().split()
    if len(kinds) != len(sizes):
        raise VolumeError(path, f"kinds has {len(kinds)} words, expected one for each of {len(sizes)} axes")
    layer_axis = _layer_axis(path, kinds)
    shape = tuple(size for axis, size in enumerate(sizes) if axis != layer_axis)
    affine = _affine(path, told, layer_axis)
    note = "" if "space" in told else NO_SPACE + NO_SPACINGS * ("spacings" not in told)
    geometry = replace(plain_geometry(shape, affine, dtype.newbyteorder("=")), note=note)
    return Header(geometry, fields, dtype, sizes, layer_axis, encoding in GZIP, offset)


def _whole(path: Path, name: str, word: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,9}", word):
        raise VolumeError(path, f"{name} has {word[:20]!r}, expected a whole number above 0")
    return int(word)


def _dtype(path: Path, told: Mapping[str, str]) -> np.dtype:
    code = DTYPES.get(told["type"].lower())
    if code is None:
        raise VolumeError(
            path, f"type is {told['type'][:40]!r}, expected whole numbers of 1 to 8 bytes, float or double"
        )
    if code[1] == "1":
        return np.dtype(code)
    endian = told.get("endian", "").lower()
    if endian not in ENDIANS:
        raise VolumeError(path, f"endian is {endian[:20]!r}, expected little or big")
    return np.dtype(ENDIANS[endian] + code)


def _layer_axis(path: Path, kinds: Sequence[str]) -> int | None:
    """Raises VolumeError: the axes are not three of space, and at most one of layers."""
    others = [axis for axis, kind in enumerate(kinds) if kind not in SPATIAL]
    if len(kinds) == 3 and not others:
        return None
    if len(kinds) == 4 and len(others) == 1 and kinds[others[0]] == LAYERS:
        return others[0]
    raise VolumeError(
        path, f"the axes are of the kinds {' '.join(kinds)[:80]!r}, expected three of space, and one of layers at most"
    )


def _affine(path: Path, told: Mapping[str, str], layer_axis: int | None) -> np.ndarray:
    """From voxels to RAS millimetres. A header without a space is read as ITK does: as LPS, with the spacings it tells.

    Raises:
        VolumeError: a space that is not the patient's, other units, or numbers that are none.
    """
    for name in ("spaceunits", "units"):
        if not all(unit.lower() in UNITS for unit in re.findall(r'"([^"]*)"', told.get(name, ""))):
            raise VolumeError(path, f'{name} is {told[name][:40]!r}, expected "mm"')
    affine = np.eye(4)
    if "space" not in told:
        if layer_axis is not None or "spacedirections" in told or "spaceorigin" in told:
            raise VolumeError(path, "the header tells no space, expected left-posterior-superior or another one")
        affine[:3, :3] = np.diag(_spacings(path, told.get("spacings", "1 1 1")))
        return np.diag([*SPACES["lps"], 1]) @ affine
    signs = SPACES.get(told["space"].lower())
    if signs is None:
        raise VolumeError(path, f"space is {told['space'][:40]!r}, expected one of {', '.join(SPACES)}")
    if "spacings" in told or "spacedirections" not in told:
        raise VolumeError(path, "the header tells a space, expected space directions with it and no spacings")
    affine[:3, :3] = np.transpose(_directions(path, told["spacedirections"], layer_axis))
    (affine[:3, 3],) = _vectors(path, "space origin", told.get("spaceorigin", "(0,0,0)"), 1)
    return np.diag([*signs, 1]) @ affine


def _spacings(path: Path, text: str) -> list[float]:
    words = text.split()
    if len(words) != 3 or not all(re.fullmatch(NUMBER, word) and float(word) > 0 for word in words):
        raise VolumeError(path, f"spacings is {text[:60]!r}, expected three numbers above 0")
    return [float(word) for word in words]


def _directions(path: Path, text: str, layer_axis: int | None) -> np.ndarray:
    """Of the three axes of space, (3, 3)."""
    if layer_axis is not None:
        words = re.findall(r"\([^()]*\)|[^\s()]+", text)
        if len(words) != 4 or words.pop(layer_axis) != "none":
            raise VolumeError(path, f"space directions is {text[:100]!r}, expected none for the axis of layers")
        text = " ".join(words)
    return _vectors(path, "space directions", text, 3)


def _vectors(path: Path, name: str, text: str, count: int) -> np.ndarray:
    found = VECTOR.findall(text)
    if len(found) != count or VECTOR.sub("", text).strip():
        raise VolumeError(path, f"{name} is {text[:100]!r}, expected {count} vector(s) such as (1,0,0)")
    return np.array(found, dtype=np.float64)
