"""Label maps as DICOM Segmentation objects of the series they belong to, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
from PIL import Image, ImageCms
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from monailabel_app.dicom import read_grid_of_slices
from monailabel_app.formats import label_colors
from monailabel_app.validation import RequestError

SERIES_NUMBER = 300
STRUCTURE = Code("91723000", "SCT", "Anatomical structure")
CATEGORY = Code("123037004", "SCT", "Anatomical Structure")
ALTERED_CATEGORY = Code("49755003", "SCT", "Morphologically Altered Structure")
NEOPLASM = Code("108369006", "SCT", "Neoplasm")
CYST = Code("367643001", "SCT", "Cyst")
FAMILY = Code("123110", "DCM", "Artificial Intelligence")
# Names of labels that pydicom's dictionary of SNOMED CT has under another one.
KEYWORDS = {"postcava": "InferiorVenaCava", "vessel": "BloodVessel", "tumor": "Neoplasm"}


def make_segmentation(
    slices: Sequence[Path], voxels: np.ndarray, labels: Mapping[str, int], model: str
) -> pydicom.Dataset:
    """A binary DICOM Segmentation of a series.

    Args:
        slices: the files of the series, as `monailabel_app.dicom.sorted_slices` puts them.
        voxels: (D, H, W) label ids, on the grid of the series as `convert_series` writes it.
        labels: ids by name; those without voxels are left out.
        model: what made the label map, such as the name of a bundle.

    Raises:
        RequestError: an empty label map, or slices without the identifiers that a segmentation refers to.
    """
    sources = [pydicom.dcmread(path, stop_before_pixels=True) for path in slices]
    missing = [tag for tag in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID") if not sources[0].get(tag)]
    if missing:
        raise RequestError(400, f"the DICOM series has no {', '.join(missing)}: a segmentation cannot refer to it")
    present = {name: index for name, index in labels.items() if (voxels == index).any()}
    if not present:
        raise RequestError(400, "the label map is empty: a DICOM segmentation needs at least one segment")
    frames = np.zeros(voxels.shape[::-1], dtype=np.uint8)
    for number, index in enumerate(present.values(), 1):  # segments are numbered from 1 without gaps
        frames[voxels.transpose() == index] = number
    colors = label_colors(labels)
    return hd.seg.Segmentation(
        sources,
        frames,
        hd.seg.SegmentationTypeValues.BINARY,
        [_describe(number, name, colors[name], model) for number, name in enumerate(present, 1)],
        series_instance_uid=hd.UID(),
        series_number=SERIES_NUMBER,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="Rep3D",
        manufacturer_model_name=model[:64],
        software_versions=version("rep3d"),
        device_serial_number="none",
        content_label="SEGMENTATION",
        pixel_measures=_pixel_measures(sources[0], slices),
        series_description=f"Segmentation, {model}"[:64],
    )


def read_segmentation(
    dataset: pydicom.Dataset, slices: Sequence[Path]
) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """The label map of a DICOM Segmentation on the grid of the series that it refers to.

    Args:
        slices: the files of that series, as `sorted_slices` puts them.

    Returns:
        voxels (D, H, W), affine (4, 4) in RAS millimetres, and the ids of the segments that have voxels by name.

    Raises:
        RequestError: no readable segmentation, overlapping segments, or one of other slices.
    """
    try:
        segmentation = hd.seg.Segmentation.from_dataset(dataset, copy=False)
        frames = segmentation.get_pixels_by_source_instance(
            [pydicom.dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID for path in slices],
            combine_segments=True,
            assert_missing_frames_are_empty=True,
            ignore_spatial_locations=True,
        )
        names = {
            number: str(segmentation.get_segment_description(number).segment_label)
            for number in segmentation.segment_numbers
        }
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, IndexError) as error:
        raise RequestError(400, f"the DICOM segmentation cannot be read: {error}") from error
    present = {names[number]: int(number) for number in names if (frames == number).any()}
    return frames.transpose().astype(np.uint8), read_grid_of_slices(slices), present


def _pixel_measures(source: pydicom.Dataset, slices: Sequence[Path]) -> hd.PixelMeasuresSequence:
    """Viewers take the distance of slices from here; how thick a slice is often differs."""
    distance = float(np.linalg.norm(read_grid_of_slices(slices)[:3, 2]))
    thickness = float(source.get("SliceThickness") or distance)
    return hd.PixelMeasuresSequence(source.PixelSpacing, thickness, distance)


def _describe(number: int, name: str, color: tuple[float, float, float], model: str) -> hd.seg.SegmentDescription:
    code = _code(name)
    description = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=name,
        segmented_property_category=ALTERED_CATEGORY if code in (NEOPLASM, CYST) else CATEGORY,
        segmented_property_type=code,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.SEMIAUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=model, version=version("rep3d"), family=FAMILY
        ),
    )
    description.RecommendedDisplayCIELabValue = _cielab(color)
    return description


def _code(name: str) -> Code:
    """The concept of SNOMED CT for a label's name, or for what the name qualifies (left kidney: kidney)."""
    keywords = {keyword.casefold(): keyword for keyword in dir(codes.SCT)}
    words = name.split()
    for start in range(len(words)):
        rest = words[start:]
        keyword = KEYWORDS.get(" ".join(rest)) or keywords.get("".join(rest).casefold())
        if keyword:
            return getattr(codes.SCT, keyword)
    return STRUCTURE


def _cielab(color: tuple[float, float, float]) -> list[int]:
    """A colour as DICOM's three 16-bit numbers."""
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    pixel = Image.new("RGB", (1, 1), tuple(round(255 * part) for part in color))
    transform = ImageCms.buildTransform(srgb, lab, "RGB", "LAB")
    lightness, a, b = transform.apply(pixel).tobytes()
    return [lightness * 257, (a ^ 128) * 257, (b ^ 128) * 257]  # Pillow stores a and b as signed bytes
