"""`rep3d train`, `evaluate` and `predict`: each is a line of `python -m monai.bundle`, which it prints and runs."""

from __future__ import annotations

import ast
import math
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fire.decorators import SetParseFn
from fire.parser import DefaultParseValue

from rep3d import installed
from rep3d.commands.bundle_folders import FOLDER, find_bundle
from rep3d.console.commands import switch
from rep3d.console.status import TRAINING_STATUS, read_status
from rep3d.files import read_json
from rep3d.shipped import OF_THE_DATA, TRAINED, check_settings, differences, find_weights, settings_beside

if TYPE_CHECKING:
    from monai.bundle import ConfigParser

ALL = "all"
YAML = (".yaml", ".yml")
SEPARATOR = "::"  # MONAI's, of the parts of an id; or #
EXPRESSIONS = ("$", "@", "%")  # MONAI's, begin what a run evaluates


@SetParseFn(str)
def train(
    bundle: str, *, folds: str | None = None, bundle_dir: str = FOLDER, config_file: str | None = None, **options: str
) -> None:
    """Train a bundle; its best weights go to models/trained in its folder.

    Args:
        bundle: its folder, or its name.
        folds: `all`, or numbers such as 0,2: one after the other, each as with --fold, and in a folder fold1 and so
            on of --ckpt_dir and --output_dir. With --resume auto those that are trained already are left as they are.
        bundle_dir: the folder that holds your bundles.
        config_file: laid over the bundle's own; several as "['a.json','b.json']".
        options: any entry of the bundle's configuration, such as --dataset_dir DIR, --epochs 3, --resume true.
    """
    folder = find_bundle(bundle, bundle_dir)
    if folds is None:
        run_line(training_of(folder, config_file, options))
        return
    if "fold" in options:
        raise ValueError("fold and folds exclude each other")
    told = _told(config_file, options)
    for fold in _folds(folds, Path(told.get("dataset_dir", folder / "data"))):
        of_fold = _of_fold(options, told, fold)
        if told.get("resume", "false").lower() != "false" and _is_trained(folder, config_file, of_fold):
            print(f"fold {fold} is trained already")
        else:
            run_line(training_of(folder, config_file, of_fold))


@SetParseFn(str)
def evaluate(
    bundle: str,
    *,
    choose_refinement: str | bool = False,
    bundle_dir: str = FOLDER,
    config_file: str | None = None,
    **options: str,
) -> None:
    """Score a trained bundle on the test cases of its data set, or else on those of validation.

    Args:
        bundle: its folder, or its name.
        choose_refinement: before, choose on the validation cases what is taken off label maps, or added to them, and
            write it into the bundle, for all that segments with it.
        bundle_dir: the folder that holds your bundles.
        config_file: laid over the bundle's own; several as "['a.json','b.json']".
        options: any entry of the bundle's configuration, such as --dataset_dir DIR, --fold 1, --output_dir DIR.
    """
    chooses = switch("choose_refinement", choose_refinement)
    folder = find_bundle(bundle, bundle_dir)
    files = ["train.json", "evaluate.json"]
    own_data = folder / "data"
    if Path(_told(config_file, options).get("dataset_dir", own_data)).resolve() == own_data.resolve():
        _check_own_data(folder, config_file, options)
    if chooses:
        choosing = "choose_refinement.json"
        if not (folder / "configs" / choosing).is_file():
            raise FileNotFoundError(f"{folder} has no configs/{choosing}: this kind of bundle, or an earlier version's")
        run_line(_with_weights("evaluating", folder, [*files, choosing], config_file, options))
    run_line(_with_weights("evaluating", folder, files, config_file, options))


@SetParseFn(str)
def predict(
    scans: str,
    *,
    bundle: str,
    output: str | None = None,
    output_format: str | None = None,
    preview: str | None = None,
    bundle_dir: str = FOLDER,
    config_file: str | None = None,
    **options: str,
) -> None:
    """Segment a scan or a folder of scans: NIfTI, NRRD, DICOM series and studies, or the test images of a data set.

    Each label map lies on the grid of its scan; beside it are the names and colours of the labels, and for a DICOM
    series a DICOM Segmentation. volumes.csv has the millilitres of all labels. What the training of the weights was
    told needs not be typed again. Run again, it segments what is missing.

    Args:
        scans: the file or folder.
        bundle: its folder, or its name.
        output: the folder of the label maps; by default `eval` in the bundle's.
        output_format: nii.gz, nii, or seg.nrrd with the names and colours inside, for 3D Slicer; by default nii.gz.
        preview: a picture of each scan as well, PNG: three planes and a projection.
        bundle_dir: the folder that holds your bundles.
        config_file: laid over the bundle's own; several as "['a.json','b.json']".
        options: any entry of the bundle's configuration, such as --checkpoint FILE, --device cpu.
    """
    if not Path(scans).exists():
        raise FileNotFoundError(f"scans is {scans!r}, expected a file or a folder that is there")
    given = {"dataset_dir": scans, "output_dir": output, "output_format": output_format, "preview": preview}
    told = {name: value for name, value in given.items() if value is not None}
    twice = sorted(told.keys() & options.keys())
    if twice:
        raise ValueError(f"{twice[0]} is given twice: here it is the scans' place, or --output")
    folder = find_bundle(bundle, bundle_dir)
    run_line(_with_weights("evaluating", folder, ["inference.json"], config_file, told | options))


def training_of(bundle: Path, config_file: str | None = None, options: Mapping[str, str] | None = None) -> list[str]:
    """The arguments of `python -m monai.bundle` that train a bundle."""
    return _command("training", bundle, ["train.json"], config_file, options or {})


def line_of(arguments: Sequence[str]) -> str:
    """What somebody would type."""
    return f"python -m monai.bundle {shlex.join(arguments)}"


def run_line(arguments: Sequence[str]) -> None:
    """Print `python -m monai.bundle` with its arguments, run it, and end as it does where it fails."""
    print(line_of(arguments), flush=True)
    process = subprocess.Popen([sys.executable, "-m", "monai.bundle", *arguments])
    before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        while True:
            try:
                status = process.wait()
                break
            except KeyboardInterrupt:  # which reached the run as well: it ends by itself
                continue
    finally:
        signal.signal(signal.SIGTERM, before)
    if status != 0:
        raise SystemExit(status if status > 0 else 128 - status)


def _with_weights(
    run_id: str, bundle: Path, files: Sequence[str], overlays: str | None, options: Mapping[str, str]
) -> list[str]:
    """The arguments of `python -m monai.bundle` for a run of trained weights, with what their training was told.

    Raises:
        FileNotFoundError: there are no such weights.
        ValueError: they are of different settings.
    """
    weights = _chosen_weights(bundle, overlays, options)
    for path in weights:
        if not path.is_file() and not str(path).startswith("$"):
            raise FileNotFoundError(f"no weights at {str(path)!r}: train first, or give a checkpoint")
    told = {path: read_json(path) for path in map(settings_beside, weights)}
    first, *others = told.values()
    if any(other != first for other in others):
        raise ValueError(f"{' and '.join(map(str, told))} differ: expected checkpoints of equal settings")
    return _command(run_id, bundle, files, overlays, options, [str(path) for path in told if first][:1])


def _told(overlays: str | None, options: Mapping[str, str]) -> dict[str, str]:
    """The entries of the overlays, as text, and what is typed, which counts more."""
    laid = {name: str(value) for path in _overlays(overlays) for name, value in _read(path).items()}
    return laid | dict(options)


def _chosen_weights(bundle: Path, overlays: str | None, options: Mapping[str, str]) -> list[Path]:
    """The checkpoints that a run takes by what is typed and by its overlays."""
    told = _told(overlays, options)
    if "checkpoint" in told:
        return [Path(path) for path in _paths("checkpoint", told["checkpoint"])]
    return [_weights_of(bundle, told)]


def _check_own_data(bundle: Path, overlays: str | None, options: Mapping[str, str]) -> None:
    """Refuse weights that know other labels, or images, than the bundle's own data set, which `rep3d new` made anew."""
    own = _config(bundle, overlays, options)
    for weights in _chosen_weights(bundle, overlays, options):
        check_settings(weights, {name: own[name] for name in OF_THE_DATA if name in own}, "evaluate")


def _config(bundle: Path, overlays: str | None, options: Mapping[str, str]) -> dict[str, object]:
    """The entries of the config that trains, without those that are typed, as a whole or in part."""
    config: dict[str, object] = {}
    for path in (str(bundle / "configs/train.json"), *_overlays(overlays)):
        config |= _read(path)
    places = [name.replace(SEPARATOR, "#").partition("#") for name in (*config, *options)]
    changed = {*options, *(whole for whole, part, _ in places if part)}
    return {name: value for name, value in config.items() if name not in changed}


def _read(path: str) -> dict[str, Any]:
    """The entries of a config file; none of one that is neither JSON nor YAML, which the run refuses.

    Raises:
        ValueError: it is damaged JSON.
    """
    if not path.lower().endswith(YAML):
        return read_json(path) if _json_files([path]) else {}
    from monai.bundle import ConfigParser  # here, not above: it takes seconds

    return ConfigParser.load_config_file(path)


def _json_files(paths: Sequence[str]) -> list[str]:
    """Those that are JSON; overlays may be YAML."""
    return [path for path in paths if path.lower().endswith(".json")]


def _of_fold(options: Mapping[str, str], told: Mapping[str, str], fold: int) -> dict[str, str]:
    """The options of one of several folds: each has folders of its own.

    Args:
        options: what is typed.
        told: see `_told`.
        fold: its number.

    Raises:
        ValueError: a folder is an expression, which may be the same for all folds.
    """
    from rep3d.data.splits import fold_folder  # here, not above: it takes seconds

    folders = {name: told[name] for name in ("ckpt_dir", "output_dir") if name in told}
    for name, folder in folders.items():
        if folder.startswith(EXPRESSIONS):
            raise ValueError(f"{name} is {folder!r}, expected with --folds a path, of which each fold gets its own")
    return {**options, **{name: fold_folder(folder, fold) for name, folder in folders.items()}, "fold": str(fold)}


def _is_trained(bundle: Path, overlays: str | None, options: Mapping[str, str]) -> bool:
    """Whether the training of a fold has come to its end, and of as many epochs as it is told now.

    Raises:
        ValueError: it was told other settings than now, has other cases now than those it was trained on, or label maps
            that were changed since.
    """
    weights = _weights_of(bundle, options)
    status = read_status(weights.with_name(TRAINING_STATUS))
    config = _config(bundle, overlays, options)
    epochs = DefaultParseValue(str(options.get("epochs", config.get("epochs"))))
    if not weights.is_file() or status is None or (status.state, status.epochs) != ("finished", epochs):
        return False
    fold = f"fold {options['fold']}"
    check_settings(weights, config, fold)
    others = differences(status.settings, config | _typed(options))
    if others:
        told = "; ".join(others.values())
        raise ValueError(
            f"{fold}: {weights} was trained with {told}: give what it was, or train anew, without --resume"
        )
    _check_cases(weights, bundle, overlays, options)
    return True


def _typed(options: Mapping[str, str]) -> dict[str, object]:
    """The values of what is typed, as a run takes them."""
    from rep3d.console.typed import BOOLEANS  # here, not above: it takes seconds

    values = {name: BOOLEANS.get(value.lower(), DefaultParseValue(value)) for name, value in options.items()}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _check_cases(weights: Path, bundle: Path, overlays: str | None, options: Mapping[str, str]) -> None:
    """Refuse weights of a fold whose training would have other cases now, or changed label maps.

    Weights that do not tell their cases are taken.

    Raises:
        ValueError: names the cases, or the label maps.
    """
    from monai.bundle import ConfigParser  # here, not above: they take seconds

    from rep3d.console.typed import PATHS, as_text
    from rep3d.data.leakage import trained_images
    from rep3d.training.checkpoints import read_weights

    trained = read_weights(weights)
    if not trained_images(trained):
        return
    parser = ConfigParser()
    parser.read_config([str(bundle / "configs/train.json"), *_overlays(overlays)])
    for name, value in options.items():
        parser[name] = as_text(value) if name in PATHS and not value.startswith("[") else DefaultParseValue(value)
    parser["bundle_root"] = as_text(str(bundle))
    others = parser.get_parsed_content("cases").trained_otherwise(trained)
    if others:
        raise ValueError(f"fold {options['fold']}: {weights} is of other cases: {others}; train anew, without --resume")
    _check_labels(weights, parser, options["fold"])


def _check_labels(weights: Path, parser: ConfigParser, fold: str) -> None:
    """Refuse weights whose training began before one of its label maps was written.

    Args:
        weights: of a training that has come to its end.
        parser: of the config that would train.
        fold: its number.

    Raises:
        ValueError: names the label maps.
    """
    from rep3d.data.dataset_json import originals  # here, not above: they take seconds
    from rep3d.data.leakage import some

    status = read_status(weights.with_name(TRAINING_STATUS))
    began = min(weights.stat().st_mtime, (status and status.started) or math.inf)
    original_of = originals(Path(parser.get_parsed_content("dataset_dir")))  # copies are written by each `rep3d new`
    items = [item for part in ("train", "validate") for item in parser.get_parsed_content(f"{part}#dataset#data")]
    labels = [Path(original_of.get(item["label"], item["label"])) for item in items if "label" in item]
    newer = [str(label) for label in labels if label.is_file() and label.stat().st_mtime > began]
    if newer:
        told = f"{len(newer)} label map(s) were changed after the training of {weights} began: {some(newer)}"
        raise ValueError(f"fold {fold}: {told}; train anew, without --resume")


def _weights_of(bundle: Path, options: Mapping[str, str]) -> Path:
    """Raises ValueError: fold is no whole number."""
    fold = options.get("fold", "0")
    if "ckpt_dir" in options or fold == "0":
        return find_weights(bundle, options.get("ckpt_dir"))
    if not fold.isdecimal():
        raise ValueError(f"fold is {fold!r}, expected a whole number from 0")
    from rep3d.data.splits import fold_folder  # here, not above: it takes seconds

    return find_weights(bundle, fold_folder(str(bundle / Path(TRAINED).parent), int(fold)))


def _command(
    run_id: str,
    bundle: Path,
    files: Sequence[str],
    overlays: str | None,
    options: Mapping[str, str],
    settings: Sequence[str] = (),
) -> list[str]:
    """The arguments of `python -m monai.bundle`; `settings` are files between the bundle's own and the overlays.

    Raises:
        ValueError: one of the files is damaged.
    """
    paths = [*(str(bundle / "configs" / name) for name in files), *settings, *_overlays(overlays)]
    for path in _json_files(paths):
        read_json(path)
    words = ["run", run_id, "--config_file", paths[0] if len(paths) == 1 else str(paths), "--bundle_root", str(bundle)]
    return words + [word for name, value in options.items() for word in (f"--{name}", value)]


def _overlays(files: str | None) -> list[str]:
    """Paths; one such as configs/networks/unet.json is that of the package, where there is no file of this name."""
    if files is None:
        return []
    return [file if Path(file).is_file() else _of_the_package(file) for file in _paths("config_file", files)]


def _paths(name: str, typed: str) -> list[str]:
    """Raises ValueError: neither a path nor a list of paths."""
    try:
        return [str(file) for file in ast.literal_eval(typed)] if typed.startswith("[") else [typed]
    except (ValueError, SyntaxError):
        raise ValueError(f"{name} is {typed!r}, expected a path, or several as ['a.json','b.json']") from None


def _of_the_package(file: str) -> str:
    path = installed.root() / file
    if not path.is_file():
        raise FileNotFoundError(f"config_file {file!r} does not exist, neither here nor in {installed.root()}")
    return str(path)


def _folds(folds: str, dataset_dir: Path) -> list[int]:
    """The numbers of the folds.

    Raises:
        ValueError: neither numbers nor `all`, or the data set has none.
    """
    if folds == ALL:
        from rep3d.data.lists import count_folds  # here, not above: it takes seconds

        return list(range(count_folds(dataset_dir)))
    if not all(number.isdecimal() for number in folds.split(",")):
        raise ValueError(f"folds is {folds!r}, expected {ALL}, or numbers such as 0,2")
    return [int(number) for number in folds.split(",")]
