"""Label maps as files: NIfTI, NRRD, and Slicer's segmentation NRRD with names and colours."""

from __future__ import annotations

import colorsys
import errno
from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from monailabel.datastore.utils.colors import GENERIC_ANATOMY_COLORS

from rep3d.files import whole_file
from rep3d.io.geometry import Geometry
from rep3d.io.nifti import label_image

GOLDEN_ANGLE = 0.381966  # of the colour circle: neighbouring labels get distant hues


def write_label_map(
    voxels: np.ndarray,
    grid: Geometry,
    path: Path,
    *,
    labels: Mapping[str, int],
    dtype: str = "uint8",
    compress: bool = True,
) -> None:
    """Write a label map as a whole or not at all; the suffix of `path` decides the format.

    Args:
        voxels: (D, H, W) label ids.
        grid: of its scan. NIfTI gets the place that the scan's own header tells, NRRD the place where ITK sees it.
        labels: ids by name, for `.seg.nrrd`.
        dtype: of the voxels in the file, a whole-number type.

    Raises:
        ValueError: an id does not fit the dtype.
        rep3d.files.WriteError: it cannot be written.
    """
    if voxels.size and voxels.max() > np.iinfo(dtype).max:
        raise ValueError(f"dtype is {dtype}, but the label map holds {int(voxels.max())}")
    voxels = voxels.astype(dtype)
    with whole_file(path) as temporary:
        if path.name.endswith((".nii", ".nii.gz")):
            nib.save(label_image(voxels, grid), temporary)
        else:
            image = to_sitk(voxels, grid.affine if grid.itk_affine is None else grid.itk_affine)
            if path.name.endswith(".seg.nrrd"):
                _describe_segments(image, labels)
            try:
                sitk.WriteImage(image, str(temporary), useCompression=compress)
            except RuntimeError as error:
                raise OSError(errno.EIO, "ITK cannot write it") from error


def to_sitk(voxels: np.ndarray, affine: np.ndarray) -> sitk.Image:
    """(D, H, W) voxels on a grid in RAS millimetres as a SimpleITK image, which is in LPS."""
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(affine, dtype=np.float64)
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(np.ascontiguousarray(voxels.transpose()))
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


def label_colors(labels: Mapping[str, int]) -> dict[str, tuple[float, float, float]]:
    """A colour, red green blue from 0 to 1, for each label: the anatomical one where the name is known."""
    known = {name.lower(): color for name, color in GENERIC_ANATOMY_COLORS.items()}
    colors = {}
    for name, index in labels.items():
        rgb = known.get(name.lower())
        colors[name] = (
            (rgb[0] / 255, rgb[1] / 255, rgb[2] / 255)
            if rgb
            else colorsys.hsv_to_rgb(index * GOLDEN_ANGLE % 1, 0.65, 0.9)
        )
    return colors


def _describe_segments(image: sitk.Image, labels: Mapping[str, int]) -> None:
    """The header fields of Slicer's .seg.nrrd: every label is a segment, also one without voxels."""
    extent = " ".join(f"0 {size - 1}" for size in image.GetSize())
    image.SetMetaData("Segmentation_ContainedRepresentationNames", "Binary labelmap|")
    image.SetMetaData("Segmentation_MasterRepresentation", "Binary labelmap")
    image.SetMetaData("Segmentation_ReferenceImageExtentOffset", "0 0 0")
    colors = label_colors(labels)
    for number, (name, index) in enumerate(sorted(labels.items(), key=lambda item: item[1])):
        fields = {
            "ID": name,
            "Name": name,
            "Color": " ".join(f"{part:.6f}" for part in colors[name]),
            "Extent": extent,
            "LabelValue": str(index),
            "Layer": "0",
        }
        for field, value in fields.items():
            image.SetMetaData(f"Segment{number}_{field}", value)
