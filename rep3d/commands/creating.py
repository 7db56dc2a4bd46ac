"""`rep3d new`: from a folder of scans and labels to a bundle that trains."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from fire.decorators import SetParseFn

from rep3d import installed
from rep3d.commands.bundle_folders import FOLDER
from rep3d.commands.lines import line_of, run_line, training_of
from rep3d.console.commands import switch

MODALITIES = ("CT", "MR")


@SetParseFn(str)  # a folder may be called 2024_01_05
def new(
    name: str,
    *,
    source: str,
    bundle_dir: str = FOLDER,
    labels: str | None = None,
    modality: str | None = None,
    channel: str | None = None,
    gpu_memory: str | None = None,
    hours: str | None = None,
    train: str | bool = False,
) -> None:
    """Make a bundle for scans and labels of your own, and say why it looks as it does.

    The folder may be laid out as the Medical Segmentation Decathlon or nnU-Net do it, as a folder of images beside one
    of labels, or with a folder for each patient, as in BIDS. Nothing is written there. Change the bundle in NAME.json,
    in its folder, and run the same command again: what you changed stays, and so do the options that you gave before.
    An option with '' behind it is forgotten. Weights that are there segment as they were trained.

    Args:
        name: of the bundle.
        source: the folder of the data set, with NIfTI files.
        bundle_dir: the folder that holds your bundles.
        labels: names of the label ids 1, 2, ... such as "liver,tumor", where the data set has no dataset.json.
        modality: CT, or MR for all that has no units, where it is told wrong; of several channels one each: CT,MR.
        channel: which of several images of a case, such as T1w, or T1w,FLAIR; all of them without.
        gpu_memory: GB of the GPU that it will train on, where it is not this computer's.
        hours: that the training of one fold takes on this computer; some steps are timed. The training keeps to them
            where it is given them, too.
        train: train the bundle right away.
    """
    trains = switch("train", train)
    if hours and gpu_memory:
        raise ValueError("hours are measured on this computer, and gpu_memory is of another: expected one of them")
    # Here, not above: they take seconds, and a help needs none of them.
    from rep3d.datasets.machine import this_machine
    from rep3d.datasets.own_bundle import new_bundle, report
    from rep3d.datasets.own_changes import read_options, write_options

    folder = Path(bundle_dir) / name
    given = {"labels": labels, "modality": modality, "channel": channel, "gpu_memory": gpu_memory, "hours": hours}
    given = {option: value for option, value in given.items() if value is not None}
    remembered = read_options(folder)
    before = {option: value for option, value in remembered.items() if option not in given}
    channels = remembered.get("channel", "")
    is_of_others = channel is not None and _names(channel) != _names(channels)
    if is_of_others and len(_names(before.get("modality", ""))) > 1:
        earlier = f"{before['modality']} was told for {channels or 'all channels'!r}"
        raise ValueError(f"channel is {channel!r}, and --modality {earlier}: give --modality as well")
    if hours or gpu_memory:
        before = {option: value for option, value in before.items() if option not in ("hours", "gpu_memory")}
    told = {option: value for option, value in (before | given).items() if value}
    if not {*_names(told.get("modality", MODALITIES[0]))} <= {*MODALITIES}:
        raise ValueError(f"modality is {modality!r}, expected one of {', '.join(MODALITIES)}, or one for each channel")
    make = partial(
        new_bundle,
        name,
        Path(source),
        Path(bundle_dir),
        root=installed.root(),
        machine=this_machine(_positive("gpu_memory", told["gpu_memory"]) if "gpu_memory" in told else None),
        modality=",".join(_names(told["modality"])) if "modality" in told else None,
        channels=_names(told["channel"]) if "channel" in told else (),
        label_names=_names(told["labels"]) if "labels" in told else None,
    )
    limit = 3600 * _positive("hours", told["hours"]) if "hours" in told else None
    made = make()
    if limit is not None:
        from rep3d.study.schedule import time_training

        print("timing some steps ...", flush=True)
        schedule = time_training(made.folder).schedule(limit)
        made = make(schedule=schedule, removed=made.removed)  # which are there again
    write_options(folder, told)
    print(report(made))
    if before:
        print(f"\nas before: {shlex.join(_words(before))}")
    place = [] if bundle_dir == FOLDER else ["--bundle_dir", bundle_dir]
    length = {"hours": told["hours"]} if "hours" in told else {}
    command = shlex.join(["rep3d", "train", name, *place, *_words(length)])
    training = training_of(made.folder, options=length)
    print(f"\nTrain it with\n  {command}\nor\n  {line_of(training)}")
    if made.problems:
        count = len(made.problems)
        print(
            f"\n{count} of {made.cases + count} case(s) were left out, see {made.folder / 'data/report.md'}", flush=True
        )
    if trains:
        run_line(training)


def _names(typed: str) -> list[str]:
    """Those between commas."""
    return [name.strip() for name in typed.split(",")]


def _words(options: Mapping[str, str]) -> list[str]:
    """As they are typed."""
    return [word for option, value in options.items() for word in (f"--{option}", value)]


def _positive(name: str, typed: str) -> float:
    try:
        number = float(typed)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise ValueError(f"{name} is {typed!r}, expected a number above 0")
    return number
