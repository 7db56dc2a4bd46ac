"""Slicer's `.seg.nrrd`: a NRRD label map whose header names the segments and colours them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rep3d.io.colors import Color
from rep3d.io.geometry import MAX_BYTES, Geometry, VolumeError
from rep3d.io.nrrd import Header, read_header, read_layers

BACKGROUND = "background"
MAX_SEGMENTS = 255  # beside the background: a label map has one byte a voxel


@dataclass(frozen=True)
class Segment:
    """Where a segment lies: the voxels of a layer that have a value."""

    name: str
    layer: int
    value: int


def segment_fields(labels: Mapping[str, int], colors: Mapping[str, Color], shape: Sequence[int]) -> dict[str, str]:
    """The fields of a header in which every label is a segment, also one without voxels.

    Args:
        labels: ids by name.
        colors: by name.
        shape: (D, H, W) of the label map.
    """
    extent = " ".join(f"0 {size - 1}" for size in shape)
    fields = {
        "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
        "Segmentation_MasterRepresentation": "Binary labelmap",
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
    }
    for number, (name, index) in enumerate(sorted(labels.items(), key=lambda item: item[1])):
        segment = {
            "ID": name,
            "Name": name,
            "Color": " ".join(f"{part:.6f}" for part in colors[name]),
            "Extent": extent,
            "LabelValue": str(index),
            "Layer": "0",
        }
        fields |= {f"Segment{number}_{field}": value for field, value in segment.items()}
    return fields


def read_geometry(path: Path, max_bytes: int = MAX_BYTES) -> Geometry:
    """The geometry of the label map that a file holds; see `read_volume`.

    Raises:
        VolumeError: see `rep3d.io.nrrd.read_header`.
    """
    header = read_header(path, max_bytes)
    return header.geometry if header.layers == 1 else replace(header.geometry, dtype=np.dtype(np.uint8))


def read_volume(path: Path, max_bytes: int = MAX_BYTES) -> tuple[np.ndarray, Geometry]:
    """The label map (D, H, W) of a file with the values of `read_segments`, and its geometry.

    3D Slicer keeps segments that overlapped once in layers: these become one.

    Raises:
        VolumeError: see `rep3d.io.nrrd.read_layers`; or layers with voxels of two segments, or of none.
    """
    header = read_header(path, max_bytes)
    layers = read_layers(path, header)
    if header.layers == 1:
        return layers[0], header.geometry
    return _merged(path, layers, _segments(path, header)), read_geometry(path, max_bytes)


def read_segments(path: Path) -> dict[str, int]:
    """The voxel values by the names of the segments, without the background.

    Of a file with several layers they are the segments' numbers from 1 on, since two layers may have one value.

    Raises:
        VolumeError: no NRRD file; segments without names and values, or with one name or value for two; values that
            are not from 1 to 255.
    """
    header = read_header(path)
    segments = _segments(path, header)
    return {segment.name: segment.value if header.layers == 1 else number for number, segment in enumerate(segments, 1)}


def without_background(path: Path, names: Sequence[str]) -> list[str]:
    """The names of segments without blanks around them, and without the background.

    Raises:
        VolumeError: one for two segments, in whatever case.
    """
    found = [name for name in map(str.strip, names) if name.casefold() != BACKGROUND]
    ((name, count),) = Counter(map(str.casefold, found)).most_common(1) or [("", 1)]
    if count > 1:
        raise VolumeError(path, f"{count} segments have the name {name[:100]!r}, expected a name for each")
    return found


def _segments(path: Path, header: Header) -> list[Segment]:
    """Raises VolumeError: see `read_segments`."""
    fields = header.fields
    keys = [key.removesuffix("_Name") for key in fields if re.fullmatch(r"Segment\d+_Name", key)]
    if len(keys) > MAX_SEGMENTS + 1:
        raise VolumeError(path, f"the file has {len(keys)} segments, expected at most {MAX_SEGMENTS}")
    try:
        segments = [
            Segment(fields[f"{key}_Name"].strip(), int(fields.get(f"{key}_Layer", 0)), int(fields[f"{key}_LabelValue"]))
            for key in keys
        ]
    except (KeyError, ValueError) as error:
        raise VolumeError(
            path, "the .seg.nrrd file cannot be read: its segments need names and label values"
        ) from error
    names = without_background(path, [segment.name for segment in segments])
    segments = [segment for segment in segments if segment.name in names]
    used = Counter((segment.layer, segment.value) for segment in segments)
    for segment in segments:
        if not 0 < segment.value <= MAX_SEGMENTS or used[segment.layer, segment.value] > 1:
            raise VolumeError(
                path,
                f"the segment {segment.name[:100]!r} has the label value {segment.value} in layer {segment.layer}, "
                f"expected different ones from 1 to {MAX_SEGMENTS}",
            )
        if not 0 <= segment.layer < header.layers:
            raise VolumeError(
                path, f"the segment {segment.name[:100]!r} is in layer {segment.layer}, the file has {header.layers}"
            )
    return segments


def _merged(path: Path, layers: np.ndarray, segments: Sequence[Segment]) -> np.ndarray:
    """One label map (D, H, W) of layers (layers, D, H, W): the segments' numbers from 1 on."""
    if layers.dtype.kind not in "iu" or layers.min() < 0 or layers.max() > MAX_SEGMENTS:
        raise VolumeError(path, f"the layers hold other values than whole numbers from 0 to {MAX_SEGMENTS}")
    merged = np.zeros(layers.shape[1:], np.uint8)
    for number, layer in enumerate(layers):
        table = np.zeros(MAX_SEGMENTS + 1, np.uint8)
        for index, segment in enumerate(segments, 1):
            if segment.layer == number:
                table[segment.value] = index
        found = table[layer]
        _check_layer(path, layer, found, merged)
        merged += found
    return merged


def _check_layer(path: Path, layer: np.ndarray, found: np.ndarray, merged: np.ndarray) -> None:
    """Raise unless each voxel of a layer is of one segment, and of none of the layers before.

    Args:
        layer, found: the layer's voxels, and the numbers of their segments.
        merged: the layers before.
    """
    overlap = np.count_nonzero((found > 0) & (merged > 0))
    if overlap:
        raise VolumeError(path, f"segments overlap in {overlap} voxel(s): a label map has one label for each voxel")
    nameless = np.count_nonzero(layer) - np.count_nonzero(found)
    if nameless:
        raise VolumeError(path, f"{nameless} voxel(s) of the layers belong to no segment")
