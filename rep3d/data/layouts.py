"""What a data set lists: pairs of image and label by part, from its `dataset.json` or from its folders.

`dataset.json` is read as the Decathlon writes it, as MONAI does (an image as a list of paths, "fold", "testing") and as
version 2 of nnU-Net does: it lists nothing, and the folders `imagesTr labelsTr` count. An image of several channels is
one file of four dimensions, or a file for each: `NAME_0000 NAME_0001` belong to the label `NAME`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from rep3d.data.cases import ONE_CHANNEL, SUFFIXES, Item, case_name, first_file, image_files, is_nifti, name_cases
from rep3d.data.leakage import some
from rep3d.data.memory import file_key
from rep3d.data.notes import warn_once
from rep3d.data.regions import IGNORE, Regions
from rep3d.io.dicom_files import is_dicom
from rep3d.io.nifti import is_label_map_of_ours

FILE = "dataset.json"
PARTS = ("training", "validation", "test")
FOLDER_SUFFIXES = {"training": "Tr", "validation": "Val", "test": "Ts"}
LISTS = {"training": ("training",), "validation": ("validation",), "test": ("test", "testing")}  # of dataset.json
DICOM = (
    "DICOM is not read here: convert it to NIfTI, as with dcm2niix, or open it with the label app, which reads series"
)
SEGMENT = "images without labels are segmented with --config_file configs/inference.json"
LOOKED_AT = 100  # files of a folder, to find DICOM among them
FORMS = '"path" or {"image": path, "label": path}'
COPY_OF = "copy_of"  # of an entry: the key, see `rep3d.data.memory.file_key`, of what its label was made of, or is
NUMBER = re.compile(r"(.+)_(\d{4})")  # nnU-Net's, of a channel, behind the name of a case

Entry = Item  # with a number "fold" where it has one


def list_pairs(folder: Path) -> dict[str, list[Entry]]:
    """The pairs of a data set in the lists that it has itself, with a "case" where files' names do not tell them apart.

    Raises:
        ValueError: what is listed cannot be read, an image has no label, or a case stands there twice.
        FileNotFoundError: the folder has none of the layouts.
    """
    if (folder / FILE).is_file():
        lists = read_lists(folder)
        pairs = {part: [entry for entry in lists[part] if "label" in entry] for part in PARTS}
        for part in ("training", "validation"):
            bare = [entry["image"] for entry in lists[part] if "label" not in entry]
            if bare and pairs[part]:
                raise ValueError(f'{folder / FILE}: "{part}" lists {bare[0]} without a label, expected pairs')
        _refuse_repeats(folder / FILE, pairs)
    elif (folder / "imagesTr").is_dir():
        pair_of = {part: _folder_pairs(folder, part) for part in PARTS}
        _by_case((case, Path(first_file(pair))) for part in PARTS for case, pair in pair_of[part].items())
        pairs = {part: list(pair_of[part].values()) for part in PARTS}
    else:
        raise FileNotFoundError(
            f"dataset_dir {str(folder)!r} holds no data set: expected a dataset.json (Decathlon layout), or the "
            f"folders imagesTr, labelsTr, imagesVal and labelsVal{what_else(folder)}"
        )
    named = iter(name_cases([pair for part in PARTS for pair in pairs[part]]))
    return {part: [next(named) for _ in pairs[part]] for part in PARTS}


def read_lists(folder: Path) -> dict[str, list[Entry]]:
    """The entries of `dataset.json` by part, with or without labels; their paths begin with the folder.

    Raises:
        ValueError: names the file and what was expected.
    """
    path, dataset = folder / FILE, read_dataset_json(folder)
    if {"channel_names", "file_ending"} & dataset.keys() and "training" not in dataset:
        return _nnunet_lists(folder, dataset)
    lists: dict[str, list[Entry]] = {}
    for part, names in LISTS.items():
        name = next((name for name in names if dataset.get(name)), part)
        listed = dataset.get(name) or []
        if not isinstance(listed, list):
            raise ValueError(f'{path}: "{name}" is a {type(listed).__name__}, expected a list of {FORMS}')
        lists[part] = [_entry(entry, folder, f'{path}: entry {i} of "{name}"') for i, entry in enumerate(listed)]
    return lists


def read_dataset_json(folder: Path) -> dict:
    """The folder's `dataset.json`.

    Raises:
        ValueError: it is missing, or no valid JSON object.
    """
    path = folder / FILE
    try:
        dataset = json.loads(path.read_text(encoding="utf-8-sig"))  # editors of Windows put a mark at the beginning
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except ValueError as error:
        raise ValueError(f"{path}: no valid JSON ({error})") from error
    if not isinstance(dataset, dict):
        raise ValueError(f'{path}: holds a {type(dataset).__name__}, expected an object with the list "training"')
    return dataset


def check_names(
    folder: Path,
    label_names: Sequence[str] = (),
    channel_names: Sequence[str] = ONE_CHANNEL,
    regions: Regions | None = None,
) -> None:
    """Refuse a data set whose `dataset.json` has a label, or one of several channels, of a bundle in another place.

    So is one whose regions are of other ids than the bundle's. Names that are not the bundle's say nothing.

    Args:
        label_names: the bundle's, of the ids from 0 on; empty: they are not looked at.
        channel_names: the bundle's, in their order.
        regions: the bundle's, see `rep3d.data.regions`.

    Raises:
        ValueError: names what stands elsewhere; or voxels that nobody has judged have the id of a label.
    """
    path = folder / FILE
    dataset = read_dataset_json(folder) if path.is_file() else {}
    _check_places(path, "labels", dataset.get("labels"), label_names)
    _check_regions(path, dataset.get("labels"), regions or {})
    if len(channel_names) > 1:
        _check_places(path, _channel_key(dataset), dict(enumerate(told_channels(folder, dataset))), channel_names)


def _check_places(path: Path, key: str, told: object, names: Sequence[str]) -> None:
    """What is told is {"1": name}, or {name: 1}; several ids are a region."""
    if not isinstance(told, Mapping):
        return
    own = {name.strip().casefold(): i for i, name in enumerate(names)}
    for name, number in named_places(told):
        if not str(number).isdecimal():
            continue
        i, plain = int(number), str(name).strip().casefold()
        if own.get(plain, i) != i or plain == IGNORE and i < len(names):
            expected = ", ".join(f"{place} {own_name}" for place, own_name in enumerate(names))
            raise ValueError(f'{path}: "{key}" has {name!r} as {i}, expected {expected}, as the bundle has them')


def _check_regions(path: Path, told: object, regions: Regions) -> None:
    """One id for a region of several says nothing: the label maps may show the region by it."""
    own = {name.strip().casefold(): sorted(map(str, ids)) for name, ids in regions.items()}
    for name, ids in named_places(told) if isinstance(told, Mapping) else ():
        found = sorted(map(str, ids if isinstance(ids, list) else [ids]))
        expected = own.get(name.strip().casefold(), found)
        if found != expected and not len(found) == 1 < len(expected):
            raise ValueError(
                f'{path}: "labels" has {name!r} as {", ".join(found)}, expected the ids {", ".join(expected)} of the '
                "bundle's region"
            )


def check_channel_files(items: Iterable[Item], channel_names: Sequence[str]) -> None:
    """Refuse an image of a file for each channel where the files' names are those of the channels in another order.

    Args:
        items: {"image": path or paths}.
        channel_names: the bundle's, in their order.

    Raises:
        ValueError: names the files and the order.
    """
    for problem in (order_problem(image_files(item), channel_names) for item in items):
        if problem:
            raise ValueError(problem)


def order_problem(files: Sequence[str], channel_names: Sequence[str]) -> str:
    """That files of channels are called after these in another order, or an empty text."""
    told = [channel_of(path, channel_names) for path in files]
    if told == list(channel_names) or sorted(told) != sorted(channel_names):
        return ""
    return f"{', '.join(files)}: another order by their names, expected {', '.join(channel_names)}"


def channel_of(path: str | os.PathLike, channel_names: Sequence[str]) -> str:
    """The longest of the channels that ends a file's name, in whatever case, or an empty text."""
    name = case_name(path)
    own = [one for one in channel_names if re.search(rf"(^|[_\-. ]){re.escape(one)}$", name, re.IGNORECASE)]
    return max(own, key=len, default="")


def named_places(told: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Names and what they stand for, of {"1": name} as of {name: 1}; of nnU-Net's regions that is a list of ids."""
    return [(str(other), one) if str(one).isdecimal() else (str(one), other) for one, other in told.items()]


def is_unjudged(name: str) -> bool:
    """Whether a label of this name marks voxels that nobody has judged."""
    return name.strip().casefold() == IGNORE


def check_all_judged(folder: Path) -> None:
    """Refuse a data set for what takes each of its labels for a structure, where one of them is none.

    Raises:
        ValueError: its `dataset.json` names a label of voxels that nobody has judged.
    """
    path = folder / FILE
    told = read_dataset_json(folder).get("labels") if path.is_file() else None
    unjudged = [name for name, _ in named_places(told) if is_unjudged(name)] if isinstance(told, Mapping) else []
    if unjudged:
        raise ValueError(
            f'{path}: "labels" has {unjudged[0]!r}, voxels that nobody has judged, expected structures alone: here '
            "every label is one"
        )


def list_scans(folder: Path) -> list[Path]:
    """The NIfTI files of a folder by name; none where there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if is_nifti(path) and not path.name.startswith("."))


def what_else(folder: Path) -> str:
    """What a folder without a data set holds instead, to end a message with; empty where it is nothing known."""
    if any(map(is_dicom_file, islice(folder.rglob("*"), LOOKED_AT))):
        return f"; {DICOM}"
    return f"; {SEGMENT}" if list_scans(folder) else ""


def is_dicom_file(path: Path) -> bool:
    """Whether a file is DICOM; False for one that cannot be read."""
    try:
        return path.is_file() and is_dicom(path)
    except OSError:
        return False


def _entry(entry: object, folder: Path, where: str) -> Entry:
    if isinstance(entry, str):
        entry = {"image": entry}
    if not isinstance(entry, dict):
        raise ValueError(f"{where} is {entry!r}, expected {FORMS}")
    found: Entry = {}
    for key in ("image", "label"):
        value = entry.get(key)
        if value is None and key == "label":
            continue
        listed: list[Any] = value if isinstance(value, list) and value else [value]
        if not all(isinstance(path, str) and path for path in listed):
            raise ValueError(f'{where}: "{key}" is {value!r}, expected a path')
        if key == "label" and len(listed) > 1:
            raise ValueError(f'{where}: "{key}" is a list of {len(listed)} paths, expected one label map')
        found[key] = one_or_all([str(folder / path) for path in listed])
    for key, kind, expected in (("case", str, "a name"), ("fold", int, "a whole number")):
        if key in entry:
            if not isinstance(entry[key], kind) or entry[key] == "":
                raise ValueError(f'{where}: "{key}" is {entry[key]!r}, expected {expected}')
            found[key] = entry[key]
    if COPY_OF in entry:
        _check_copy(entry[COPY_OF], where)
    return found


def originals(folder: Path) -> dict[str, str]:
    """What the label maps that may be copies with other ids were made of, by their paths.

    Raises:
        ValueError: there is a `dataset.json` that is no JSON object.
    """
    listed = read_dataset_json(folder).get("training") if (folder / FILE).is_file() else None
    entries = [entry for entry in listed or () if isinstance(entry, Mapping) and COPY_OF in entry]
    return {str(folder / str(entry.get("label"))): _original(entry[COPY_OF]) for entry in entries}


def _original(key: object) -> str:
    """The file that the value of COPY_OF is of."""
    return str(key).rsplit("|", 2)[0]


def _check_copy(key: object, where: str) -> None:
    """Refuse a label map that is, or was made of, a file that has changed since; one that is gone says nothing."""
    path = _original(key)
    if Path(path).is_file() and file_key(path) != key:
        raise ValueError(f"{where}: the label was made of {path}, which has changed since: run `rep3d new` again")


def check_file_ending(folder: Path, ending: object) -> None:
    """Refuse a data set of nnU-Net whose `dataset.json` tells of other files than NIfTI.

    Raises:
        ValueError: names the file, its "file_ending" and those that are read.
    """
    if ending not in SUFFIXES:
        raise ValueError(f'{folder / FILE}: "file_ending" is {ending!r}, expected one of {", ".join(SUFFIXES)}')


def told_channels(folder: Path, dataset: Mapping[str, Any]) -> tuple[str, ...]:
    """The channels of a `dataset.json` in their order: {"0": name}, or a list of names; empty where it tells none.

    Raises:
        ValueError: "channel_names" are neither. A "modality" of another form says nothing.
    """
    key = _channel_key(dataset)
    told = dataset.get(key) or {}
    if isinstance(told, list):
        told = dict(enumerate(told))
    if isinstance(told, Mapping) and all(str(number).isdecimal() for _, number in named_places(told)):
        return tuple(name for name, _ in sorted(named_places(told), key=lambda place: int(place[1])))
    if key == "modality":
        return ()
    raise ValueError(f'{folder / FILE}: "{key}" is {told!r}, expected {{"0": name}}')


def _channel_key(dataset: Mapping[str, Any]) -> str:
    return "channel_names" if dataset.get("channel_names") else "modality"


def _nnunet_lists(folder: Path, dataset: Mapping[str, Any]) -> dict[str, list[Entry]]:
    names = told_channels(folder, dataset)
    if "file_ending" in dataset:
        check_file_ending(folder, dataset["file_ending"])
    training, test = (list(_folder_pairs(folder, part, max(1, len(names))).values()) for part in ("training", "test"))
    count = max((len(image_files(pair)) for pair in training), default=1)
    images = group_channels(list_scans(folder / "imagesTs"), names or [f"{number:04d}" for number in range(count)])
    return {"training": training, "validation": [], "test": test or images}


def group_channels(scans: Sequence[Path], channel_names: Sequence[str]) -> list[Item]:
    """The images of files: `a_0000 a_0001`, or by the names of the channels `a_T1w a_T2w`, are the image of case `a`.

    A file that is called as its channel, `p1/T1w`, is of the case that its folder is called. A file of another name is
    one by itself. Where a channel is missing, its path is listed all the same: whoever reads
    it names it. Channels that are called by numbers, `0001`, are those of these numbers.

    Raises:
        ValueError: a case has channels of greater numbers: nobody tells which of them are meant.
    """
    numbers, names = (
        [f"_{number:04d}" for number in range(len(channel_names))],
        [f"_{name}" for name in channel_names],
    )
    are_numbers = any(re.fullmatch(r"\d{4}", name) for name in channel_names)
    endings = [names] if are_numbers else [numbers, names]
    found: dict[str, Item] = {}
    for scan in scans:
        name = case_name(scan)
        fitting = [(known, ending) for known in endings for ending in known if name.endswith(ending)]
        item: Item = {"image": str(scan)}
        if name in channel_names and not are_numbers:
            suffix = scan.name.removeprefix(name)
            files = [str(scan.with_name(f"{one}{suffix}")) for one in channel_names]
            item = {"image": one_or_all(files), "case": scan.absolute().parent.name}
        elif fitting:
            known, ending = max(fitting, key=lambda one: len(one[1]))  # a channel "w" ends the name of a channel "T1_w"
            case, suffix = name.removesuffix(ending), scan.name.removeprefix(name)
            further = scan.with_name(f"{case}_{len(channel_names):04d}{suffix}")
            if known is numbers and further.is_file():
                raise ValueError(further_channel(further, case, channel_names))
            item = {"image": one_or_all([str(scan.with_name(f"{case}{one}{suffix}")) for one in known]), "case": case}
        found[first_file(item)] = item
    return list(found.values())


def further_channel(path: Path, case: str, channel_names: Sequence[str]) -> str:
    """What is wrong with a numbered channel behind those that have names."""
    expected = f"expected {len(channel_names)} of them: {', '.join(channel_names)}"
    return f"{path} is one more numbered channel of case {case!r}, {expected}"


def one_or_all(paths: list[str]) -> str | list[str]:
    """The form of an item's "image": a path, or the list of those of its channels."""
    return paths[0] if len(paths) == 1 else paths


def _folder_pairs(folder: Path, part: str, channels: int = 1) -> dict[str, Entry]:
    """The pairs of one part of the folder layout by case; none of a validation or test part without labels.

    Args:
        channels: of an image, where that is known: as many as the numbers tell otherwise.
    """
    suffix = FOLDER_SUFFIXES[part]
    images, labels = (list_scans(folder / f"{kind}{suffix}") for kind in ("images", "labels"))
    if part != "training" and not (folder / f"labels{suffix}").is_dir():
        return {}
    label_of = _by_case((case_name(label), label) for label in labels)
    numbers = {image: case_and_number(case_name(image), label_of) for image in images}
    count = max([channels, *(number + 1 for _, number in numbers.values() if number is not None)])
    image_of: dict[str, list[str]] = {}
    for image, (case, number) in numbers.items():
        if case not in label_of and is_label_map_of_ours(image):
            continue
        files = [str(image)] if number is None else _numbered(image, case, count)
        if image_of.setdefault(case, files) != files:
            raise ValueError(f"{image_of[case][0]} and {image} are both case {case!r}, expected one file: rename one")
    missing = [Path(first).name for case, (first, *_) in image_of.items() if case not in label_of]
    if missing:
        told = f"the label of {missing[0]} and {len(missing) - 1} other image(s)"
        raise ValueError(f"{folder / f'labels{suffix}'} lacks {told}; {SEGMENT}")
    imageless = [label.name for case, label in label_of.items() if case not in image_of]
    told = f"{len(imageless)} label map(s) have no image in {folder / f'images{suffix}'}, and are left out"
    warn_once(str(folder / f"labels{suffix}"), f"{told}: {some(imageless)}" if imageless else "")
    return {case: {"image": one_or_all(files), "label": str(label_of[case])} for case, files in image_of.items()}


def case_and_number(name: str, labels: Collection[str]) -> tuple[str, int | None]:
    """The case of an image's name; and its channel, where the name has a number that the case's label goes without.

    Args:
        name: of the image.
        labels: names of the labels.
    """
    numbered = NUMBER.fullmatch(name)
    if name in labels or numbered is None or numbered[1] not in labels:
        return name, None
    return numbered[1], int(numbered[2])


def _numbered(image: Path, case: str, count: int) -> list[str]:
    """The files of a case's channels, whether they are there or not."""
    suffix = image.name.removeprefix(case_name(image))
    return [str(image.with_name(f"{case}_{number:04d}{suffix}")) for number in range(count)]


def _by_case(files: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    """The files by case.

    Raises:
        ValueError: two files are of one case. Names both.
    """
    found: dict[str, Path] = {}
    for case, file in files:
        if case in found:
            raise ValueError(f"{found[case]} and {file} are both case {case!r}, expected one file: rename one")
        found[case] = file
    return found


def _refuse_repeats(path: Path, pairs: Mapping[str, Sequence[Entry]]) -> None:
    """Raise ValueError where an image or a label is listed twice."""
    part_of: dict[str, str] = {}
    for part in PARTS:
        for file in (os.path.normpath(path) for pair in pairs[part] for path in (*image_files(pair), pair["label"])):
            if file in part_of:
                raise ValueError(f'{path}: {file} stands in "{part_of[file]}" and in "{part}", expected it once')
            part_of[file] = part
