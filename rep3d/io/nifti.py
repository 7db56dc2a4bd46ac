"""NIfTI files: the geometry of any, the voxels of whole ones, and label maps with the header of their scan."""

from __future__ import annotations

import hashlib
import io
import math
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.spatialimages import HeaderDataError

from rep3d.files import whole_file
from rep3d.io.bounded import GzipReader, fill, open_regular
from rep3d.io.geometry import MAX_BYTES, Geometry, VolumeError, check_geometry

# Millimetres of the unit in the lowest three bits of xyzt_units: unknown, metre, millimetre, micron.
MILLIMETRES = {0: 1.0, 1: 1e3, 2: 1.0, 3: 1e-3}
# The fields of a header that place its voxels, beside the shape.
PLACE = (
    "qform_code",
    "sform_code",
    *(f"quatern_{axis}" for axis in "bcd"),
    *(f"qoffset_{axis}" for axis in "xyz"),
    *(f"srow_{axis}" for axis in "xyz"),
    "xyzt_units",
)
CIFTI = range(3000, 3100)  # intent codes
GZIP_MAGIC = b"\x1f\x8b"
SCANNER = 1  # the code of a qform or sform: both readers take it
ORTHONORMAL = 1e-4  # ITK's tolerance for the axes of a sform
MAX_OFFSET = 2**26  # bytes of header and extensions before the voxels
CHANGED = "not as rep3d wrote it, and so not replaced: give another output_dir, or move it away"
MARK = b"label map by rep3d "  # begins the description of label maps that we write
CLICKED = b"mask of prompts by rep3d "  # begins that of masks that follow somebody's prompts
OF_SCAN = "aux_file"  # the field of the header for what scan a mask is of
KEPT = "follows somebody's prompts, and so is not replaced: give another output_dir, or move it away"


def read_geometry(path: str | os.PathLike, max_bytes: int = MAX_BYTES, *, several: bool = False) -> Geometry:
    """The geometry of a NIfTI file, from its header.

    Args:
        max_bytes: at most, of the voxels in memory.
        several: whether the file may hold several volumes, the channels of an image.

    Raises:
        VolumeError: missing, unreadable, of an unknown unit, CIFTI, of several volumes where it may not be, or refused
            by `check_geometry`.
    """
    return _open(path, max_bytes, several)[1]


def read_volume(
    path: str | os.PathLike, max_bytes: int = MAX_BYTES, *, single: bool = False
) -> tuple[np.ndarray, Geometry]:
    """The voxels (D, H, W) of a NIfTI file, scaled as its header says, and their geometry.

    A compressed file is read to its end, so that its checksum counts.

    Args:
        single: round what is scaled to float32, as ITK does: it takes half the memory.

    Raises:
        VolumeError: as of `read_geometry`; or the file is damaged, cut, or longer than its header says.
    """
    proxy, geometry = _open(path, max_bytes)
    if single and _is_scaled(proxy):
        geometry = replace(geometry, dtype=np.dtype(np.float32))
    voxels, geometry = _read(path, proxy, geometry)
    return voxels[0], geometry


def read_channels(path: str | os.PathLike, max_bytes: int = MAX_BYTES) -> tuple[np.ndarray, Geometry]:
    """The voxels (C, D, H, W) of a NIfTI file of three or four dimensions, and their geometry.

    Raises:
        VolumeError: as of `read_volume`.
    """
    return _read(path, *_open(path, max_bytes, several=True))


def _read(path: str | os.PathLike, proxy: ArrayProxy, geometry: Geometry) -> tuple[np.ndarray, Geometry]:
    content = np.empty(geometry.channels * math.prod(geometry.shape) * proxy.dtype.itemsize, np.uint8)
    try:
        with _unpacked(path) as file:
            fill(np.empty(proxy.offset, np.uint8), file)
            count = fill(content, file)
            rest = file.read(1)
    except (OSError, EOFError, zlib.error) as error:
        raise VolumeError(path, f"the file is damaged or cut, its voxels cannot be read ({error})") from None
    if count < content.size:
        raise VolumeError(
            path, f"the file is cut, its voxels cannot be read: {count} bytes, expected {content.size} by its header"
        )
    if rest:
        raise VolumeError(path, f"the file goes on behind the {content.size} bytes of voxels that its header declares")
    stored = content.view(proxy.dtype).reshape((*geometry.shape, geometry.channels), order="F")
    voxels = _scaled(stored, proxy, geometry.dtype) if _is_scaled(proxy) else stored.astype(geometry.dtype, copy=False)
    return np.moveaxis(voxels, -1, 0), geometry


def _is_scaled(proxy: ArrayProxy) -> bool:
    return proxy.dtype.kind in "biuf" and (proxy.slope, proxy.inter) != (1, 0)


def _scaled(stored: np.ndarray, proxy: ArrayProxy, dtype: np.dtype) -> np.ndarray:
    """Voxels (D, H, W, C) as the header scales them; slice by slice, for nibabel's own way takes twice the memory."""
    voxels = np.empty(stored.shape, dtype, order="F")
    with np.errstate(over="ignore"):  # infinite then, and so no image
        for place in np.ndindex(stored.shape[:1:-1]):
            voxels.T[place] = stored.T[place].astype(np.float64) * proxy.slope + proxy.inter
    return voxels


def label_image(voxels: np.ndarray, geometry: Geometry) -> nib.Nifti1Image:
    """A label map (D, H, W) that lies on its scan in every reader: with the place that the scan's own header tells.

    That is its qform, its sform, their codes, its units and the signs of its pixdim. Of another format than NIfTI, both
    forms are the scan's affine.
    """
    if geometry.header is None:
        image = nib.Nifti1Image(voxels, geometry.affine)
        image.set_sform(geometry.affine, SCANNER)
        image.set_qform(geometry.affine, SCANNER)
        image.header.set_xyzt_units("mm")
        return image
    told = geometry.header
    header = type(told)()
    header.set_data_dtype(voxels.dtype)
    for field in PLACE:
        header[field] = told[field]
    kind = nib.Nifti2Image if isinstance(told, nib.Nifti2Header) else nib.Nifti1Image
    image = kind(voxels, None, header)
    image.header["pixdim"][:4] = told["pixdim"][:4]  # afterwards: nibabel takes the signs away
    return image


def mark(voxels: np.ndarray, kind: bytes = MARK) -> bytes:
    """The description in the header of a label map that we write: it tells whether somebody has changed the voxels."""
    return kind + digest(voxels)


def digest(voxels: np.ndarray) -> bytes:
    """Sixteen hexadecimal digits that tell voxels from others."""
    return hashlib.sha256(np.ascontiguousarray(voxels).data).hexdigest()[:16].encode()


def write_marked(
    voxels: np.ndarray, geometry: Geometry, path: str | os.PathLike, kind: bytes = MARK, scan: bytes = b""
) -> None:
    """Write a label map (D, H, W) on its scan's grid, with our `mark`, as a whole or not at all.

    Args:
        kind: MARK; or CLICKED, of a mask that follows prompts, which only another one may replace.
        scan: `digest` of the scan, for `scan_of`.

    Raises:
        ValueError: the file is there already, and not as we wrote it, or a mask that follows prompts.
    """
    found = untouched_mark(path)
    if Path(path).exists() and not found.startswith((MARK, kind)):
        raise ValueError(f"{path} {KEPT}" if found else f"{path}: {CHANGED}")
    volume = label_image(voxels, geometry)
    volume.header["descrip"], volume.header[OF_SCAN] = mark(voxels, kind), scan
    with whole_file(path) as temporary:
        nib.save(volume, temporary)


def is_label_map_of_ours(path: str | os.PathLike) -> bool:
    """Whether we wrote a NIfTI file as a label map, whoever changed it since; False for one that cannot be read."""
    return _description(path).startswith((MARK, CLICKED))


def untouched_mark(path: str | os.PathLike) -> bytes:
    """The `mark` of a NIfTI file that is a label map as we wrote it; empty of any other."""
    try:
        told = _description(path)
        kinds = [kind for kind in (MARK, CLICKED) if told.startswith(kind)]
        return told if kinds and told == mark(read_volume(path)[0], *kinds) else b""
    except VolumeError:
        return b""


def scan_of(path: str | os.PathLike) -> bytes:
    """The `digest` of the scan that a mask of ours is of; empty where it does not tell."""
    if not is_label_map_of_ours(path):
        return b""
    return _open(path, MAX_BYTES)[1].header[OF_SCAN].item()


def is_untouched(path: str | os.PathLike) -> bool:
    """Whether a NIfTI file is a label map as we wrote it, and no mask that follows prompts."""
    return untouched_mark(path).startswith(MARK)


def _description(path: str | os.PathLike) -> bytes:
    try:
        return _open(path, MAX_BYTES)[1].header["descrip"].item()
    except VolumeError:
        return b""


def _open(path: str | os.PathLike, max_bytes: int, several: bool = False) -> tuple[ArrayProxy, Geometry]:
    """How the voxels of a file are stored, and its geometry, from its header.

    nibabel opens no file, and extensions are not read: they tell their own lengths, which may be anything.
    """
    content = _beginning(path)
    try:
        kind = _kind(content)
        told = kind(content[: kind.sizeof_hdr], check=False)  # as it is there: nibabel corrects what it checks
        header = kind(content[: kind.sizeof_hdr])
        proxy, affine = ArrayProxy(path, header), header.get_best_affine()
    except Exception as error:  # whatever nibabel trips over
        raise _no_nifti(path, error) from None
    if kind is nib.Nifti2Header and int(told["intent_code"]) in CIFTI:
        raise VolumeError(path, "is a CIFTI file, expected a NIfTI volume")
    if header["magic"].item() == header.pair_magic:
        raise VolumeError(path, "is the header of a pair of files (.hdr and .img), expected its voxels inside")
    if not 0 <= proxy.offset <= MAX_OFFSET:
        raise VolumeError(path, f"vox_offset is {proxy.offset}, expected at most {MAX_OFFSET} bytes before the voxels")
    geometry = _geometry(path, affine, proxy, told)
    check_geometry(path, geometry, max_bytes)
    if geometry.channels < 1 or geometry.channels > 1 and not several:
        raise VolumeError(path, f"shape {(*geometry.shape, geometry.channels)}, expected three dimensions")
    return proxy, geometry


def _beginning(path: str | os.PathLike) -> bytes:
    """What a header has room in, unpacked."""
    with open_regular(path) as file:
        magic = file.read(len(GZIP_MAGIC))
    if not magic:
        raise _no_nifti(path, "Empty file")
    if str(path).lower().endswith(".gz") and magic != GZIP_MAGIC:
        raise _no_nifti(path, "it is not a gzip file")
    content = np.empty(nib.Nifti2Header.sizeof_hdr, np.uint8)
    try:
        with _unpacked(path) as unpacked:
            return content[: fill(content, unpacked)].tobytes()
    except (OSError, EOFError, zlib.error) as error:
        raise _no_nifti(path, error) from None


def _no_nifti(path: str | os.PathLike, reason: object) -> VolumeError:
    return VolumeError(path, f"cannot be read as NIfTI ({os.path.getsize(path)} bytes; {reason})")


def _kind(content: bytes) -> type[nib.Nifti1Header]:
    """The class of a header.

    Raises:
        HeaderDataError: it is none of NIfTI's.
    """
    for kind in (nib.Nifti1Header, nib.Nifti2Header):
        if kind.may_contain_header(content):
            return kind
    raise HeaderDataError("Cannot work out file type of it")


def _geometry(path: str | os.PathLike, affine: np.ndarray, proxy: ArrayProxy, told: Any) -> Geometry:
    unit = int(told["xyzt_units"]) & 7
    if unit not in MILLIMETRES:
        raise VolumeError(path, f"xyzt_units has the spatial unit {unit}, expected 0 to 3 (unknown, m, mm, micron)")
    to_mm = np.diag([MILLIMETRES[unit]] * 3 + [1.0])
    itk_affine = _itk_affine(told)
    shape, channels = _spatial(proxy.shape)
    return Geometry(
        shape,
        to_mm @ np.asarray(affine, dtype=np.float64),
        None if itk_affine is None else to_mm @ itk_affine,
        np.dtype(np.float64) if _is_scaled(proxy) else proxy.dtype.newbyteorder("="),
        told,
        channels,
    )


def _spatial(shape: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
    """Without the axes of time and so on; and how many volumes they hold, where one of them counts them."""
    lengths = [n for n in shape[3:] if n != 1]
    if len(lengths) > 1:
        return shape, 1
    return shape[:3], lengths[0] if lengths else 1


def _itk_affine(told: Any) -> np.ndarray | None:
    """The affine by ITK's rules, in the header's unit; None where it has no view.

    After `NiftiImageIO::SetImageIOOrientationFromNIfTI` of ITK 5.4: columns of length 1 times the signed pixdim.
    """
    pixdim = np.array(told["pixdim"][1:4], dtype=np.float64)
    pixdim[(pixdim == 0) | ~np.isfinite(pixdim)] = 1
    affine = np.eye(4)
    if told["qform_code"] <= 0 and told["sform_code"] <= 0:
        affine[:3, :3] = np.diag([-1.0, -1.0, 1.0] * pixdim)
        return affine
    sform = np.array([told[row] for row in ("srow_x", "srow_y", "srow_z")], dtype=np.float64)
    lengths = np.linalg.norm(sform[:, :3], axis=0)
    axes = sform[:, :3] / np.where(lengths > 0, lengths, 1)
    if np.allclose(axes @ axes.T, np.eye(3), atol=ORTHONORMAL) and told["sform_code"] > 0:
        if told["qform_code"] <= 0 or told["sform_code"] == SCANNER:
            affine[:3, :3], affine[:3, 3] = axes * pixdim, sform[:, 3]
            return affine
    if told["qform_code"] <= 0:
        return None
    affine[:3, :3] = _quaternion_axes(told) * pixdim
    affine[:3, 3] = [told[f"qoffset_{axis}"] for axis in "xyz"]
    return affine


def _quaternion_axes(told: Any) -> np.ndarray:
    """The axes (3, 3) of a qform, columns of length 1."""
    vector = np.array([told[f"quatern_{axis}"] for axis in "bcd"], dtype=np.float64)
    axes = nib.quaternions.quat2mat([math.sqrt(max(0.0, 1 - float(vector @ vector))), *vector])
    axes[:, 2] *= -1 if told["pixdim"][0] < 0 else 1
    return axes


@contextmanager
def _unpacked(path: str | os.PathLike) -> Iterator[io.BufferedIOBase | io.RawIOBase]:
    with open_regular(path) as file:
        yield GzipReader(file) if str(path).lower().endswith(".gz") else file
