"""Data sets in the layout of the Medical Segmentation Decathlon: imagesTr, labelsTr and dataset.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from rep3d.data.dataset_json import FILE
from rep3d.files import read_json, whole_file, write_json

PARTS = ("imagesTr", "labelsTr")


def case_files(folder: Path, file_name: str) -> list[Path]:
    """The image and the label of a case."""
    return [folder / part / file_name for part in PARTS]


def list_cases(folder: Path) -> list[tuple[Path, Path]]:
    """The images and labels that dataset.json lists."""
    return [(folder / pair["image"], folder / pair["label"]) for pair in read_json(folder / FILE)["training"]]


def write_case(
    folder: Path, file_name: str, volumes: Sequence[np.ndarray], affine: np.ndarray, orientation: str = "RAS"
) -> None:
    """Write an image and its label, (D, H, W) in RAS order, their axes flipped and permuted to the orientation.

    Args:
        folder: of the data set.
        file_name: of both files, with suffix.
        volumes: the image and the label.
        affine: (4, 4), from voxels to millimetres, along the axes.
        orientation: axis codes of the written arrays, such as "LPS".
    """
    axes = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(orientation))
    for path, volume in zip(case_files(folder, file_name), volumes, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        image = nib.Nifti1Image(volume, affine)
        image.header.set_xyzt_units("mm")
        with whole_file(path) as temporary:
            nib.save(image.as_reoriented(axes), temporary)


def write_index(
    folder: Path, file_names: Sequence[str], *, name: str, modality: str, labels: Mapping[int, str], **more: object
) -> None:
    """Write dataset.json. Do it last: without it an interrupted call is not taken for a data set.

    Args:
        folder: of the data set.
        file_names: of the cases.
        name: of the data set.
        modality: such as "MRI".
        labels: name of each label id, without the background.
        more: further entries.
    """
    training = [
        dict(zip(("image", "label"), (f"./{part}/{file}" for part in PARTS), strict=True)) for file in file_names
    ]
    dataset = {
        "name": name,
        "description": "Synthetic volumes, no patient data",
        **more,
        "modality": {"0": modality},
        "labels": {"0": "background"} | {str(i): labels[i] for i in sorted(labels)},
        "numTraining": len(training),
        "numTest": 0,
        "training": training,
        "test": [],
    }
    write_json(folder / FILE, dataset)
