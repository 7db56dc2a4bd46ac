"""Slicer's `.seg.nrrd`: a NRRD label map whose header names the segments and colours them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rep3d.io.colors import Color
from rep3d.io.geometry import VolumeError
from rep3d.io.nrrd import read_fields


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


def read_segments(path: Path) -> dict[str, int]:
    """The voxel values by the names of the segments, without the background.

    Raises:
        VolumeError: no NRRD file, segments without names and values, or values that are not different ones from 1 to
            255.
    """
    fields = read_fields(path)
    numbers = [key.removesuffix("_Name") for key in fields if key.startswith("Segment") and key.endswith("_Name")]
    try:
        segments = {fields[f"{number}_Name"]: int(fields[f"{number}_LabelValue"]) for number in numbers}
    except (KeyError, ValueError) as error:
        raise VolumeError(
            path, "the .seg.nrrd file cannot be read: its segments need names and label values"
        ) from error
    segments.pop("background", None)
    if not all(0 < value < 256 for value in segments.values()) or len(set(segments.values())) < len(segments):
        raise VolumeError(path, f"the segments have the label values {segments}, expected different ones from 1 to 255")
    return segments
