"""The scans of a data set as it was downloaded: AMOS22, KiTS, and the tasks of the Medical Segmentation Decathlon."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rep3d.data.cases import Item, case_name, case_names, file_name, image_files
from rep3d.data.dataset_json import read_dataset_json
from rep3d.data.layouts import list_nifti, list_pairs, read_lists

AMOS_FIRST_MRI = 500  # AMOS22: smaller ids are CT
KITS_LABELS = ("segmentation.nii.gz", "aggregated_MAJ_seg.nii.gz")  # of KiTS23 and of KiTS21


class Scan(NamedTuple):
    case: str  # which its files in the output are named after
    images: Sequence[Path]  # one with all channels, or one for each
    label: Path | None  # None: to be segmented


Found = tuple[list[Scan], dict[str, list[str]]]  # the scans, and what is wrong by case


def find_scans(source: Path, data: Mapping[str, Any]) -> Found:
    """The scans of a download in the layout that its data set names; at least one has a label.

    Args:
        source: the data set's folder as it was downloaded and unpacked.
        data: "data" of a file in configs/datasets.

    Raises:
        ValueError: another layout or task, no pair, or two scans of one name.
    """
    scans, problems = LAYOUTS[data["layout"]](source, data)
    _refuse_equal_names(scans)
    if all(scan.label is None for scan in scans):
        raise ValueError(f"source {str(source)!r} holds no image with a label in the layout {data['layout']!r}")
    return scans, problems


def _refuse_equal_names(scans: Sequence[Scan]) -> None:
    """Raise ValueError where two scans, with or without labels, are of one name. Names both."""
    image_of: dict[tuple[str, bool], Path] = {}
    for scan in scans:
        image = image_of.setdefault((scan.case, scan.label is None), scan.images[0])
        if image != scan.images[0]:
            raise ValueError(f"{image} and {scan.images[0]} are both case {scan.case!r}: rename one")


def amos_scans(source: Path, data: Mapping[str, Any]) -> Found:
    """AMOS22: imagesTr, labelsTr, imagesVa, labelsVa, imagesTs; CT and MRI by the number in the file's name."""
    scans, problems = [], {}
    for part in ("Tr", "Va", "Ts"):
        labels = {case_name(path): path for path in list_nifti(source / f"labels{part}")}
        for image in list_nifti(source / f"images{part}"):
            case = case_name(image)
            number = re.search(r"\d+$", case)
            if number is None:
                problems[case] = [f"{image}: no number in the name, expected one such as amos_0001.nii.gz"]
            elif (int(number.group()) >= AMOS_FIRST_MRI) == (data["modality"] == "MRI"):
                if part == "Tr" and case not in labels:
                    problems[case] = [f"{image}: no label of this name in {source / 'labelsTr'}"]
                # The paper splits the 200 CT of imagesTr; the other images are for inference.
                scans.append(Scan(case, [image], labels.get(case) if part == "Tr" else None))
    return scans, problems


def kits_scans(source: Path, data: Mapping[str, Any]) -> Found:
    """KiTS21 and KiTS23: case_00000/imaging.nii.gz and the segmentation of that release."""
    scans, problems = [], {}
    for folder in sorted(path for path in source.iterdir() if re.fullmatch(r"case_\d+", path.name)):
        image = folder / "imaging.nii.gz"
        label = next((folder / name for name in KITS_LABELS if (folder / name).is_file()), None)
        if not image.is_file():
            problems[folder.name] = [f"{image}: no such file, the images are downloaded apart from the segmentations"]
        elif label is None:
            problems[folder.name] = [f"{folder}: no segmentation, expected one of {KITS_LABELS}"]
        scans.append(Scan(folder.name, [image], label))
    return scans, problems


def decathlon_scans(source: Path, data: Mapping[str, Any]) -> Found:
    """A task of the Medical Segmentation Decathlon, by its dataset.json.

    Raises:
        ValueError: there is no dataset.json, or its labels are not those of the bundle.
    """
    dataset = read_dataset_json(source)
    if _label_names(dataset.get("labels")) != [_plain(name) for name in data["task_labels"]]:
        raise ValueError(
            f"{source / 'dataset.json'}: the labels of {dataset.get('name')!r} are {dataset.get('labels')!r}, "
            f"expected {data['task_labels']} of {data['task']}"
        )
    listed, images = list_pairs(source), read_lists(source)["test"]
    pairs = [*listed["training"], *listed["validation"]]
    scans = [Scan(file_name(case), _paths(pair), Path(pair["label"])) for case, pair in _named(pairs)]
    return scans + [Scan(file_name(case), _paths(image), None) for case, image in _named(images)], {}


def _paths(item: Item) -> list[Path]:
    return list(map(Path, image_files(item)))


def _named(items: Sequence[Item]) -> Iterable[tuple[str, Item]]:
    return zip(case_names(items), items, strict=True)


def _label_names(labels: object) -> list[str]:
    """The names of the ids 0, 1, ..., from {"0": name} or nnU-Net's {name: 0}; none where it is neither."""
    if not isinstance(labels, dict):
        return []
    if not all(map(str.isdigit, labels)):
        labels = {str(i): name for name, i in labels.items()}
    return [_plain(str(labels[key])) for key in sorted(labels, key=int)] if all(map(str.isdigit, labels)) else []


def _plain(name: str) -> str:
    return name.strip().lower()


LAYOUTS: dict[str, Callable[[Path, Mapping[str, Any]], Found]] = {
    "amos": amos_scans,
    "kits": kits_scans,
    "decathlon": decathlon_scans,
}
