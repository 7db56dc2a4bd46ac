"""Data sets that describe themselves by a `dataset.json`: the Decathlon, and versions 1 and 2 of nnU-Net."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rep3d.data.cases import CHANNEL, case_name
from rep3d.data.channels import further_channel, order_problems
from rep3d.data.dataset_json import FILE, check_file_ending, told_channels
from rep3d.data.layouts import LISTS, list_nifti
from rep3d.datasets.sources.cases import IMAGE, Case, Source, cases_of, channels_of, one_channel, patient_of
from rep3d.datasets.sources.labels import read_labels


def described_source(folder: Path, dataset: Mapping[str, Any]) -> Source:
    """The cases that a `dataset.json` lists, or whose channels and labels it names.

    Args:
        dataset: its content.

    Raises:
        ValueError: it lists none, or what it says of cases, channels or labels is of another form.
    """
    told = told_channels(folder, dataset)
    channels = told if len(set(told)) == len(told) else tuple(f"{name}_{i}" for i, name in enumerate(told))
    own, notes = dataset.get("dataset"), list[str]()
    if "file_ending" in dataset:
        check_file_ending(folder, dataset["file_ending"])
    if isinstance(dataset.get("training"), list):
        validation = dataset.get("validation") or []
        if not isinstance(validation, list):
            raise ValueError(f'{folder / FILE}: "validation" is {validation!r}, expected a list of cases')
        entries = [*dataset["training"], *validation]
        layout, cases = "Decathlon", [_listed(folder, entry, channels) for entry in entries]
        if any(CHANNEL in path.name for case in cases for path in case.images.values()):
            layout = "nnU-Net, version 1"
            notes = _beside_the_list(folder / FILE, cases)
    elif isinstance(own, Mapping):
        layout = "nnU-Net, version 2"
        cases = [_own(folder, name, entry, channels or (IMAGE,)) for name, entry in own.items()]
    elif (folder / "labelsTr").is_dir():
        layout = "nnU-Net, version 2"
        cases = cases_of(list_nifti(folder / "imagesTr"), list_nifti(folder / "labelsTr"), channels)
    else:
        raise ValueError(f'{folder / FILE}: lists no "training", and there is no folder labelsTr beside it')
    labels = read_labels(folder / FILE, dataset.get("labels"), dataset.get("regions_class_order"))
    if not channels:
        cases, of_kinds = one_channel(cases, ())
        channels, notes = channels_of(cases), [*notes, *of_kinds]
    problems = order_problems([list(dict.fromkeys(map(str, case.images.values()))) for case in cases], channels)
    cases = [case._replace(problem=case.problem or told) for case, told in zip(cases, problems, strict=True)]
    split, tests = _listed_split(folder / FILE, dataset), _listed_tests(folder, dataset)
    return Source(layout, cases, channels, labels, told, notes, split, tests)


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


def _listed_tests(folder: Path, dataset: Mapping[str, Any]) -> list[Path]:
    """The files that a `dataset.json` lists for tests, in whatever form."""
    lists = [dataset.get(name) for name in LISTS["test"]]
    entries = [entry for listed in lists if isinstance(listed, list) for entry in listed]
    values = [value for entry in entries for value in (entry.values() if isinstance(entry, Mapping) else [entry])]
    paths = [path for value in values for path in (value if isinstance(value, list) else [value])]
    return [_within(folder, path) for path in paths if isinstance(path, str)]


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
    return Case(name, dict(zip(channels, paths, strict=True)), _within(folder, entry["label"]), patient_of(name))
