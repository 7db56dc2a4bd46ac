"""Images of several channels, a file for each: which files belong together, and in which order."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from rep3d.data.cases import Item, case_name, first_file, image_files, one_or_all

NUMBER = re.compile(r"(.+)_(\d{4})")  # nnU-Net's, of a channel, behind the name of a case


def group_channels(scans: Sequence[Path], channel_names: Sequence[str]) -> list[Item]:
    """The images of files: `a_0000 a_0001`, or by the names of the channels `a_T1w a_T2w`, are the image of case `a`.

    A file that is called as its channel, `p1/T1w`, is of the case that its folder is called. A file of another name is
    one by itself. Where a channel is missing, its path is listed all the same: whoever reads it names it. Channels that
    are called by numbers, `0001`, are those of these numbers.

    Raises:
        ValueError: a case has channels of greater numbers: nobody tells which of them are meant.
    """
    numbers = [f"_{number:04d}" for number in range(len(channel_names))]
    names = [f"_{name}" for name in channel_names]
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


def numbered_files(image: Path, case: str, count: int) -> list[str]:
    """The files of a case's channels, whether they are there or not."""
    suffix = image.name.removeprefix(case_name(image))
    return [str(image.with_name(f"{case}_{number:04d}{suffix}")) for number in range(count)]


def channel_of(path: str | os.PathLike, channel_names: Sequence[str]) -> str:
    """The longest of the channels that ends a file's name, in whatever case, or an empty text."""
    name = case_name(path)
    own = [one for one in channel_names if re.search(rf"(^|[_\-. ]){re.escape(one)}$", name, re.IGNORECASE)]
    return max(own, key=len, default="")


def check_channel_files(items: Iterable[Item], channel_names: Sequence[str]) -> None:
    """Refuse images of a file for each channel where the files' names are those of channels of other places.

    Args:
        items: {"image": path or paths}.
        channel_names: the bundle's, in their order.

    Raises:
        ValueError: names the files and the order.
    """
    for problem in order_problems(list(map(image_files, items)), channel_names):
        if problem:
            raise ValueError(problem)


def order_problems(images: Sequence[Sequence[str]], channel_names: Sequence[str]) -> list[str]:
    """For each image, that its files are called after channels of other places, or an empty text.

    A name that most images have in its own place and in another one tells nothing there: the channel T1ce may well be
    called `sub-1_ce-gd_T1w` beside `sub-1_T1w`.

    Args:
        images: the files of each; one with all channels tells none by its name.
    """
    told = [
        [channel_of(path, channel_names) for path in files] if len(files) == len(channel_names) else []
        for files in images
    ]
    counts = [Counter(of_place) for of_place in zip(*filter(None, told), strict=True)]
    usual = [{name for name, count in of_place.items() if 2 * count > of_place.total()} for of_place in counts]
    own = set().union(*(names & {name} for names, name in zip(usual, channel_names, strict=False)))
    repeated = [names & own for names in usual]
    return [
        _order_problem(files, of_image, channel_names, repeated) for files, of_image in zip(images, told, strict=True)
    ]


def _order_problem(
    files: Sequence[str], told: Sequence[str], channel_names: Sequence[str], repeated: Sequence[Collection[str]]
) -> str:
    """See `order_problems`.

    Args:
        told: the channels that the files' names tell; empty of an image in one file.
        repeated: for each place the names that tell nothing there.
    """
    order = ", ".join(channel_names)
    if told and told != list(channel_names) and sorted(told) == sorted(channel_names):
        return f"{', '.join(files)}: another order by their names, expected {order}"
    for path, own, name, ignored in zip(files, told, channel_names, repeated, strict=False):
        is_number = own.isdecimal()  # which may be that of the case
        if own and not is_number and own not in ignored and not _has_word(path, name):
            return f"{path}: is called {own!r}, expected the channel {name!r} in this place of {order}"
    return ""


def _has_word(path: str, word: str) -> bool:
    """Whether it stands in a file's name, as T1w does in `p1_T1w_on_FLAIR`."""
    return bool(re.search(rf"(^|[_\-. ]){re.escape(word)}([_\-. ]|$)", case_name(path), re.IGNORECASE))
