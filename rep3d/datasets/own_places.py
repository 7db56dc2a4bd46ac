"""Entries of a person's in NAME.json that count by places: the ids of labels, the order of channels.

What stands at a place is the data set's, and may change. So it is remembered what each entry was made for: the places
that `rep3d new` had told last, in NAME.json or in a refusal, when it found the entry for the first time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rep3d.datasets.own_labels import unnamed

ENTRIES = (("label_names",), ("regions", "regions_class_order"), ("channel_names",), ("intensity_window",))
OF_CHANNELS = {"channel_names", "intensity_window"}

Places = dict[str, list[Any]]  # "labels", the names by the bundle's ids, with their "ids" in the source; "channels"
Made = list[dict[str, Any]]  # {"entry": keys and values, "for": Places} of each


def made_for(own: Mapping[str, Any], memory: Mapping[str, Any], now: Places) -> Made:
    """What a person's entries were made for.

    Args:
        own: their part of the section "common".
        memory: "shown", the places that were told last, and what this returned then as "made_for"; or neither.
        now: the places as they are.
    """
    earlier, shown = memory.get("made_for", []), memory.get("shown", now)
    return [
        {"entry": entry, "for": next((one["for"] for one in earlier if one["entry"] == entry), shown)}
        for entry in _by_places(own)
    ]


def outdated(made: Made, now: Places) -> str:
    """Which entry was made for other places than there are, in words, or an empty text."""
    for one in made:
        entry, then = one["entry"], one["for"]
        kind = "labels" if OF_CHANNELS.isdisjoint(entry) else "channels"
        if _labels_differ(entry, then, now) if kind == "labels" else then[kind] != now[kind]:
            told = ", ".join(f"{key} is {json.dumps(value)}" for key, value in entry.items())
            were, are = (", ".join(f"{i} {name}" for i, name in enumerate(places[kind])) for places in (then, now))
            return f"{told}, yours, made for the {kind} {were}, and they are {are} now: change it, or take it out"
    return ""


def _by_places(own: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A person's entries, those together that belong together; a window of all channels is none."""
    window = own.get("intensity_window")
    is_of_all = isinstance(window, list) and all(isinstance(one, int | float) for one in window)
    own = {key: own[key] for key in own if own[key] is not None and not (key == "intensity_window" and is_of_all)}
    return [{key: own[key] for key in keys if key in own} for keys in ENTRIES if not own.keys().isdisjoint(keys)]


def _labels_differ(entry: Mapping[str, Any], then: Places, now: Places) -> bool:
    """Whether one of the ids that an entry is about is of another label."""
    before, after = (list(zip(places["ids"], places["labels"], strict=True)) for places in (then, now))
    if "label_names" in entry:
        used = range(len(before)) if len(before) == len(after) else []  # else their number says whether they fit
    else:
        used = sorted(i for i in _numbers(list(entry.values())) if 0 <= i < len(before))
    return any(i >= len(after) or not _is_same(before[i], after[i]) for i in used)


def _is_same(before: tuple[int, str], after: tuple[int, str]) -> bool:
    """Whether it is the same label, by its name; or by its id in the source, where only now or only then it had one."""
    return before[1] == after[1] or (before[0] == after[0] and unnamed(before[0]) in (before[1], after[1]))


def _numbers(value: Any) -> set[int]:
    """The whole numbers in lists and objects."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        return {number for one in value for number in _numbers(one)}
    return {value} if isinstance(value, int) else set()
