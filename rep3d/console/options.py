"""The options of a command, checked before it runs: each is known, and means what was typed.

`monai.bundle` takes any `--name value` for a new entry of the configuration, and so ignores a name that is misspelt;
its command line turns what looks like Python into it, such as the folder 2024_01_05 into 20240105, or scans#2 into
scans; and its configurations take # in any text for ::.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from numbers import Integral
from typing import Any

import torch
from monai.bundle import ConfigParser, load

from rep3d.console.configurations import (
    EVALUATED,
    SEPARATOR,
    all_references,
    is_expression,
    is_number,
    is_numbers,
    is_runnable,
    references,
    undefined_ids,
    unused_ids,
)
from rep3d.console.errors import root_cause, show_errors_briefly
from rep3d.console.nearest import nearest
from rep3d.console.typed import TYPED_SEPARATOR, booleans, check_no_none, mistaken_paths, whole_numbers
from rep3d.console.workflows import frames, running_workflow

logger = logging.getLogger(__name__)

WINDOW, CHECK = "intensity_window", "rep3d.transforms.CheckVolumed"  # which holds scans against the window, and no more
LOSS, JUDGING = "loss", ("regions", "ignored_label")  # what a training's loss takes, or else only its scores would
INITIALIZE = "initialize"
PREPARING = ("imports", INITIALIZE, "finalize")  # lists of expressions that nobody runs by themselves
OPEN = ("resume",)  # takes other words than true and false, and checks them
ALIASES = {  # what other programs call it
    "lr": ("learning_rate",),
    "max_epochs": ("epochs",),
    "workers": ("num_workers",),
    "data": ("dataset_dir",),
    "data_dir": ("dataset_dir",),
    "ckpt": ("checkpoint", "init_from"),
    "ckpt_file": ("checkpoint", "init_from"),
    "weights": ("checkpoint", "init_from"),
}
CONFIG_FILES = {  # of the run ids that not every command has
    "training": "configs/train.json",
    "evaluating": "\"['configs/train.json','configs/evaluate.json']\", without labels configs/inference.json",
}


def check_options(known_ids: Iterable[str], known_values: Mapping[str, Any] | None = None) -> None:
    """Check what the running `monai.bundle` workflow was told, and give values back what was typed.

    Names of files and folders are text, whatever they look like, and "true" and "false" are truth values. Does nothing
    outside of a workflow.

    Args:
        known_ids: the bundle's own ids, see `rep3d.console.configurations.option_ids`. Further ones are known where
            something refers to them, as in a config file that a user lays over the bundle's.
        known_values: the bundle's own values, see `rep3d.console.configurations.plain_values`: what is given for one
            of them is of its kind. A whole number stands for whole numbers only.

    Raises:
        ValueError: an unknown option, one of another kind than the bundle's or that is None, an entry that a config
            file took away, a run id that runs nothing, no such device, a path that is no text and cannot be
            recovered, or a training with an intensity window that its preprocessing does not take, or with regions or
            an ignored label that its loss does not take.
    """
    workflow = running_workflow()
    if workflow is None:
        return
    parser: ConfigParser = workflow.parser
    config: Any = parser.config
    check_no_none()
    _check_defined(config)
    known = {*known_ids, *map(str, (workflow.run_id, workflow.init_id, workflow.final_id))}
    _check_known(config, known)
    _check_run_id(config, str(workflow.run_id))
    for name, value in [*mistaken_paths(parser), *booleans(config), *whole_numbers(config, known_values or {})]:
        parser[name] = value
    for name, known_value in (known_values or {}).items():
        _check_kind(name, parser[name], known_value)
    if known_values is not None and WINDOW not in known_values:
        _check_window(config)
    _check_loss(config)
    _check_device(parser)


def refuse_training_options(init_from: str | None, resume: bool | str) -> None:
    """Refuse what an evaluation does not look at, and that yet sounds as if it chose the weights.

    Raises:
        ValueError: `init_from` or `resume` is given.
    """
    if init_from is not None or str(resume).lower() != "false":
        raise ValueError("init_from and resume are of a training, expected --checkpoint FILE for other weights")


def refuse_moved_ablation(name: str) -> None:
    """Refuse configs/networks/rep3d_{name}.json of version 0.1.0, which brought the paper's sizes to every bundle.

    Raises:
        ValueError: names the two files that take its place.
    """
    raise ValueError(
        f"configs/networks/rep3d_{name}.json is now configs/ablations/{name}.json, which keeps the bundle's sizes: "
        "for the paper's, lay configs/networks/rep3d.json before it"
    )


def leave_to_load() -> None:
    """Skip what is left of `initialize` where `monai.bundle.load` only wants the network: there may be no data.

    It initializes the config that trains unless it is told another, see its `workflow_type`.
    """
    workflow = running_workflow()
    if workflow is not None and any(frame.f_code is load.__code__ for frame in frames()):
        workflow.parser[INITIALIZE] = [None] * len(workflow.parser[INITIALIZE])


def check_started() -> None:
    """Check that the bundle's `initialize` has run: MONAI takes a word without "--" for what to run in its place.

    Raises:
        ValueError: names the word.
    """
    workflow = running_workflow()
    if workflow is not None and workflow.init_id != INITIALIZE:
        show_errors_briefly()  # which `initialize` would have done
        raise ValueError(f"{workflow.init_id!r} is no option: they begin with --, and names with blanks need quotes")


def _check_known(config: dict, known: Collection[str]) -> None:
    """Refuse an option that nothing uses, unless its name begins with _."""
    for name in unused_ids(config):
        if name not in known and not name.startswith("_"):
            shown = name.replace(SEPARATOR, TYPED_SEPARATOR)
            aliases = [name for name in ALIASES.get(shown, ()) if name in config]
            near = (one.replace(SEPARATOR, TYPED_SEPARATOR) for one in known)
            close = f", did you mean {aliases[0]!r}?" if aliases else nearest(shown, near)
            raise ValueError(f"unknown option {shown!r}, nothing in the bundle's configuration uses it{close}")


def _check_defined(config: dict) -> None:
    missing = undefined_ids(config)
    if missing:
        whole, _, _ = missing[0].partition(SEPARATOR)
        hint = f"; a config file that has {whole!r} takes the place of the whole, expected '{whole}#...'"
        told = f"nothing defines {missing[0].replace(SEPARATOR, TYPED_SEPARATOR)!r}, which the configuration uses"
        raise ValueError(told + (hint if whole in config else ""))


def _check_kind(name: str, value: Any, known: Any) -> None:
    """Whether a value is of the kind of the bundle's own; expressions and null are left to whoever uses them.

    So are lists with something for each channel, such as windows of intensities.
    """
    if value is None or isinstance(value, str) and value.startswith(EVALUATED) or name in OPEN:
        return
    if (
        isinstance(known, list)
        and isinstance(value, list)
        and any(one is None or isinstance(one, list) for one in value)
    ):
        return
    if isinstance(known, bool):
        fits, expected = isinstance(value, bool), "true or false"
    elif isinstance(known, list):
        fits, expected = is_numbers(value) and len(value) == len(known), f"{len(known)} numbers such as {known}"
    elif isinstance(known, int):
        fits, expected = is_number(value, Integral), f"a whole number such as {known}"
    else:
        fits, expected = is_number(value), f"a number such as {known}"
    if not fits:
        raise ValueError(f"{name} is {value!r}, expected {expected}")


def _check_window(config: Mapping[str, Any]) -> None:
    """Refuse to train with an intensity window that no transform takes; of weights that were trained so, tell it.

    Raises:
        ValueError: there is one, and the image gets its z-score all the same.
    """
    window, preprocessing = config.get(WINDOW), config.get("preprocessing")
    transforms = preprocessing.get("transforms") if isinstance(preprocessing, Mapping) else preprocessing
    if window is None or WINDOW in references(_without_checks(transforms)):
        return
    told = f"{WINDOW} is {window!r}, expected null: the preprocessing of this bundle takes no window"
    if config.get("training"):
        raise ValueError(told)
    logger.warning("%s, and computes without", told)


def _check_loss(config: Mapping[str, Any]) -> None:
    """Refuse to train with regions or an ignored label that the loss does not take.

    Raises:
        ValueError: there is one.
    """
    taken = all_references(config, LOSS) if config.get("training") else {*JUDGING}
    for name in JUDGING:
        if config.get(name) not in (None, "$None") and name not in taken:
            raise ValueError(
                f"{name} is {config[name]!r}, expected null: the loss of this bundle takes none; `rep3d new` "
                "makes a bundle whose loss does, by the file of the data set"
            )


def _without_checks(transforms: Any) -> Any:
    """Transforms but those that only look at the image."""
    if not isinstance(transforms, list):
        return transforms
    return [one for one in transforms if not (isinstance(one, Mapping) and one.get("_target_") == CHECK)]


def _check_device(parser: ConfigParser) -> None:
    try:
        torch.empty(0, device=parser.get_parsed_content("device"))
    except Exception as error:
        told = str(root_cause(error)).splitlines()[0]
        raise ValueError(
            f"device is {parser['device']!r}, expected for example cpu, cuda or cuda:1 ({told})"
        ) from error


def _check_run_id(config: dict, run_id: str) -> None:
    value = ConfigParser(config).get(run_id)
    runs = is_runnable(value) or (is_expression(value) and run_id not in references(config))
    if runs and run_id in config and run_id not in PREPARING:
        return
    names = [name for name, one in config.items() if is_runnable(one) and name not in PREPARING]
    names.sort(key=lambda name: name == "run")  # last: MONAI Label's word for what the others name
    elsewhere = f"; its --config_file is {CONFIG_FILES[run_id]}" if run_id in CONFIG_FILES else ""
    expected = f"expected one of {', '.join(names)}{elsewhere or nearest(run_id, names)}"
    raise ValueError(f"run id {run_id!r} runs nothing, {expected}")
