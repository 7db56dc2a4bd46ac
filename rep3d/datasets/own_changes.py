"""What a person has changed in the files of a bundle of their own since `rep3d new` wrote them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rep3d.data import splits
from rep3d.data.cases import ONE_CHANNEL
from rep3d.data.names import displaced
from rep3d.datasets.own_places import made_for, outdated
from rep3d.datasets.planning.intensities import CT
from rep3d.datasets.rendering import merge
from rep3d.files import read_json, write_json

DECIDED = "decided.json"  # in data: what was written last, to tell what a person has changed since; options of `new`


class OwnKeys(NamedTuple):
    """Keys of NAME.json, which a person has changed since it was written last.

    Args:
        kept: they stay as they are, with these values.
        removed: they are there again, as they are decided.
        notes: what somebody should know.
    """

    kept: dict[str, Any]
    removed: list[str]
    notes: list[str]


def write_dataset_file(folder: Path, name: str, decided: dict[str, Any], ids: Sequence[int]) -> OwnKeys:
    """Write NAME.json, with what a person has changed there.

    Raises:
        ValueError: a person wrote something else than a section, names of labels or channels that do not fit those of
            the source, entries that were made for others, or what follows from elsewhere: the parts of the split, the
            channels that are taken, the layout, or another modality that makes CT or unmakes it.
    """
    path, memory, changes = folder / f"{name}.json", folder / "data" / DECIDED, _own_changes(folder, name)
    before, notes = written(folder / "data", "dataset"), list[str]()
    removed = _removed(read_json(path), before, decided) if path.is_file() else []
    if path.is_file() and not before:
        notes = [_forgotten(name)]
        changes["data"].pop("split", None)  # that of an earlier splits.json, and no person's
    content = merge(decided, changes)
    _check_sections(path, content, decided)
    _check_decided(path, content, decided)
    channels = decided["common"].get("channel_names", [decided["data"]["channel"]])
    now = {"ids": list(ids), "labels": decided["common"]["label_names"], "channels": channels}
    made = made_for(changes.get("common", {}), read_json(memory), now)
    told = {"shown": now, "made_for": made}
    if problem := outdated(made, now):
        write_json(memory, read_json(memory) | told)
        raise ValueError(f"{path}: {problem}")
    _check_own_names(path, content["common"]["label_names"], decided["common"]["label_names"], ids)
    _check_own_channels(path, content["common"], decided["common"])
    with remembered(folder / "data", "dataset", decided, **told):
        write_json(path, content)
    return OwnKeys(_flat(changes), removed, notes)


@contextmanager
def remembered(folder: Path, key: str, content: object, **more: object) -> Iterator[None]:
    """Keep what is written in the context for `written`, and until then also what was written before."""
    memory, earlier = read_json(folder / DECIDED) | {key: content} | more, f"{key} before"
    write_json(folder / DECIDED, memory | {earlier: written(folder, key)})
    yield
    memory.pop(earlier, None)
    write_json(folder / DECIDED, memory)


def written(folder: Path, key: str) -> list[Any]:
    """What stands in a file that no person has changed: of several, where the command was killed, one."""
    memory = read_json(folder / DECIDED)
    return [*memory.get(f"{key} before", []), *([memory[key]] if key in memory else [])]


def _own_changes(folder: Path, name: str) -> dict[str, Any]:
    """What a person has changed in NAME.json since it was written last."""
    path = folder / f"{name}.json"
    return _changes(read_json(path), written(folder / "data", "dataset")) if path.is_file() else {}


def read_own_spacing(folder: Path, name: str) -> list[float] | None:
    """The spacing that a person wrote into NAME.json.

    Raises:
        ValueError: it is none.
    """
    common = _own_changes(folder, name).get("common")
    spacing = common.get("spacing") if isinstance(common, dict) else None
    if spacing is None:
        return None
    if (
        not isinstance(spacing, list)
        or len(spacing) != 3
        or not all(type(i) in (int, float) and i > 0 for i in spacing)
    ):
        told = json.dumps(spacing)
        raise ValueError(f"{folder / f'{name}.json'}: spacing is {told}, expected three numbers above 0, in mm")
    return spacing


def read_own_folds(folder: Path, name: str, patients: int, in_splits: int) -> int | None:
    """The number of folds that a person wrote into NAME.json.

    Args:
        in_splits: how many a person wrote into splits.json; 0 where it is ours.

    Raises:
        ValueError: it is none, another than that of splits.json, or the patients are too few for it.
    """
    data = _own_changes(folder, name).get("data")
    if not isinstance(data, dict) or "folds" not in data:
        return None
    folds, where = data["folds"], f"{folder / f'{name}.json'}: folds is {json.dumps(data['folds'])}"
    if in_splits and folds != in_splits:
        raise ValueError(f"{where}, expected {in_splits}, as data/{splits.FILE} has, which is yours")
    if not in_splits and (type(folds) is not int or not 1 <= folds <= patients):
        raise ValueError(f"{where}, expected a whole number from 1 to {patients}, the number of patients")
    return None if in_splits else folds


def _check_decided(path: Path, content: Mapping[str, Any], decided: Mapping[str, Any]) -> None:
    """Refuse what a person wrote in the place of what follows from elsewhere.

    A modality in other words, such as PET for MR, stays: only CT has units.
    """
    decides = {
        "split": f"who trains and who validates stands in data/{splits.FILE}, which is yours to edit",
        "channel": "`rep3d new` with --channel decides anew",
        "layout": "this is what every data set of one's own has",
    }
    for key, why in decides.items():
        own, known = content["data"].get(key), decided["data"][key]
        if own != known:
            raise ValueError(f"{path}: {key} is {json.dumps(own)}, expected {json.dumps(known)}: {why}")
    kind, modality = decided["metadata"]["modality"], content["metadata"].get("modality")
    if not isinstance(modality, str) or (modality != kind and CT in (kind, modality.upper())):
        told = f"{path}: modality is {json.dumps(modality)}, expected {json.dumps(kind)}"
        raise ValueError(f"{told}: intensities go by it; `rep3d new` with --modality CT or MR decides anew")


def _check_sections(path: Path, content: Mapping[str, Any], decided: Mapping[str, Any]) -> None:
    """Refuse what a person wrote in the place of a section, or of names of labels or channels."""
    for name, section in decided.items():
        if isinstance(section, dict) and not isinstance(content[name], dict):
            raise ValueError(f"{path}: {name} is {json.dumps(content[name])}, expected an object")
    for key in ("label_names", "channel_names"):
        names = content["common"].get(key, [])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"{path}: {key} is {json.dumps(names)}, expected a list of names")


def _check_own_names(path: Path, names: Sequence[str], known: Sequence[str], ids: Sequence[int]) -> None:
    """Refuse names for more or fewer labels than there are, and known ones for other labels."""
    told = f"{path}: label_names is {json.dumps(names)}, yours"
    if len(names) != len(ids):
        raise ValueError(
            f"{told}, and the ids of the source are {list(ids)}: expected a name for each, or no label_names"
        )
    if wrong := displaced(names, dict(enumerate(known))):
        raise ValueError(f"{told}, {wrong}")


def _check_own_channels(path: Path, own: Mapping[str, Any], decided: Mapping[str, Any]) -> None:
    """Refuse names for more or fewer channels than there are, and known ones for other channels."""
    known = decided.get("channel_names", ONE_CHANNEL)
    names = own.get("channel_names", known)
    told = f"{path}: channel_names is {json.dumps(names)}, yours"
    if len(names) != len(known) or len(set(names)) < len(names):
        raise ValueError(f"{told}, expected {len(known)} different name(s), in the order of {', '.join(known)}")
    if wrong := displaced(names, dict(enumerate(known))):
        raise ValueError(f"{told}, {wrong}")


def _forgotten(name: str) -> str:
    """That nobody knows what a person changed."""
    return (
        f"data/{DECIDED} is gone, by which your changes and options are known: all of {name}.json and "
        f"data/{splits.FILE} counts as yours, and stays; take out what is to be decided anew, and give options again"
    )


def _changes(now: Mapping[str, Any], written: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The entries that are as in nothing that was written."""
    found = {}
    for key, value in now.items():
        before = [one[key] for one in written if key in one]
        sections = [one for one in before if isinstance(one, Mapping)]
        if isinstance(value, dict) and sections:
            if nested := _changes(value, sections):
                found[key] = nested
        elif value not in before:
            found[key] = value
    return found


def _removed(
    now: Mapping[str, Any], written: Sequence[Mapping[str, Any]], decided: Mapping[str, Any], prefix: str = ""
) -> list[str]:
    """The keys that are decided, and stood in all that was written, but stand in the file no longer."""
    found = []
    for key, value in decided.items():
        if not written or not all(key in one for one in written):
            continue
        if key not in now:
            found.append(f"{prefix}{key}")
        elif isinstance(value, dict) and isinstance(now[key], dict):
            sections = [one[key] for one in written if isinstance(one[key], Mapping)]
            found += _removed(now[key], sections, value, f"{prefix}{key}.")
    return found


def _flat(changes: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of a nested dictionary by their keys, as in train.epochs."""
    found = dict[str, Any]()
    for name, value in changes.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


# --- options of `rep3d new`


def read_options(folder: Path) -> dict[str, str]:
    """What `rep3d new` was told for a bundle, by option."""
    return read_json(folder / "data" / DECIDED).get("options", {})


def write_options(folder: Path, options: Mapping[str, str]) -> None:
    """Remember what `rep3d new` was told."""
    memory = folder / "data" / DECIDED
    write_json(memory, {**read_json(memory), "options": dict(options)})
