"""The cases of a folder of somebody's own, whatever its layout: which images and which label each has.

Known are the Medical Segmentation Decathlon, versions 1 and 2 of nnU-Net, a folder of images beside one of labels, the
label app's studies, and a folder for each patient, as BIDS has them. Nothing is opened but `dataset.json`.
"""

from __future__ import annotations

import itertools
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rep3d.data import splits
from rep3d.data.cases import CHANNEL, LABEL_WORDS, case_name, case_names, file_name, is_nifti, without_label_word
from rep3d.data.layouts import (
    FILE,
    case_and_number,
    check_file_ending,
    further_channel,
    list_scans,
    order_problem,
    read_dataset_json,
    told_channels,
    what_else,
)
from rep3d.data.regions import IGNORE
from rep3d.datasets import studies
from rep3d.datasets.downloads import Scan
from rep3d.io.folders import walk

IMAGE = "image"  # the channel of data sets that name none
IMAGE_FOLDERS = {"image", "images", "imgs", "scan", "scans", "volumes", "imagestr"}
LABEL_FOLDERS = {"label", "labels", "mask", "masks", "seg", "segs", "segmentation", "segmentations", "gt", "labelstr"}
FOLDERS = "images and labels, or imagesTr and labelsTr"
BY_PATIENT = "files beside each other, or a folder for each patient"
NNUNET_SPLITS = "splits_final.json"
NO_LABELS = "no image has a label: segment with `rep3d predict`, or draw labels in the label app"
SHOWN = 5  # kinds of images, in a note
RUN = re.compile(r"(?:^|_)(run-[A-Za-z0-9]+)(?=_|$)")  # BIDS' word for it, in the name of a file
IDS = range(256)  # of labels: the label maps that bundles write have one byte


class Case(NamedTuple):
    """One case of a source.

    Args:
        name: its files in the bundle are named after it.
        images: by the name of their channel; one file may hold all.
        label: None where it has none.
        patient: all cases of a patient go into the same part of a split; the case's own name where nobody tells it.
        ids: what the values of its label map become, where these are not those of the source.
        problem: why it cannot be used, or an empty text.
        label_key: of its label as it was when its names were read, see `rep3d.data.memory.file_key`; empty where the
            file stays as it is.
    """

    name: str
    images: Mapping[str, Path]
    label: Path | None
    patient: str
    ids: Mapping[int, int] | None = None
    problem: str = ""
    label_key: str = ""


class ToldLabels(NamedTuple):
    """What a data set's own file tells of its labels.

    Args:
        names: by id, the background among them.
        regions: unions of ids, by name; None where each label is one by itself.
        class_order: for each region the id that label maps show it by.
        ignored: the id of voxels that nobody has judged.
    """

    names: dict[int, str]
    regions: dict[str, list[int]] | None = None
    class_order: list[int] | None = None
    ignored: int | None = None


class Source(NamedTuple):
    """A folder of cases.

    Args:
        layout: in words.
        cases: at least one has a label.
        channels: names of what a case has images of.
        labels: None where only the label maps tell the ids.
        told: what the data set's own file calls its channels; empty where it has none.
        notes: what somebody should know of it.
        split: where it tells a split of its own, in words; empty where it has none.
    """

    layout: str
    cases: list[Case]
    channels: tuple[str, ...]
    labels: ToldLabels | None = None
    told: tuple[str, ...] = ()
    notes: Sequence[str] = ()
    split: str = ""


def read_source(folder: Path, chosen: Sequence[str] = ()) -> Source:
    """The cases of a folder.

    Args:
        folder: of the data set.
        chosen: channels that are asked for. Where each case has one image, of whatever kind, all are one channel
            unless one of the kinds is among these.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it has none of the layouts, no label, a case twice, or labels that a bundle cannot learn.
    """
    if not folder.is_dir():
        what = "is no folder" if folder.exists() else "does not exist"
        raise FileNotFoundError(f"source {str(folder)!r} {what}: give the folder of the data set")
    if (folder / FILE).is_file():
        source = _described(folder, read_dataset_json(folder))
    elif (folder / studies.LABELS).is_dir():
        source = _studies(folder)
    elif pairs := _folder_pairs(folder):
        names = " and ".join(path.name for path in pairs[0])
        source = _side_by_side(folder, pairs, f"the folders {names}")
    else:
        source = _by_patient(folder, chosen)
    if all(case.label is None for case in source.cases):
        hint = f"; the name of a label begins or ends with one of {', '.join(sorted(LABEL_WORDS))}"
        raise ValueError(f"source {str(folder)!r}: {NO_LABELS}{hint if source.layout == BY_PATIENT else ''}")
    return source._replace(cases=_uniquely_named(source.cases), split=source.split or _split_beside(folder))


def _split_beside(folder: Path) -> str:
    """The first file with a split of these cases: ours, or nnU-Net's, which may lie where that preprocesses."""
    whole = folder.absolute()
    preprocessed = Path(os.environ.get("nnUNet_preprocessed", whole.parent.parent / "nnUNet_preprocessed"))
    places = [folder / splits.FILE, folder / NNUNET_SPLITS, preprocessed / whole.name / NNUNET_SPLITS]
    return next((str(path) for path in places if path.is_file()), "")


def choose_channels(source: Source, chosen: Sequence[str] = ()) -> tuple[list[Scan], dict[str, list[str]]]:
    """The cases that have a label, with the files of their channels; and what is wrong, by case.

    Args:
        source: of one or several channels.
        chosen: some of its channels; without, all.

    Raises:
        ValueError: there is no such channel, or it stands there twice; or numbered ones are in another order, by which
            `rep3d predict` would take them.
    """
    unknown = [name for name in chosen if name not in source.channels]
    if unknown or len(set(chosen)) < len(chosen):
        raise ValueError(f"channel is {','.join(chosen)!r}, expected some of {', '.join(source.channels)}")
    ordered = [name for name in source.channels if name in chosen]
    if source.told and list(chosen) != ordered and _are_numbered(source):
        raise ValueError(f"channel is {','.join(chosen)!r}, expected {','.join(ordered)}: the files are numbered so")
    scans, problems = [], {}
    for case in source.cases:
        if case.label is None:
            continue
        problem = case.problem or _channel_problem(case, chosen or source.channels)
        if problem:
            problems[case.name] = [problem]
        else:
            files = dict.fromkeys(case.images[name] for name in chosen or source.channels)
            scans.append(Scan(case.name, list(files), case.label))
    return scans, problems


def _are_numbered(source: Source) -> bool:
    return any(case_name(path).endswith(CHANNEL) for case in source.cases for path in case.images.values())


def _channel_problem(case: Case, channels: Sequence[str]) -> str:
    """Why a case does not have these channels by themselves, or an empty text."""
    for name in channels:
        if name not in case.images:
            return f"{case.label}: there is no image of the channel {name!r} beside this label"
    files = [case.images[name] for name in channels]
    others = [name for name, path in case.images.items() if name not in channels and path in files]
    if others:
        return f"{files[0]}: holds the channel {others[0]!r} as well: take all, or split the file"
    held = {file: [name for name, path in case.images.items() if path == file] for file in files}
    if sum(held.values(), []) == list(channels):
        return ""
    file, own = next((file, own) for file, own in held.items() if len(own) > 1)
    return f"{file}: holds its channels as {', '.join(own)}: give them in that order"


# --- data sets that describe themselves


def _described(folder: Path, dataset: Mapping[str, Any]) -> Source:
    told = told_channels(folder, dataset)
    channels = told if len(set(told)) == len(told) else tuple(f"{name}_{i}" for i, name in enumerate(told))
    own, notes = dataset.get("dataset"), list[str]()
    if "file_ending" in dataset:
        check_file_ending(folder, dataset["file_ending"])
    if isinstance(dataset.get("training"), list):
        entries = [*dataset["training"], *(dataset.get("validation") or [])]
        layout, cases = "Decathlon", [_listed(folder, entry, channels) for entry in entries]
        if any(CHANNEL in path.name for case in cases for path in case.images.values()):
            layout = "nnU-Net, version 1"
            notes = _beside_the_list(folder / FILE, cases)
    elif isinstance(own, Mapping):
        layout = "nnU-Net, version 2"
        cases = [_own(folder, name, entry, channels or (IMAGE,)) for name, entry in own.items()]
    elif (folder / "labelsTr").is_dir():
        layout = "nnU-Net, version 2"
        cases = _cases_of(list_scans(folder / "imagesTr"), list_scans(folder / "labelsTr"), channels)
    else:
        raise ValueError(f'{folder / FILE}: lists no "training", and there is no folder labelsTr beside it')
    labels = read_labels(folder / FILE, dataset.get("labels"), dataset.get("regions_class_order"))
    if not channels:
        cases, of_kinds = _one_channel(cases, ())
        channels, notes = _channels_of(cases), [*notes, *of_kinds]
    return Source(layout, cases, channels, labels, told, notes, _listed_split(folder / FILE, dataset))


def _beside_the_list(path: Path, cases: Sequence[Case]) -> list[str]:
    """What somebody should know of numbered files that are not listed, beside one that is.

    Args:
        path: of the list.
    """
    further = []
    for case in cases:
        first, *others = dict.fromkeys(case.images.values())
        name = case_name(first)
        second = _with_number(first.with_name(first.name.replace(f"{CHANNEL}.", ".")), 1)
        is_numbered = case.label is not None and name == case_name(case.label) + CHANNEL
        if is_numbered and not others and not case.problem and second.exists():
            further.append(second)
    told = f"{len(further)} numbered file(s) beside those that {path} lists are not taken"
    return [f"{told}, such as {further[0]}: list the files of all channels"] if further else []


def _listed_split(path: Path, dataset: Mapping[str, Any]) -> str:
    """Where a `dataset.json` tells which cases validate, if it does: by a list, or as Auto3DSeg by numbers."""
    training = dataset.get("training")
    if not isinstance(training, list):
        return ""
    if dataset.get("validation"):
        return f'"validation" of {path}'
    numbered = any(isinstance(entry, Mapping) and "fold" in entry for entry in training)
    return f'"fold" of {path}' if numbered else ""


def _listed(folder: Path, entry: Any, channels: Sequence[str]) -> Case:
    """A case of the list "training": images are listed, or as nnU-Net's version 1 does it, named without channel.

    Args:
        channels: those that have names.
    """
    if not isinstance(entry, Mapping) or not entry.get("image"):
        raise ValueError(f'{folder / FILE}: lists {entry!r}, expected {{"image": path, "label": path}}')
    listed = entry["image"] if isinstance(entry["image"], list) else [entry["image"]]
    paths = [_within(folder, path) for path in listed]
    name = str(entry.get("case") or case_name(paths[0]).removesuffix(CHANNEL))
    problem = ""
    if len(paths) == 1 and not paths[0].exists() and (numbers := _numbers(paths[0], channels)):
        channels = channels or [f"{number:04d}" for number in numbers]
        if numbers[-1] >= len(channels):
            problem = further_channel(_with_number(paths[0], numbers[-1]), name, channels)
        paths = [_with_number(paths[0], number) for number in range(len(channels))]
    channels = channels or (IMAGE,)
    if len(paths) not in (1, len(channels)):
        raise ValueError(f"{folder / FILE}: {name} has {len(paths)} images, expected {len(channels)}, one a channel")
    problem = problem or order_problem([str(path) for path in paths], channels)
    label, patient = entry.get("label"), entry.get("patient")
    images = dict(zip(channels, paths if len(paths) > 1 else paths * len(channels), strict=True))
    own = "" if patient is None else str(patient)
    return Case(name, images, None if label is None else _within(folder, label), own, problem=problem)


def _within(folder: Path, path: Any) -> Path:
    if not isinstance(path, str):
        raise ValueError(f"{folder / FILE}: lists {path!r}, expected a path")
    return Path(os.path.normpath(folder / path))


def _numbers(path: Path, channels: Sequence[str]) -> list[int]:
    """Those of the files of a listed image that is none; behind the channels that have names the next one alone."""

    def is_there(number: int) -> bool:
        return _with_number(path, number).exists()

    if channels:
        return list(filter(is_there, range(len(channels) + 1)))
    return list(itertools.takewhile(is_there, itertools.count()))


def _with_number(path: Path, number: int) -> Path:
    name = case_name(path)
    return path.with_name(f"{name}_{number:04d}{path.name.removeprefix(name)}")


def _own(folder: Path, name: str, entry: Any, channels: Sequence[str]) -> Case:
    """A case of nnU-Net's list of files that lie elsewhere."""
    images = entry.get("images") if isinstance(entry, Mapping) else None
    if not isinstance(images, list) or len(images) != len(channels) or "label" not in entry:
        expected = f'{{"images": [{len(channels)} path(s)], "label": path}}'
        raise ValueError(f'{folder / FILE}: {name!r} of "dataset" is {entry!r}, expected {expected}')
    paths = [_within(folder, path) for path in images]
    return Case(name, dict(zip(channels, paths, strict=True)), _within(folder, entry["label"]), name)


def read_labels(path: Path, labels: Any, class_order: Any = None) -> ToldLabels | None:
    """What {"1": name}, the Decathlon's way, or {name: 1}, that of nnU-Net's version 2, tells of labels.

    In the latter way several ids, {name: [1, 2]}, are a region, and "ignore" is the label of voxels nobody has judged.

    Args:
        path: of the file, for messages.
        labels: None: nothing is told.
        class_order: of regions, nnU-Net's "regions_class_order".

    Raises:
        ValueError: they are neither; or regions without an order, or one by which they cannot be told apart.
    """
    if labels is None:
        return None
    if not isinstance(labels, Mapping):
        raise ValueError(f'{path}: "labels" is {labels!r}, expected {{"1": name}} or {{name: 1}}')
    pairs = [(key, value) if str(key).isdecimal() else (value, key) for key, value in labels.items()]
    named = [(ids if isinstance(ids, list) else [ids], str(name).strip()) for ids, name in pairs]
    wrong = [f"{name}: {i}" for ids, name in named for i in ids if not str(i).isdecimal() or int(i) not in IDS]
    if wrong:
        raise ValueError(f'{path}: "labels" has {wrong[0]}, expected whole numbers from 0 to {IDS[-1]}')
    ids_of = {name: [int(i) for i in ids] for ids, name in named}
    single = [ids[0] for ids in ids_of.values() if len(ids) == 1]
    if len({name.lower() for name in ids_of}) < len(named) or len(set(single)) < len(single):
        raise ValueError(f'{path}: "labels" has an id or a name twice: {dict(labels)}')
    ignored = [ids_of.pop(name) for name in list(ids_of) if name.lower() == IGNORE]
    if any(len(ids) != 1 or ids == [0] or ids[0] in sum(ids_of.values(), []) for ids in ignored):
        raise ValueError(f'{path}: "labels" has {IGNORE}: {ignored[0]}, expected an id of its own')
    names = {ids[0]: name for name, ids in ids_of.items() if len(ids) == 1}
    found = ToldLabels({0: "background"} | dict(sorted(names.items())), ignored=ignored[0][0] if ignored else None)
    if all(len(ids) == 1 for ids in ids_of.values()):
        return found
    return _with_regions(path, found, {name: ids for name, ids in ids_of.items() if ids != [0]}, class_order)


def _with_regions(path: Path, labels: ToldLabels, regions: dict[str, list[int]], class_order: Any) -> ToldLabels:
    """The labels with regions; an id that has no name by itself is called after its number."""
    if not isinstance(class_order, list) or not all(isinstance(i, int) for i in class_order):
        raise ValueError(
            f'{path}: "labels" has regions, and "regions_class_order" is {class_order!r}, expected an id for each'
        )
    ids = sorted({i for of_region in regions.values() for i in of_region})
    if not set(class_order) <= set(ids):
        raise ValueError(f'{path}: "regions_class_order" is {class_order!r}, expected ids of its regions: {ids}')
    names = {0: labels.names[0]} | {i: labels.names.get(i, f"label {i}") for i in ids}
    return labels._replace(names=names, regions=regions, class_order=class_order)


# --- data sets that are told by their folders


def _folder_pairs(folder: Path) -> list[tuple[Path, Path]]:
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


def _side_by_side(folder: Path, pairs: Sequence[tuple[Path, Path]], layout: str) -> Source:
    cases = [case for images, labels in pairs for case in _cases_of(list_scans(images), list_scans(labels))]
    if not cases:
        raise ValueError(
            f"source {str(folder)!r}: {pairs[0][0]} holds no .nii.gz or .nii files{what_else(pairs[0][0])}"
        )
    by_hand = f"the folders {' and '.join(images.name for images, _ in pairs)}" if len(pairs) > 1 else ""
    return Source(layout, cases, _channels_of(cases), split=by_hand)


def _studies(folder: Path) -> Source:
    """The label app's studies: the labels that were submitted last, with the names that the app kept with them.

    Raises:
        ValueError: the labels have no segments in common.
    """
    paths, images = list_scans(folder / studies.LABELS), studies.list_images(folder)
    labels = {case_name(path): studies.current_label(folder, path) for path in paths}
    found = _cases_of(images.ids, paths, name_of=images.ids.__getitem__)
    cases = [_as_kept(case, labels.get(case.name), images.unread.get(case.name)) for case in found]
    names_of = {name: label.names for name, label in labels.items()}
    source = Source("the label app's studies", cases, _channels_of(cases))
    known = [names for names in names_of.values() if names]
    if all(names == known[0] for names in known):
        return source._replace(labels=read_labels(folder / studies.LABELS, known[0]) if known else None)
    common = studies.common_ids(names_of)
    if not common.names:
        raise ValueError(
            f"{folder / studies.LABELS}: no segment is in half of the labels: {'; '.join(common.notes[1:])}"
        )
    names = dict(enumerate(["background", *common.names]))
    return source._replace(
        cases=[_in_common_ids(case, common) for case in cases],
        labels=ToldLabels(names, ignored=common.ignored),
        notes=common.notes,
    )


def _as_kept(case: Case, label: studies.CurrentLabel | None, unread: Path | None) -> Case:
    """A case with its label as the app kept it; of one without an image, whether there is one that is not read here."""
    if label is None:
        return case
    nrrd = f"{unread}: NRRD is not read here: convert it to NIfTI, in its place" if unread and not case.images else ""
    return case._replace(label=label.file, label_key=label.key, problem=case.problem or nrrd)


def _in_common_ids(case: Case, common: studies.CommonIds) -> Case:
    problem = common.problems.get(case.name, "")
    told = f"{case.label}: {problem}" if problem and case.label is not None else ""
    return case._replace(ids=common.ids.get(case.name), problem=case.problem or told)


def _cases_of(
    images: Iterable[Path],
    labels: Iterable[Path],
    channels: Sequence[str] = (),
    name_of: Callable[[Path], str] = case_name,
) -> list[Case]:
    """The cases of images and labels, paired by their names.

    Args:
        channels: names by nnU-Net's numbers; the numbers themselves where there are none.
        name_of: of an image.
    """
    images, label_of, problems = list(images), dict[str, Path](), dict[str, str]()
    own, label_names = set(map(name_of, images)), dict[str, str]()
    for label in labels:
        name = case_name(label)
        bare = name if name in own else without_label_word(name)
        case = label_names.setdefault(bare, name)
        if label_of.setdefault(case, label) != label:
            problems[case] = _both("label", bare, label_of[case], label)
    images_of: dict[str, dict[str, Path]] = {}
    for image in images:
        name, number = case_and_number(name_of(image), label_of.keys() | label_names.keys())
        case = name if name in label_of else label_names.get(name, name)
        channel = IMAGE if number is None else f"{number:04d}"
        if channels and (number or 0) < len(channels):
            channel = channels[number or 0]
        elif channels:
            problems[case] = further_channel(image, name, channels)
        first = images_of.setdefault(case, {}).setdefault(channel, image)
        if first != image:
            problems[case] = _both(channel, name, first, image)
    return [
        Case(name, images_of.get(name, {}), label_of.get(name), name, problem=problems.get(name, ""))
        for name in sorted(images_of.keys() | label_of.keys())
    ]


def _by_patient(folder: Path, chosen: Collection[str]) -> Source:
    """Cases whose label lies beside their image or in a folder of the same patient, and has a word for its kind.

    Args:
        chosen: see `_one_channel`.
    """
    paths = sorted(path for _, files in walk(folder) for path in files if is_nifti(path))
    names = [case_name(path) for path in paths]
    bare = {without_label_word(name) for name in names if _is_label(name)}
    groups: dict[str, list[Path]] = {}
    for path in paths:
        groups.setdefault(_group(path.relative_to(folder), bare), []).append(path)
    if not groups:
        raise ValueError(
            f"source {str(folder)!r} holds no .nii.gz or .nii files, expected a dataset.json, the folders {FOLDERS}, "
            f"or a folder a patient{what_else(folder)}"
        )
    parts = [(name, run, own) for name, paths in groups.items() for run, own in _runs(paths).items()]
    found = min(([_case_of_group(*part, end) for part in parts] for end in (False, True)), key=_oddity)
    cases, notes = _one_channel(found, chosen)
    return Source(BY_PATIENT, cases, _channels_of(cases), notes=notes)


def _oddity(cases: Sequence[Case]) -> tuple[int, int]:
    """By which of several ways to read their names these are less alike: cases with problems, and kinds of images."""
    return sum(bool(case.problem) for case in cases), len({kind for case in cases for kind in case.images})


def _one_channel(cases: list[Case], chosen: Collection[str]) -> tuple[list[Case], list[str]]:
    """Cases of one image each have it as one channel, whatever they are called; and what somebody should know of that.

    Args:
        chosen: where a kind of image is among them, they stay as they are.
    """
    if any(len(case.images) != 1 or not case.images.keys().isdisjoint(chosen) for case in cases):
        return cases, []
    kinds, notes = Counter(kind for case in cases if case.label is not None for kind in case.images), []
    if len(kinds) > 1 and max(kinds.values()) > 1:  # names that are those of single cases tell no kind
        common = kinds.most_common(SHOWN)
        told = ", ".join(f"{kind} ({count})" for kind, count in common)
        one = f"`--channel {common[0][0]}` takes those of one kind alone"
        notes = [f"images are called {told}: taken for one channel; {one}"]
    return [case._replace(images=dict.fromkeys([IMAGE], *case.images.values())) for case in cases], notes


def _group(path: Path, bare: Collection[str]) -> str:
    """What the files of one case have in common: BIDS' subject and session, else the folder, else the bare name.

    Where a session is of no subject, the folder is that of its patient.

    Args:
        path: from the folder on.
        bare: names of labels without the word for their kind.
    """
    entities = [part for part in path.parts[:-1] if re.match(r"(sub|ses)-", part)]
    if entities:
        is_told = any(part.startswith("sub-") for part in entities)
        return "_".join(dict.fromkeys(entities if is_told else [path.parts[0], *entities]))
    if len(path.parts) > 1:
        return path.parts[0]
    return case_and_number(without_label_word(case_name(path)), bare)[0]


def _runs(paths: Sequence[Path]) -> dict[str, list[Path]]:
    """The files of a group by their BIDS run; all together where these are of one at most."""
    found: dict[str, list[Path]] = {}
    for path in paths:
        run = RUN.search(case_name(path))
        found.setdefault(run[1] if run else "", []).append(path)
    return found if len(found.keys() - {""}) > 1 else {"": list(paths)}


def _case_of_group(group: str, run: str, paths: Sequence[Path], end: bool) -> Case:
    """The case of some files.

    Args:
        group, run: what they have in common; the latter may be empty.
        end: see `_kind`.
    """
    name = "_".join(filter(None, (group, run)))
    labels = [path for path in paths if _is_label(case_name(path))]
    images, problem = dict[str, Path](), ""
    for path in paths:
        if path not in labels:
            kind = _kind(case_name(path), group, end)
            first = images.setdefault(kind, path)
            problem = problem if first == path else _both(kind, name, first, path)
    if len(labels) > 1:
        problem = f"case {name!r} has several label maps, expected one: {labels[0]}, {labels[1]}"
    return Case(name, images, labels[0] if labels else None, group.partition("_ses-")[0], problem=problem)


def _is_label(name: str) -> bool:
    return without_label_word(name) != name


def _kind(name: str, group: str, end: bool) -> str:
    """The part of a file's name that is not its case's.

    Args:
        end: it may end with what its case is called, `t1_p1`, and not only begin so.
    """
    parts = re.split("_(?=ses-)", group)
    for part in parts:
        name = name.removeprefix(part).strip("_-. ")
    for part in reversed(parts) if end else ():
        name = re.sub(rf"[_\-. ]{re.escape(part)}$", "", name)
    return RUN.sub("", name).strip("_-. ") or IMAGE


def _channels_of(cases: Sequence[Case]) -> tuple[str, ...]:
    """Of the cases that have images and a label, and no problem, where there are any: others train nothing."""
    pairs = [case for case in cases if case.images and case.label is not None and not case.problem]
    return tuple(sorted({channel for case in pairs or cases for channel in case.images})) or (IMAGE,)


def _both(what: str, case: str, first: Path, second: Path) -> str:
    """What is wrong with a case of two files that are the same of it."""
    return f"{first} and {second} are both {what!r} of case {case!r}, expected one file: rename one"


def _uniquely_named(cases: Sequence[Case]) -> list[Case]:
    """The cases, with names that become file names and tell them apart; one of no patient is a patient by itself.

    Raises:
        ValueError: two are of one name, and their images' paths do not tell them apart either.
    """
    names = [file_name(case.name) for case in cases]
    if len(set(names)) < len(names):
        names = list(map(file_name, case_names([{"image": str(path)} for path in map(_place, cases)])))
    return [case._replace(name=name, patient=case.patient or name) for case, name in zip(cases, names, strict=True)]


def _place(case: Case) -> Path:
    return next(iter([*case.images.values(), Path(case.name)]))
