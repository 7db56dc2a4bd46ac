"""Label maps as DICOM Segmentation objects of the series they belong to, and back."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import highdicom as hd
import numpy as np
import pydicom
from PIL import Image, ImageCms
from pydicom.sr.codedict import CONCEPTS
from pydicom.sr.coding import Code

from rep3d.io.colors import distinct_colors
from rep3d.io.dicom import read_grid_of_slices
from rep3d.io.geometry import MAX_BYTES, TOLERANCE, VolumeError, swap_lps

logger = logging.getLogger(__name__)
logging.getLogger("highdicom").setLevel(logging.WARNING)  # its messages hold identifiers
SERIES_NUMBER = 300
MANUFACTURER, PROPOSAL = "Rep3D", "PROPOSAL"
IDENTIFIERS = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")
UTF_8 = "ISO_IR 192"
STRUCTURE = Code("91723000", "SCT", "Anatomical structure")
CATEGORY = Code("123037004", "SCT", "Anatomical Structure")
# Categories of segments by the context group of the concepts that fit it.
CATEGORIES = {
    7192: CATEGORY,
    7194: Code("49755003", "SCT", "Morphologically Altered Structure"),
    7191: Code("85756007", "SCT", "Tissue"),
    7197: Code("91720002", "SCT", "Body Substance"),
    7193: Code("260787004", "SCT", "Physical object"),
    7304: CATEGORY,  # targets of implants, such as bones
}
Concepts = Mapping[str, tuple[str, Sequence[int]]]  # meanings and context groups by code
SNOMED: Mapping[str, Concepts] = cast(Any, CONCEPTS["SCT"])  # by pydicom's keywords, of which 69 have several codes
CODE_LENGTH = 16  # characters, at most
PRIVATE = "99REP3D"  # the coding scheme of names with several codes, of which none is a segment's
FAMILY = Code("123110", "DCM", "Artificial Intelligence")
# Names of labels that pydicom's dictionary of SNOMED CT has under another one.
KEYWORDS = {"postcava": "InferiorVenaCava", "vessel": "BloodVessel", "tumor": "Neoplasm"}


def make_segmentation(
    slices: Sequence[Path],
    voxels: np.ndarray,
    labels: Mapping[str, int],
    model: str,
    *,
    uid: str | None = None,
    is_proposal: bool = False,
) -> pydicom.Dataset:
    """A binary DICOM Segmentation of a series.

    Args:
        slices: the files of the series, as `rep3d.io.dicom.sorted_slices` puts them.
        voxels: (D, H, W) label ids, on the grid of the series as `convert_series` writes it.
        labels: ids by name; those without voxels are left out.
        model: what made the label map, such as the name of a bundle.
        uid: its SOPInstanceUID; a new one otherwise.
        is_proposal: a network made it, and nobody has looked at it; see `is_own_proposal`.

    Raises:
        VolumeError: an empty label map, or slices without the identifiers that a segmentation refers to.
    """
    series = slices[0].parent
    sources = [pydicom.dcmread(path, stop_before_pixels=True, force=True) for path in slices]
    missing = [tag for tag in IDENTIFIERS if not sources[0].get(tag)]
    if missing:
        raise VolumeError(series, f"the DICOM series has no {', '.join(missing)}: a segmentation cannot refer to it")
    present = {name: index for name, index in labels.items() if (voxels == index).any()}
    if not present:
        raise VolumeError(series, "the label map is empty: a DICOM segmentation needs at least one segment")
    frames = np.zeros(voxels.shape[::-1], dtype=np.uint8)
    for number, index in enumerate(present.values(), 1):  # segments are numbered from 1 without gaps
        frames[voxels.transpose() == index] = number
    colors = distinct_colors(labels)
    descriptions = [_describe(number, name, colors[name], model) for number, name in enumerate(present, 1)]
    try:
        segmentation = hd.seg.Segmentation(
            sources,
            frames,
            hd.seg.SegmentationTypeValues.BINARY,
            descriptions,
            series_instance_uid=hd.UID(),
            series_number=SERIES_NUMBER,
            sop_instance_uid=uid or hd.UID(),
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=model[:64],
            software_versions=version("rep3d"),
            device_serial_number="none",
            content_label=PROPOSAL if is_proposal else "SEGMENTATION",
            series_description=f"Segmentation, {model}"[:64],
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise VolumeError(series, f"the DICOM series lacks what a segmentation needs ({error})") from error
    segmentation.SpecificCharacterSet = UTF_8  # pydicom writes all text so, also what was read in another one
    # Viewers take the distance of slices from here; how thick a slice is often differs.
    measures = segmentation.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    measures.SpacingBetweenSlices = float(np.linalg.norm(read_grid_of_slices(slices)[:3, 2]))
    return segmentation


def is_own_proposal(dataset: pydicom.Dataset) -> bool:
    """Whether a segmentation is what a network of this app proposed."""
    return (dataset.get("Manufacturer"), dataset.get("ContentLabel")) == (MANUFACTURER, PROPOSAL)


def read_segmentation(
    dataset: pydicom.Dataset, slices: Sequence[Path], max_bytes: int = MAX_BYTES
) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """The label map of a DICOM Segmentation on the grid of the series that it refers to.

    Args:
        slices: the files of that series, as `sorted_slices` puts them.
        max_bytes: at most, of what its frames take in memory.

    Returns:
        voxels (D, H, W), affine (4, 4) in RAS millimetres, and the ids of the segments that have voxels by name.

    Raises:
        VolumeError: no readable segmentation, overlapping segments, or one of other slices.
    """
    affine = read_grid_of_slices(slices)
    _check_size(dataset, slices, max_bytes)
    try:
        names = {int(item.SegmentNumber): str(item.SegmentLabel) for item in dataset.SegmentSequence}
        frames = np.reshape(dataset.pixel_array, (-1, dataset.Rows, dataset.Columns))
        places = [_place_of_frame(dataset, group, affine) for group in dataset.PerFrameFunctionalGroupsSequence]
        groups = [group.SegmentIdentificationSequence[0] for group in dataset.PerFrameFunctionalGroupsSequence]
        numbers = [int(group.ReferencedSegmentNumber) for group in groups]
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, IndexError, NotImplementedError) as error:
        raise _refusal(dataset, f"the DICOM segmentation cannot be read ({error})") from error
    if len(numbers) != len(frames):
        raise _refusal(dataset, f"the DICOM segmentation tells of {len(numbers)} frame(s), but has {len(frames)}")
    voxels = np.zeros((len(slices), *frames.shape[1:]), dtype=np.uint8)
    for frame, place, number in zip(frames.astype(bool), places, numbers, strict=True):
        if not 0 <= place < len(slices) or number not in names or not 0 < number < 256:
            raise _refusal(dataset, f"the DICOM segmentation has a frame of segment {number} at slice {place}")
        if voxels[place][frame].any():
            raise _refusal(dataset, f"the segment {names[number]!r} overlaps another one")
        voxels[place][frame] = number
    present = {names[number]: number for number in np.unique(voxels).tolist() if number}
    return voxels.transpose(), affine, present


def _refusal(dataset: pydicom.Dataset, reason: str) -> VolumeError:
    """Names the file, or what a PACS calls it."""
    return VolumeError(getattr(dataset, "filename", None) or str(dataset.get("SOPInstanceUID")), reason)


def _check_size(dataset: pydicom.Dataset, slices: Sequence[Path], max_bytes: int) -> None:
    """Before its frames are unpacked: eight bytes of memory for each byte."""
    first = pydicom.dcmread(slices[0], specific_tags=["Rows", "Columns"], force=True)
    kind, size = dataset.get("SegmentationType"), (dataset.get("Rows"), dataset.get("Columns"))
    if kind != "BINARY" or size != (first.Rows, first.Columns):
        raise _refusal(
            dataset,
            f"the DICOM segmentation is {kind} with frames of {size}, expected BINARY of {(first.Rows, first.Columns)} "
            "as its series",
        )
    frames, most = int(dataset.get("NumberOfFrames") or 1), len(slices) * len(dataset.get("SegmentSequence") or ())
    # Four bytes a voxel: the frames, the label map, and masks of both.
    if frames > most or 4 * frames * first.Rows * first.Columns > max_bytes:
        raise _refusal(
            dataset, f"the DICOM segmentation cannot be read: it has {frames} frames, at most {most} are possible"
        )


def _place_of_frame(dataset: pydicom.Dataset, group: pydicom.Dataset, affine: np.ndarray) -> int:
    """Which slice of the series a frame of a segmentation lies on.

    Raises:
        ValueError: none, or turned otherwise.
    """
    shared = dataset.SharedFunctionalGroupsSequence[0]
    orientation = (shared if "PlaneOrientationSequence" in shared else group).PlaneOrientationSequence[0]
    across, down = np.reshape(np.asarray(orientation.ImageOrientationPatient, dtype=float), (2, 3))
    position = np.asarray(group.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
    lps = swap_lps(affine)
    axes = lps[:3, :3] / np.linalg.norm(lps[:3, :3], axis=0)
    turned = not np.allclose(np.stack([across, down], axis=1), axes[:, :2], atol=1e-3)
    i, j, k = np.linalg.solve(lps[:3, :3], position - lps[:3, 3])
    if turned or max(abs(i), abs(j), abs(k - round(k))) > TOLERANCE:
        raise ValueError("a frame lies on no slice of the series")
    return round(k)


def _describe(number: int, name: str, color: tuple[float, float, float], model: str) -> hd.seg.SegmentDescription:
    code, category = _codes(name)
    description = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=name,
        segmented_property_category=category,
        segmented_property_type=code,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.SEMIAUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=model, version=version("rep3d"), family=FAMILY
        ),
    )
    description.RecommendedDisplayCIELabValue = _cielab(color)
    return description


def _codes(name: str) -> tuple[Code, Code]:
    """The concept of SNOMED CT for a label's name, or for what the name qualifies (left kidney: kidney); its category.

    Of several concepts of one name (thalamus, radius) it is one that a segment may have, in the order of CATEGORIES; a
    private code where there is none.
    """
    words = re.findall(r"[^\W_]+", name.casefold())
    known = _keywords()
    for start in range(len(words)):
        keyword = KEYWORDS.get(" ".join(words[start:])) or known.get("".join(words[start:]))
        if keyword:
            return _choose(keyword)
    return STRUCTURE, CATEGORY


@cache
def _keywords() -> dict[str, str]:
    """Those of pydicom's dictionary of SNOMED CT, by themselves in small letters."""
    return {keyword.casefold(): keyword for keyword in SNOMED}


@cache
def _choose(keyword: str) -> tuple[Code, Code]:
    """The concept of a keyword and its category; the log tells, once, which of several it is."""
    concepts = SNOMED[keyword]
    value, category = _fitting(concepts)
    if value:
        code = Code(value, "SCT", concepts[value][0])
    else:
        code = Code(keyword[:CODE_LENGTH], PRIVATE, next(iter(concepts.values()))[0])
    if len(concepts) > 1:
        told = f"{code.scheme_designator} {code.value}"
        logger.info("SNOMED CT has %s for %s: segments get %s", ", ".join(concepts), keyword, told)
    return code, category


def _fitting(concepts: Concepts) -> tuple[str, Code]:
    """Of a keyword's concepts the one for segments, of several the one in most context groups; an empty text for none.

    A keyword's only concept is always taken.
    """
    for group, category in CATEGORIES.items():
        fitting = [value for value, (_, groups) in concepts.items() if group in groups]
        if fitting:
            return max(fitting, key=lambda value: len(concepts[value][1])), category
    return next(iter(concepts)) if len(concepts) == 1 else "", CATEGORY


def _cielab(color: tuple[float, float, float]) -> list[int]:
    """A colour as DICOM's three 16-bit numbers."""
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    pixel = Image.new("RGB", (1, 1), tuple(round(255 * part) for part in color))
    transform = ImageCms.buildTransform(srgb, lab, "RGB", "LAB")
    lightness, a, b = transform.apply(pixel).tobytes()
    return [lightness * 257, (a ^ 128) * 257, (b ^ 128) * 257]  # Pillow stores a and b as signed bytes
