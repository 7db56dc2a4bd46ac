"""What a data set's `dataset.json` says: entries of its lists, its channels and its labels.

The Decathlon, both versions of nnU-Net and Auto3DSeg, with "fold" in its entries, write it a little differently.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rep3d.data.cases import SUFFIXES, Item, one_or_all
from rep3d.data.memory import file_key
from rep3d.data.regions import IGNORE

FILE = "dataset.json"
FORMS = '"path" or {"image": path, "label": path}'
COPY_OF = "copy_of"  # of an entry: the key, see `rep3d.data.memory.file_key`, of what its label was made of, or is

Entry = Item  # with a number "fold" where it has one


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


def described(folder: Path) -> dict:
    """The folder's `dataset.json`; empty where it has none.

    Raises:
        ValueError: it is no valid JSON object.
    """
    return read_dataset_json(folder) if (folder / FILE).is_file() else {}


def read_entry(entry: object, folder: Path, where: str) -> Entry:
    """An entry of a list, checked; its paths begin with the folder.

    Args:
        where: what messages call it.

    Raises:
        ValueError: it is of another form, or its label was made of a file that has changed since.
    """
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
    listed = described(folder).get("training") or ()
    entries = [entry for entry in listed if isinstance(entry, Mapping) and COPY_OF in entry]
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
    key = channel_key(dataset)
    told = dataset.get(key) or {}
    if isinstance(told, list):
        told = dict(enumerate(told))
    if isinstance(told, Mapping) and all(str(number).isdecimal() for _, number in named_places(told)):
        return tuple(name for name, _ in sorted(named_places(told), key=lambda place: int(place[1])))
    if key == "modality":
        return ()
    raise ValueError(f'{folder / FILE}: "{key}" is {told!r}, expected {{"0": name}}')


def channel_key(dataset: Mapping[str, Any]) -> str:
    """The key under which a `dataset.json` has its channels."""
    return "channel_names" if dataset.get("channel_names") else "modality"


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
    told = described(folder).get("labels")
    unjudged = [name for name, _ in named_places(told) if is_unjudged(name)] if isinstance(told, Mapping) else []
    if unjudged:
        raise ValueError(
            f'{folder / FILE}: "labels" has {unjudged[0]!r}, voxels that nobody has judged, expected structures alone: '
            "here every label is one"
        )
