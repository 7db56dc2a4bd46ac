"""A folder of images beside one of labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rep3d.data.cases import is_nifti
from rep3d.data.layouts import list_nifti, what_else
from rep3d.datasets.sources.cases import Source, cases_of, channels_of
from rep3d.io.folders import walk

IMAGE_FOLDERS = {"image", "images", "imgs", "scan", "scans", "volumes", "imagestr"}
LABEL_FOLDERS = {"label", "labels", "mask", "masks", "seg", "segs", "segmentation", "segmentations", "gt", "labelstr"}
FOLDERS = "images and labels, or imagesTr and labelsTr"


def folder_pairs(folder: Path) -> list[tuple[Path, Path]]:
    """The folders of images with those of their labels; of a folder that was split by hand, training and validation.

    Raises:
        ValueError: several folders may hold the images.
    """
    parts = [(folder / f"images{part}", folder / f"labels{part}") for part in ("Tr", "Val")]
    if all(path.is_dir() for path in parts[0]):
        return [pair for pair in parts if all(path.is_dir() for path in pair)]
    below = [path for path in sorted(folder.iterdir()) if path.is_dir()]
    found = [[path for path in below if path.name.lower() in names] for names in (IMAGE_FOLDERS, LABEL_FOLDERS)]
    if not all(found):
        return []
    for paths in found:
        if len(paths) > 1:
            raise ValueError(f"{paths[0]} or {paths[1]}? expected one folder each of {FOLDERS}")
    return [(found[0][0], found[1][0])]


def side_by_side(folder: Path, pairs: Sequence[tuple[Path, Path]], layout: str) -> Source:
    """The cases of folders of images and of their labels.

    Args:
        pairs: see `folder_pairs`.
        layout: in words.

    Raises:
        ValueError: there is no image.
    """
    cases = [case for images, labels in pairs for case in cases_of(list_nifti(images), list_nifti(labels))]
    if not any(case.images for case in cases):
        images = pairs[0][0]
        told = f"source {str(folder)!r}: {images} holds no .nii.gz or .nii files"
        raise ValueError(f"{told}{_below(images)}{what_else(images)}")
    by_hand = f"the folders {' and '.join(images.name for images, _ in pairs)}" if len(pairs) > 1 else ""
    return Source(layout, cases, channels_of(cases), split=by_hand)


def _below(folder: Path) -> str:
    """How many images lie in the subfolders, to end a message with; empty where there are none."""
    below = [path for _, files in walk(folder) for path in files if is_nifti(path)]
    return f"; {len(below)} lie in its subfolders, such as {below[0]}: move them into the folder" if below else ""
