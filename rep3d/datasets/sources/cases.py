"""The cases of a source, and how files become cases by their names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rep3d.data.cases import case_name, without_label_word
from rep3d.data.channels import NUMBER, case_and_number, further_channel
from rep3d.datasets.sources.labels import ToldLabels

IMAGE = "image"  # the channel of data sets that name none
SHOWN = 5  # kinds of images, in a note
SUBJECT = re.compile(r"sub-[^_]+(?=_[A-Za-z]+-|_[A-Za-z]+\d?[A-Za-z]*$|$)")  # in BIDS, before _ses-1 or _T1w


class Case(NamedTuple):
    """One case of a source.

    Args:
        name: its files in the bundle are named after it.
        images: by the name of their channel; one file may hold all.
        label: None where it has none.
        patient: all cases of a patient go into the same part of a split; see `patient_of` where nobody tells it.
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
        tests: files that it lists for tests.
    """

    layout: str
    cases: list[Case]
    channels: tuple[str, ...]
    labels: ToldLabels | None = None
    told: tuple[str, ...] = ()
    notes: Sequence[str] = ()
    split: str = ""
    tests: Sequence[Path] = ()


def cases_of(
    images: Iterable[Path],
    labels: Iterable[Path],
    channels: Sequence[str] = (),
    name_of: Callable[[Path], str] = case_name,
) -> list[Case]:
    """The cases of images and labels, paired by their names; a case is called as its image is, where it has one.

    Args:
        channels: names by nnU-Net's numbers; the numbers themselves where there are none.
        name_of: of an image.
    """
    images, label_of, problems = list(images), dict[str, Path](), dict[str, str]()
    own = set(map(name_of, images))
    own |= {numbered[1] for numbered in map(NUMBER.fullmatch, own) if numbered}
    for label in labels:
        name = case_name(label)
        bare = name if name in own else without_label_word(name)
        name = bare if bare in own else name
        if label_of.setdefault(name, label) != label:
            problems[name] = both_files("label", name, label_of[name], label)
    images_of: dict[str, dict[str, Path]] = {}
    for image in images:
        name, number = case_and_number(name_of(image), label_of)
        channel = IMAGE if number is None else f"{number:04d}"
        if channels and (number or 0) < len(channels):
            channel = channels[number or 0]
        elif channels:
            problems[name] = further_channel(image, name, channels)
        first = images_of.setdefault(name, {}).setdefault(channel, image)
        if first != image:
            problems[name] = both_files(channel, name, first, image)
    return [
        Case(name, images_of.get(name, {}), label_of.get(name), patient_of(name), problem=problems.get(name, ""))
        for name in sorted(images_of.keys() | label_of.keys())
    ]


def patient_of(case: str) -> str:
    """The patient that a case's name tells, as in BIDS; the whole name where it tells none."""
    subject = SUBJECT.match(case)
    return subject[0] if subject else case.partition("_ses-")[0]


def one_channel(cases: list[Case], chosen: Collection[str]) -> tuple[list[Case], list[str]]:
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


def channels_of(cases: Sequence[Case]) -> tuple[str, ...]:
    """Of the cases that have images and a label, and no problem, where there are any: others train nothing."""
    pairs = [case for case in cases if case.images and case.label is not None and not case.problem]
    return tuple(sorted({channel for case in pairs or cases for channel in case.images})) or (IMAGE,)


def both_files(what: str, case: str, first: Path, second: Path) -> str:
    """What is wrong with a case of two files that are the same of it."""
    return f"{first} and {second} are both {what!r} of case {case!r}, expected one file: rename one"
