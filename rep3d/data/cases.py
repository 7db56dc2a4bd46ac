"""One name for a case, in lists, splits, label maps and scores.

A case is named after its image's file, without the suffix: `scan_3`. Where that does not tell the images of a data set
apart, its name is the shortest end of the path that does: `case_00000/imaging`. Files of one folder that differ in the
suffix alone keep it: `a.nii` and `a.nii.gz`. nnU-Net's channel number belongs to the name unless the label goes
without it: `liver_1_0000.nii.gz` with the label `liver_1.nii.gz` is the case `liver_1`.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

SUFFIXES = (".nii.gz", ".nii")
POSTFIX = "_seg"  # of the label maps that bundles write
CHANNEL = "_0000"  # ends the names of nnU-Net's images
LABEL_WORDS = {"seg", "dseg", "label", "labels", "mask", "segmentation", "gt", "annotation"}  # in a label's name
WORDS = [re.compile(one) for one in (r"^([A-Za-z]+)[_\-. ]", r"[_\-. ]?([A-Za-z]+)$")]  # the first and the last

ONE_CHANNEL = ("image",)  # names of the channels of images that have one

Item = dict[str, Any]  # "image": a path, or one for each channel; "label" and "case", where it has them: texts


def image_files(item: Mapping[str, Any]) -> list[str]:
    """The files of an item's image: one with all its channels, or one for each."""
    image = item["image"]
    return [str(path) for path in image] if isinstance(image, list | tuple) else [str(image)]


def first_file(item: Mapping[str, Any]) -> str:
    """The file that an item's image is known by: the only one, or that of the first channel."""
    return image_files(item)[0]


def one_or_all(paths: list[str]) -> str | list[str]:
    """The form of an item's "image": a path, or the list of those of its channels."""
    return paths[0] if len(paths) == 1 else paths


def only_file(item: Mapping[str, Any]) -> str:
    """The file of an item's image where it is one file.

    Raises:
        ValueError: it has several, one for each channel.
    """
    first, *others = image_files(item)
    if others:
        raise ValueError(f"{first}: one of {len(others) + 1} channels, expected an image in one file")
    return first


def case_name(path: str | os.PathLike) -> str:
    """The file's name without suffix."""
    name = Path(path).name
    return name[: len(name) - len(next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), ""))]


def is_nifti(path: Path) -> bool:
    """Whether a file is NIfTI by its name, in whatever case that is written."""
    return path.name.lower().endswith(SUFFIXES)


def without_label_word(name: str) -> str:
    """A label's name without the word, at its beginning or its end, that tells its kind; any other name as it is."""
    for match in filter(None, (word.search(name) for word in WORDS)):
        if match[1].lower() in LABEL_WORDS:
            return name[: match.start()] + name[match.end() :]
    return name


def item_name(item: Mapping[str, Any]) -> str:
    """The name that an item has by itself: its "case", or that of its image's file."""
    return item.get("case") or case_name(first_file(item))


def case_names(items: Sequence[Mapping[str, Any]]) -> list[str]:
    """A name for each item {"image": path}, by which no two of them are mixed up, as file names neither.

    Args:
        items: an item's "label" tells what nnU-Net's channel number is; its "case" is taken as it is.

    Raises:
        ValueError: an image is listed twice, or two of them cannot be told apart. Names both.
    """
    for image, count in Counter(os.path.abspath(path) for item in items for path in image_files(item)).items():
        if count > 1:
            raise ValueError(f"{image} is listed {count} times, expected every image once")
    plain = [_without_suffix(item) for item in items]
    same = Counter(plain)
    paths = [
        Path(os.path.abspath(first_file(item))) if same[path] > 1 else path
        for item, path in zip(items, plain, strict=True)
    ]
    names = [item.get("case") or path.name for item, path in zip(items, paths, strict=True)]
    for depth in range(2, max((len(path.parts) for path in paths), default=0)):
        for i in _clashing(names):
            names[i] = items[i].get("case") or "/".join(paths[i].parts[1:][-depth:])
    clashing = _clashing(names)
    if clashing:
        first, *others = clashing
        second = next(i for i in others if file_name(names[i]) == file_name(names[first]))
        raise ValueError(
            f"{first_file(items[first])} and {first_file(items[second])} are both case {names[first]!r}, expected a "
            "name of its own for each: rename one"
        )
    return names


def name_cases(items: Sequence[Item]) -> list[Item]:
    """The items, each with its name as "case" where the names of the files do not tell the cases apart.

    Raises:
        ValueError: as `case_names`.
    """
    names = case_names(items)
    bare = [{key: value for key, value in item.items() if key != "case"} for item in items]
    if names == [case_name(first_file(item)) for item in items]:
        return bare
    return [{**item, "case": name} for item, name in zip(bare, names, strict=True)]


def find_case(name: str, cases: Collection[str]) -> list[str]:
    """The cases that a name may stand for: the one of that name, else those whose path or file name ends so."""
    if name in cases:
        return [name]
    ends = (f"/{name}", f"/{name}{CHANNEL}")
    return [case for case in cases if f"/{case}".removesuffix(".gz").removesuffix(".nii").endswith(ends)]


def file_name(name: str) -> str:
    """A case's name as the beginning of a file's."""
    return name.replace("/", "_")


def output_name(meta: Mapping[str, Any] | None, saver: object = None) -> dict[str, Any]:
    """For `SaveImaged(output_name_formatter=...)`: names a file after the "case" of the metadata, else after the image.

    `rep3d.transforms.CaseToMetad` puts the case there.
    """
    meta = meta or {}
    name = meta.get("case") or case_name(meta["filename_or_obj"])
    return {"subject": f"{file_name(name)}{SUFFIXES[0]}", "idx": None}  # the suffix guards dots in the name


def _without_suffix(item: Mapping[str, Any]) -> Path:
    """The image's path without suffix, and without a channel number that its label or its other channels lack."""
    path = Path(os.path.abspath(first_file(item)))
    name = case_name(path)
    if len(image_files(item)) > 1 or "label" in item and name == case_name(item["label"]) + CHANNEL:
        name = name.removesuffix(CHANNEL)
    return path.with_name(name)


def _clashing(names: Sequence[str]) -> list[int]:
    """Where a name stands that would lead to the same file as another one."""
    keys = [file_name(name) for name in names]
    count = Counter(keys)
    return [i for i, key in enumerate(keys) if count[key] > 1]
