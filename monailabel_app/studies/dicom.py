"""DICOM series of the studies, and DICOM Segmentations of them; see `rep3d.io.dicom` and `rep3d.io.dicom_seg`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom

from monailabel_app.bundles import Bundle
from monailabel_app.studies.refusals import refusals
from monailabel_app.studies.volumes import MAX_BYTES, check_image
from rep3d.files import whole_file
from rep3d.io import dicom, dicom_seg

logger = logging.getLogger(__name__)


def sorted_slices(series: Path) -> list[Path]:
    """The files of a series from its first slice to its last.

    Raises:
        RequestError: they make no grid.
    """
    with refusals():
        return dicom.sorted_slices(series)


def convert_series(series: Path, target: Path) -> None:
    """Write a series as NIfTI; the log names the files of its folder that are none of its slices.

    Raises:
        RequestError: slices that make no grid or cannot be read, or a volume that no network can take.
        WriteError: the file cannot be written.
    """
    with whole_file(target) as temporary, refusals():
        set_aside = dicom.convert_series(series, temporary)
        check_image(temporary)
    if set_aside:
        logger.warning("series %s: %s", series.name, dicom.describe(set_aside))


def make_segmentation(
    slices: Sequence[Path], voxels: np.ndarray, bundle: Bundle, *, uid: str | None = None, is_proposal: bool = False
) -> pydicom.Dataset:
    """A bundle's label map as a DICOM Segmentation; see `rep3d.io.dicom_seg.make_segmentation`.

    Raises:
        RequestError: an empty label map, or slices without the identifiers that a segmentation refers to.
    """
    with refusals():
        return dicom_seg.make_segmentation(slices, voxels, bundle.labels, bundle.name, uid=uid, is_proposal=is_proposal)


def read_segmentation(
    dataset: pydicom.Dataset, slices: Sequence[Path]
) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """The label map of a DICOM Segmentation; see `rep3d.io.dicom_seg.read_segmentation`.

    Raises:
        RequestError: no readable segmentation, or one of other slices.
    """
    with refusals():
        return dicom_seg.read_segmentation(dataset, slices, MAX_BYTES)
