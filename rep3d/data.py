"""Data lists and splits from folders of NIfTI files, and the checks that run before training starts.

A data set is a folder in the Medical Segmentation Decathlon's layout (with `dataset.json`) or with the folders
`imagesTr labelsTr imagesVal labelsVal` and, if there is a test set, `imagesTs labelsTs`. A `splits.json` beside them
(see `rep3d.splits`) decides which pair belongs to which part.
"""

from __future__ import annotations

import json
import logging
import os
import random
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from rep3d.progress import track
from rep3d.splits import FILE as SPLITS_FILE
from rep3d.splits import cases_of, read_splits

logger = logging.getLogger(__name__)

PARTS = ("training", "validation", "test")
FOLDER_SUFFIXES = {"training": "Tr", "validation": "Val", "test": "Ts"}
FRACTIONS = (0.7, 0.1, 0.2)  # of PARTS, where a Decathlon set has no split of its own
VALIDATION_FRACTIONS = (7 / 8, 1 / 8)  # where it only lacks validation pairs: training and validation in proportion
SPLIT_SEED = 0
SUFFIXES = (".nii.gz", ".nii")
AFFINE_TOLERANCE = 1e-2  # millimetres
SHOWN_PROBLEMS = 20

Item = dict[str, str]


def load_datalist(dataset_dir: str | os.PathLike, part: str, fold: int = 0) -> list[Item]:
    """The pairs {"image": path, "label": path} of one part of a data set.

    Where the folder has a `splits.json`, it names them. Otherwise a Decathlon set is split by its own lists
    "validation" and "test" as far as they hold pairs: without a test list, the test part is the validation part;
    without a validation list, one eighth of the training list is taken, at random with a fixed seed; without both, the
    training list is split 70/10/20 %. Without `imagesTs` and `labelsTs`, the test part of the folder layout is its
    validation part.

    Args:
        dataset_dir: the data set's folder.
        part: "training", "validation" or "test".
        fold: of `splits.json`.

    Raises:
        ValueError: an unknown part or fold, a `dataset.json` or `splits.json` that cannot be read or names what is not
            there, an image without a label or an empty list.
        FileNotFoundError: the folder does not exist or has neither layout.
    """
    if part not in PARTS:
        raise ValueError(f"part must be one of {PARTS}, got {part!r}")
    folder = _existing_folder(dataset_dir)
    splits = folder / SPLITS_FILE
    if splits.is_file():
        items = _split_items(folder, splits, part, fold)
    elif fold != 0:
        raise ValueError(f"fold is {fold}, but {str(folder)!r} has no {splits.name}: scripts/prepare_data.py makes one")
    elif (folder / "dataset.json").is_file():
        items = _decathlon_items(folder, part)
    elif (folder / "imagesTr").is_dir():
        items = _folder_items(folder, part)
    else:
        raise FileNotFoundError(
            f"dataset_dir {str(folder)!r} holds no data set: expected a dataset.json (Decathlon layout), or the "
            "folders imagesTr, labelsTr, imagesVal and labelsVal"
        )
    if not items:
        raise ValueError(f"the {part} list of {str(folder)!r} is empty: expected at least one image with a label")
    return items


def load_inference_list(source: str | os.PathLike) -> list[Item]:
    """The images {"image": path} to segment: one file, a folder of scans, or the test images of a data set.

    Of a Decathlon set these are the "test" images of its `dataset.json`, or the test part of its split.

    Raises:
        ValueError: a folder without NIfTI files, or a file of another kind.
        FileNotFoundError: `source` does not exist.
    """
    path = Path(source)
    if path.is_file():
        if not path.name.endswith(SUFFIXES):
            raise ValueError(
                f"dataset_dir {str(path)!r} is no NIfTI file: expected a name that ends with .nii.gz or .nii"
            )
        return [{"image": str(path)}]
    folder = _existing_folder(source)
    if (folder / "dataset.json").is_file():
        listed = read_dataset_json(folder).get("test")
        if listed:
            return [{"image": str(folder / (entry["image"] if isinstance(entry, dict) else entry))} for entry in listed]
        return [{"image": item["image"]} for item in load_datalist(folder, "test")]
    if (folder / "imagesTr").is_dir():
        images = list_scans(folder / "imagesTs") or list_scans(folder / "imagesVal")
    else:
        images = list_scans(folder)
    if not images:
        raise ValueError(f"dataset_dir {str(folder)!r} holds no scans: expected files that end with .nii.gz or .nii")
    return [{"image": str(image)} for image in images]


def random_split(
    items: Sequence[Item], fractions: Sequence[float] = FRACTIONS, seed: int = SPLIT_SEED
) -> list[list[Item]]:
    """Items in random order, cut by the fractions; the last part takes what rounding leaves.

    The order of the argument does not matter, and every part has at least one item where there are enough.
    """
    shuffled = sorted(items, key=lambda item: item["image"])
    random.Random(seed).shuffle(shuffled)
    count, parts = len(shuffled), len(fractions)
    ends = np.cumsum([max(1, round(fraction * count)) for fraction in fractions[:-1]])
    later = [max(part, count - parts + part) for part in range(1, parts)]  # leaves one for each later part
    bounds = [0, *map(int, np.minimum(ends, later)), count]
    return [shuffled[start:end] for start, end in pairwise(bounds)]


def check_datalist(items: Iterable[Item], classes: int, memory: str | os.PathLike | None = None) -> None:
    """Check every image and label before a training starts, and raise one error that lists all problems.

    Headers are read every time: each file exists and is a 3D NIfTI with a usable affine, and a label has the shape and
    affine of its image. Voxels are read once per file (finite images; whole-numbered label ids below `classes`), and
    again only when the file's size or modification time changes.

    Args:
        items: {"image": path, "label": path}.
        classes: label ids are 0 to classes - 1.
        memory: JSON file that remembers the checked voxels, or None to check them every time. Where it cannot be
            written, a warning says so, and the next call checks again.

    Raises:
        ValueError: the files that are wrong, and how.
    """
    items = list(items)
    problems = []
    good = []
    for item in items:
        try:
            check_header_pair(item)
            good.append(item)
        except ValueError as error:
            problems.append(str(error))
    seen = _read_memory(memory)
    checks: list[tuple[str, Callable[[str], str]]] = [(item["image"], _check_image_voxels) for item in good]
    checks += [(item["label"], lambda path: _check_label_voxels(path, classes)) for item in good]
    pending = [(path, check, key) for path, check in checks if (key := _voxel_key(path, classes)) not in seen]
    for path, check, key in track(pending, "Checking voxels", "file"):
        problem = check(path)
        if problem:
            problems.append(problem)
        else:
            seen.add(key)
    _write_memory(memory, seen)
    if problems:
        shown = "\n  ".join(problems[:SHOWN_PROBLEMS])
        more = f"\n  and {len(problems) - SHOWN_PROBLEMS} more" if len(problems) > SHOWN_PROBLEMS else ""
        raise ValueError(f"{len(problems)} problem(s) in the data set:\n  {shown}{more}")


def check_header_pair(item: Item) -> None:
    """Raise ValueError, naming the file, unless the headers of image and label are usable and agree."""
    image_shape, image_affine = read_header(item["image"])
    label_shape, label_affine = read_header(item["label"])
    if image_shape != label_shape:
        raise ValueError(
            f"{item['label']}: shape {label_shape} differs from {image_shape} of its image {item['image']}"
        )
    if not np.allclose(image_affine, label_affine, atol=AFFINE_TOLERANCE):
        raise ValueError(
            f"{item['label']}: affine {label_affine.round(3).tolist()} differs from {image_affine.round(3).tolist()} "
            f"of its image {item['image']}"
        )


def read_header(path: str | os.PathLike) -> tuple[tuple[int, ...], np.ndarray]:
    """Shape and affine (4, 4; millimetres) of a 3D NIfTI file.

    Raises:
        ValueError: the file is missing, empty or unreadable, not 3D, or its affine is singular.
    """
    try:
        volume: Any = nib.load(path)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except Exception as error:
        size = os.path.getsize(path)
        raise ValueError(f"{path}: cannot be read as NIfTI ({size} bytes; {error})") from error
    if len(volume.shape) != 3 or min(volume.shape) < 1:
        raise ValueError(f"{path}: shape {volume.shape}, expected three dimensions")
    affine = np.asarray(volume.affine, dtype=np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise ValueError(f"{path}: affine {affine.round(3).tolist()} is singular, expected an invertible one")
    return volume.shape, affine


def _check_image_voxels(path: str) -> str:
    voxels = read_voxels(path)
    return voxels if isinstance(voxels, str) else image_problem(path, voxels)


def image_problem(path: str, voxels: np.ndarray) -> str:
    """What is wrong with an image's voxels, or an empty text."""
    bad = voxels.size - np.count_nonzero(np.isfinite(voxels))
    return f"{path}: {bad} voxel(s) are NaN or infinite" if bad else ""


def _check_label_voxels(path: str, classes: int) -> str:
    voxels = read_voxels(path)
    return voxels if isinstance(voxels, str) else label_problem(path, np.unique(voxels), classes)


def label_problem(path: str, ids: np.ndarray, classes: int) -> str:
    """What is wrong with the values of a label map, or an empty text."""
    wrong = [float(i) for i in ids if not (0 <= i < classes and i == round(i))]
    return f"{path}: label value(s) {wrong[:5]}, expected whole numbers from 0 to {classes - 1}" if wrong else ""


def read_voxels(path: str) -> np.ndarray | str:
    """The voxels of a NIfTI file, or why they cannot be read."""
    try:
        volume: Any = nib.load(path)
        voxels = np.asanyarray(volume.dataobj)
    except Exception as error:
        return f"{path}: voxels cannot be read ({error})"
    if voxels.dtype.kind not in "biuf":
        return f"{path}: voxels of type {voxels.dtype}, expected numbers"
    return voxels


def _voxel_key(path: str, classes: int) -> str:
    stat = os.stat(path)
    return f"{os.path.abspath(path)}|{stat.st_size}|{stat.st_mtime_ns}|{classes}"


def _read_memory(memory: str | os.PathLike | None) -> set[str]:
    if memory is None or not Path(memory).is_file():
        return set()
    try:
        return set(json.loads(Path(memory).read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        return set()  # only costs another check


def _write_memory(memory: str | os.PathLike | None, seen: set[str]) -> None:
    if memory is None:
        return
    path = Path(memory)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(sorted(seen), indent=0), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        logger.warning("cannot write %s (%s): the voxels will be checked again", path, error)
        if temporary.is_file():
            temporary.unlink()


def _split_items(folder: Path, splits: Path, part: str, fold: int) -> list[Item]:
    if (folder / "dataset.json").is_file():
        dataset = read_dataset_json(folder)
        entries = [entry for name in PARTS for entry in dataset.get(name) or [] if _is_pair(entry)]
        items = [_absolute(folder, entry) for entry in entries]
    else:
        labelled = [suffix for suffix in FOLDER_SUFFIXES.values() if (folder / f"labels{suffix}").is_dir()]
        items = [item for suffix in labelled for item in _folder_pairs(folder, suffix)]
    item_of = {case_name(item["image"]): item for item in items}
    chosen = cases_of(read_splits(splits, item_of), part, fold, splits)
    return [item_of[case] for case in chosen]


def _decathlon_items(folder: Path, part: str) -> list[Item]:
    dataset = read_dataset_json(folder)
    own = {name: [entry for entry in dataset.get(name) or [] if _is_pair(entry)] for name in PARTS}
    if own["validation"]:
        own["test"] = own["test"] or own["validation"]
    elif own["test"]:
        own["training"], own["validation"] = random_split(own["training"], VALIDATION_FRACTIONS)
    else:
        own = dict(zip(PARTS, random_split(own["training"]), strict=True))
    return [_absolute(folder, entry) for entry in own[part]]


def _absolute(folder: Path, entry: Item) -> Item:
    return {key: str(folder / entry[key]) for key in ("image", "label")}


def _is_pair(entry: object) -> bool:
    return isinstance(entry, dict) and "image" in entry and "label" in entry


def _folder_items(folder: Path, part: str) -> list[Item]:
    suffix = FOLDER_SUFFIXES[part]
    if part == "test" and not ((folder / "imagesTs").is_dir() and (folder / "labelsTs").is_dir()):
        suffix = "Val"
    return _folder_pairs(folder, suffix)


def _folder_pairs(folder: Path, suffix: str) -> list[Item]:
    images, labels = (list_scans(folder / f"{kind}{suffix}") for kind in ("images", "labels"))
    label_of = {case_name(label): label for label in labels}
    missing = [image.name for image in images if case_name(image) not in label_of]
    if missing:
        raise ValueError(
            f"{folder / f'labels{suffix}'} lacks the label of {missing[0]} and {len(missing) - 1} other image(s)"
        )
    return [{"image": str(image), "label": str(label_of[case_name(image)])} for image in images]


def case_name(path: str | os.PathLike) -> str:
    """The file's name without suffix and without the channel number of nnU-Net's image names."""
    name = Path(path).name.removesuffix(".gz").removesuffix(".nii")
    return name.removesuffix("_0000")


def list_scans(folder: Path) -> list[Path]:
    """The NIfTI files of a folder by name; none where there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.name.endswith(SUFFIXES) and not path.name.startswith("."))


def _existing_folder(path: str | os.PathLike) -> Path:
    folder = Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"dataset_dir {str(folder)!r} does not exist: give the data set's folder, --dataset_dir DIR"
        )
    return folder


def read_dataset_json(folder: Path) -> dict:
    """The folder's `dataset.json`.

    Raises:
        ValueError: it is missing, or no valid JSON object.
    """
    path = folder / "dataset.json"
    try:
        dataset = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except ValueError as error:
        raise ValueError(f"{path}: no valid JSON ({error})") from error
    if not isinstance(dataset, dict):
        raise ValueError(f'{path}: holds a {type(dataset).__name__}, expected an object with the list "training"')
    return dataset
