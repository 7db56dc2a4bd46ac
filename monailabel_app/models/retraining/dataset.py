"""The data set of a retraining, as the bundle reads it: which cases train and which validate, and their files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from monailabel_app.bundles import Bundle
from monailabel_app.models.retraining.labels import Item
from monailabel_app.models.versions import list_versions
from monailabel_app.studies.volumes import read_grid, read_voxels
from rep3d.data.dataset_json import FILE as DATASET_FILE
from rep3d.data.leakage import image_digests
from rep3d.data.splits import FILE as SPLITS_FILE
from rep3d.files import write_json
from rep3d.training.checkpoints import trained_on


def write_dataset(
    bundle: Bundle, items: Mapping[str, Item], fraction: float, folder: Path, memory: Path
) -> dict[str, list[str]]:
    """Write a data set into an empty folder.

    Args:
        items: paths of image and label by case.
        fraction: of the cases, to validate with.
        memory: file that remembers the images' digests.

    Returns:
        The cases by part, "training" and "validation".
    """
    for case, item in items.items():
        item["image"] = str(_as_nifti(case, Path(item["image"]), folder))
    named = [{**item, "case": case} for case, item in items.items()]
    served_on = trained_on(bundle.weights, named, memory) if bundle.weights.is_file() else []
    known = known_parts(bundle) | dict.fromkeys(served_on, "training")
    training, validation = split_images(_same_image(items, memory), fraction, known)
    write_json(folder / DATASET_FILE, {"training": named})
    write_json(folder / SPLITS_FILE, [{"train": training, "val": validation}])
    return {"training": training, "validation": validation}


def known_parts(bundle: Bundle) -> dict[str, str]:
    """The part, "training" or "validation", of every case that a version saw: training, where any was trained on it."""
    seen = [version["cases"] for version in list_versions(bundle) if "cases" in version]
    validation, training = (
        dict.fromkeys((case for cases in seen for case in cases[part]), part) for part in ("validation", "training")
    )
    return validation | training


def split_images(
    cases: Mapping[str, Sequence[str]], fraction: float, known: Mapping[str, str]
) -> tuple[list[str], list[str]]:
    """As `split_cases`, where several cases may show one image: they have one part, training where any was trained on.

    Args:
        cases: that show the same image, by the first of them.
    """
    parts = {first: {known[case] for case in alike if case in known} for first, alike in cases.items()}
    known = {first: "training" if "training" in some else "validation" for first, some in parts.items() if some}
    training, validation = split_cases(cases, fraction, known)
    return sorted(chain(*(cases[first] for first in training))), sorted(chain(*(cases[first] for first in validation)))


def split_cases(
    cases: Mapping[str, Any], fraction: float, known: Mapping[str, str] | None = None
) -> tuple[list[str], list[str]]:
    """Training and validation cases. A known case keeps its part, new ones get theirs by their names alone.

    With one case there is no validation. With more, and a fraction above 0, one new case validates where no known one
    does, whatever its name. Where nothing else is left to train on, validation cases are trained on.
    """
    known = known or {}
    parts = {part: [case for case in cases if known.get(case) == part] for part in ("training", "validation")}
    new = sorted((case for case in cases if case not in known), key=_position)
    count = 0
    if fraction > 0 and len(cases) > 1:
        count = max(sum(_position(case) < fraction for case in new), not parts["validation"])
        count = min(count, len(new) if parts["training"] else len(new) - 1)
    count = max(count, 0)
    training, validation = sorted(parts["training"] + new[count:]), sorted(parts["validation"] + new[:count])
    return (training, validation) if training else (validation, [])


def _same_image(items: Mapping[str, Item], memory: Path) -> dict[str, list[str]]:
    """The cases whose images have the same voxels, by the first of them."""
    digests = image_digests([item["image"] for item in items.values()], memory)
    alike: dict[str, list[str]] = {}
    for case, item in sorted(items.items()):
        alike.setdefault(digests.get(item["image"], case), []).append(case)
    return {cases[0]: cases for cases in alike.values()}


def _position(case: str) -> float:
    """A number from 0 to 1 that depends on the case's name alone."""
    return int(hashlib.sha256(case.encode()).hexdigest()[:12], 16) / 16**12


def _as_nifti(case: str, image: Path, folder: Path) -> Path:
    """Training reads NIfTI; images of another format are converted into the folder."""
    if image.name.lower().endswith((".nii", ".nii.gz")):
        return image
    path = folder / f"{case}.nii.gz"
    nib.save(nib.Nifti1Image(read_voxels(image).astype(np.float32), read_grid(image).affine), path)
    return path
