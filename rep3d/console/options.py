"""The options of a command, checked before it runs: each is known, and means what was typed.

`monai.bundle` takes any `--name value` for a new entry of the configuration, and so ignores a name that is misspelt;
its command line turns what looks like Python into it, such as the folder 2024_01_05 into 20240105, or scans#2 into
scans; and its configurations take # in any text for ::.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from numbers import Integral, Real
from types import FrameType
from typing import Any

import torch
from fire.parser import DefaultParseValue
from monai.bundle import ConfigParser, ConfigWorkflow, load
from monai.bundle.reference_resolver import ReferenceResolver

from rep3d.console.errors import root_cause, show_errors_briefly
from rep3d.console.nearest import nearest

logger = logging.getLogger(__name__)

PATHS = (
    *("bundle_root", "dataset_dir", "output_dir", "ckpt_dir", "init_from", "checkpoint"),
    *("more_data", "predictions", "image", "previous", "taken"),  # of bundles that take prompts
)
WINDOW, CHECK = "intensity_window", "rep3d.transforms.CheckVolumed"  # which holds scans against the window, and no more
LOSS, JUDGING = "loss", ("regions", "ignored_label")  # what a training's loss takes, or else only its scores would
SEPARATOR = ReferenceResolver.sep
TYPED_SEPARATOR = "#"
EVALUATED = ("$", "@", "%")  # begin what a configuration evaluates
INITIALIZE = "initialize"
PREPARING = ("imports", INITIALIZE, "finalize")  # lists of expressions that nobody runs by themselves
BOOLEANS = {"true": True, "false": False}
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


def option_ids(config: dict, prefix: str = "") -> Iterator[str]:
    """The ids of what a config defines, except the arguments of components, which Python checks.

    Of `{"seed": 0, "train": {"dataset": {"_target_": "Dataset", "data": []}}}`: seed, train, train::dataset.
    """
    for name, value in config.items():
        if name == ConfigParser.meta_key:
            continue
        yield prefix + name
        if isinstance(value, dict) and "_target_" not in value:
            yield from option_ids(value, f"{prefix}{name}{SEPARATOR}")


def plain_values(config: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a config that are numbers, lists of numbers or truth values."""
    return {
        name: value
        for name, value in config.items()
        if isinstance(value, bool) or _is_number(value) or _is_numbers(value)
    }


def references(config: Any) -> set[str]:
    """The ids that a config refers to with `@id`."""
    if isinstance(config, str):
        return set(ReferenceResolver.match_refs_pattern(config))
    values = config.values() if isinstance(config, dict) else config if isinstance(config, list) else ()
    return set().union(*map(references, values))


def unused_ids(config: dict) -> list[str]:
    """The ids that nothing refers to, and that are nothing to run either: they do nothing."""
    used, parser = references(config), ConfigParser(config)
    return [
        name
        for name in option_ids(config)
        if not is_runnable(parser[name]) and not any(_is_part(name, one) or _is_part(one, name) for one in used)
    ]


def undefined_ids(config: dict) -> list[str]:
    """The ids that are referred to and nowhere defined."""
    parser = ConfigParser(config)
    return sorted(name for name in references(config) if name not in parser)


def is_runnable(value: Any) -> bool:
    """Whether a config's value is a list of expressions, such as what `monai.bundle run` runs."""
    return isinstance(value, list) and bool(value) and all(map(_is_expression, value))


def check_options(known_ids: Iterable[str], known_values: Mapping[str, Any] | None = None) -> None:
    """Check what the running `monai.bundle` workflow was told, and give values back what was typed.

    Names of files and folders are text, whatever they look like, and "true" and "false" are truth values. Does nothing
    outside of a workflow.

    Args:
        known_ids: the bundle's own ids, see `option_ids`. Further ones are known where something refers to them, as in
            a config file that a user lays over the bundle's.
        known_values: the bundle's own `plain_values`: what is given for one of them is of its kind. A whole number
            stands for whole numbers only.

    Raises:
        ValueError: an unknown option, one of another kind than the bundle's or that is None, an entry that a config
            file took away, a run id that runs nothing, no such device, a path that is no text and cannot be
            recovered, or a training with an intensity window that its preprocessing does not take, or with regions or
            an ignored label that its loss does not take.
    """
    workflow = _running_workflow()
    if workflow is None:
        return
    parser: ConfigParser = workflow.parser
    config: Any = parser.config
    _check_no_none()
    _check_defined(config)
    known = {*known_ids, *map(str, (workflow.run_id, workflow.init_id, workflow.final_id))}
    for name in unused_ids(config):
        if name not in known and not name.startswith("_"):
            shown = name.replace(SEPARATOR, TYPED_SEPARATOR)
            aliases = [name for name in ALIASES.get(shown, ()) if name in config]
            near = (one.replace(SEPARATOR, TYPED_SEPARATOR) for one in known)
            close = f", did you mean {aliases[0]!r}?" if aliases else nearest(shown, near)
            raise ValueError(f"unknown option {shown!r}, nothing in the bundle's configuration uses it{close}")
    _check_run_id(config, str(workflow.run_id))
    for name, value in [*_mistaken_paths(parser), *_booleans(config), *_whole_numbers(config, known_values or {})]:
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
    workflow = _running_workflow()
    if workflow is not None and any(frame.f_code is load.__code__ for frame in _frames()):
        workflow.parser[INITIALIZE] = [None] * len(workflow.parser[INITIALIZE])


def check_started() -> None:
    """Check that the bundle's `initialize` has run: MONAI takes a word without "--" for what to run in its place.

    Raises:
        ValueError: names the word.
    """
    workflow = _running_workflow()
    if workflow is not None and workflow.init_id != INITIALIZE:
        show_errors_briefly()  # which `initialize` would have done
        raise ValueError(f"{workflow.init_id!r} is no option: they begin with --, and names with blanks need quotes")


def _is_part(name: str, of: str) -> bool:
    return name == of or name.startswith(of + SEPARATOR)


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
        fits, expected = _is_numbers(value) and len(value) == len(known), f"{len(known)} numbers such as {known}"
    elif isinstance(known, int):
        fits, expected = _is_number(value, Integral), f"a whole number such as {known}"
    else:
        fits, expected = _is_number(value), f"a number such as {known}"
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
    taken = _all_references(config, LOSS) if config.get("training") else {*JUDGING}
    for name in JUDGING:
        if config.get(name) not in (None, "$None") and name not in taken:
            raise ValueError(
                f"{name} is {config[name]!r}, expected null: the loss of this bundle takes none; `rep3d new` "
                "makes a bundle whose loss does, by the file of the data set"
            )


def _all_references(config: Mapping[str, Any], name: str) -> set[str]:
    """The ids that an entry refers to, and that these refer to in their turn."""
    found, left = set[str](), [name]
    while left:
        new = references(config.get(left.pop().split(SEPARATOR)[0])) - found
        found |= new
        left += new
    return found


def _without_checks(transforms: Any) -> Any:
    """Transforms but those that only look at the image."""
    if not isinstance(transforms, list):
        return transforms
    return [one for one in transforms if not (isinstance(one, Mapping) and one.get("_target_") == CHECK)]


def _is_number(value: object, kind: type = Real) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _is_numbers(value: object) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(map(_is_number, value))


def _whole_numbers(config: Mapping[str, Any], known: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """The ids of whole numbers that were written as 1e3, which Python takes for 1000.0."""
    for name, value in config.items():
        if _is_number(known.get(name), Integral) and isinstance(value, float) and value.is_integer():
            yield name, int(value)


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
    runs = is_runnable(value) or (_is_expression(value) and run_id not in references(config))
    if runs and run_id in config and run_id not in PREPARING:
        return
    names = [name for name, one in config.items() if is_runnable(one) and name not in PREPARING]
    names.sort(key=lambda name: name == "run")  # last: MONAI Label's word for what the others name
    elsewhere = f"; its --config_file is {CONFIG_FILES[run_id]}" if run_id in CONFIG_FILES else ""
    expected = f"expected one of {', '.join(names)}{elsewhere or nearest(run_id, names)}"
    raise ValueError(f"run id {run_id!r} runs nothing, {expected}")


def _is_expression(value: object) -> bool:
    return isinstance(value, str) and value.startswith("$")


def as_text(path: str) -> str:
    """A path for a configuration, which would take # in it for ::."""
    if TYPED_SEPARATOR not in path:
        return path
    return "$" + repr(path).replace(TYPED_SEPARATOR, r"\x23").replace("@", r"\x40")


def _mistaken_paths(parser: ConfigParser) -> Iterator[tuple[str, str | list[str]]]:
    for name in PATHS:
        value, typed = parser.get(name), _typed(name)
        if value is None or isinstance(value, str) and value.startswith(EVALUATED):
            continue
        parsed = None if typed is None else DefaultParseValue(typed)
        if _is_path(value):
            is_quoted = typed is not None and typed.startswith(("'", '"'))
            yield name, _recovered(name, str(value), parsed, parsed if is_quoted else typed)
        elif isinstance(value, list) and all(map(_is_path, value)):
            originals = parsed if isinstance(parsed, list) and len(parsed) == len(value) else [None] * len(value)
            yield name, [_recovered(name, str(path), one, one) for path, one in zip(value, originals, strict=True)]
        elif value is True and (typed is None or typed.startswith("-")):
            raise ValueError(f"--{name} has no value, expected a path after it")
        elif typed is None:
            raise ValueError(f"{name} is {value!r}, expected text: write a name that looks like a number as ./NAME")
        else:
            yield name, as_text(typed)


def _recovered(name: str, value: str, parsed: object, typed: str | None) -> str:
    """A path as it was typed, for a configuration.

    Args:
        name: of the option.
        value: what the configuration made of it.
        parsed: what the command line made of what was typed.
        typed: None where nothing was.

    Raises:
        ValueError: nothing tells what it was.
    """
    if typed is not None and isinstance(parsed, str) and parsed.replace(TYPED_SEPARATOR, SEPARATOR) == value:
        return as_text(typed)
    if SEPARATOR in value:
        told = f"{name} is {value!r}, or with {TYPED_SEPARATOR} for {SEPARATOR}, which a configuration takes alike"
        raise ValueError(f"{told}: expected a path without them")
    return value


def _is_path(value: object) -> bool:
    return isinstance(value, str | os.PathLike)


def _typed(name: str) -> str | None:
    """The text that this process was started with after `--name`."""
    return dict(_typed_options()).get(name)


def _typed_options() -> Iterator[tuple[str, str | None]]:
    """The options that this process was started with, and the text after each."""
    for word, following in zip(sys.argv, [*sys.argv[1:], None], strict=True):
        option, equals, value = word.partition("=")
        if option.startswith("-"):
            yield option.lstrip("-").replace("-", "_"), value if equals else following


def _check_no_none() -> None:
    """Refuse what `monai.bundle` takes for an option that was not given, as if nothing had been typed."""
    for name, typed in _typed_options():
        if typed is not None and DefaultParseValue(typed) is None:
            raise ValueError(f"{name} is {typed}, which monai.bundle leaves out: for nothing write --{name} '$None'")


def _booleans(config: Any, prefix: str = "") -> Iterator[tuple[str, bool]]:
    """The ids whose values are true or false in words, which Python takes for true alike."""
    pairs = config.items() if isinstance(config, dict) else enumerate(config) if isinstance(config, list) else ()
    for key, value in pairs:
        name = f"{prefix}{SEPARATOR}{key}" if prefix else str(key)
        if name == ConfigParser.meta_key:
            continue
        if isinstance(config, dict) and isinstance(value, str) and value.lower() in BOOLEANS and name not in PATHS:
            yield name, BOOLEANS[value.lower()]
        yield from _booleans(value, name)


def running_config() -> dict[str, Any] | None:
    """The unresolved configuration of the running `monai.bundle` workflow, with what was typed; None outside of one."""
    workflow = _running_workflow()
    config: Any = None if workflow is None else workflow.parser.config
    return config


def _running_workflow() -> ConfigWorkflow | None:
    """The workflow whose `initialize` calls us; MONAI gives expressions no other way to it."""
    owners = (frame.f_locals.get("self") for frame in _frames())
    return next((owner for owner in owners if isinstance(owner, ConfigWorkflow)), None)


def _frames() -> Iterator[FrameType]:
    """The calls that lead here, the innermost first."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        yield frame
        frame = frame.f_back
