"""`rep3d train`, `evaluate` and `predict`: each is a line of `python -m monai.bundle`, which it prints and runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fire.decorators import SetParseFn

from rep3d.commands.bundle_folders import FOLDER, find_bundle
from rep3d.commands.lines import run_line, told_by, training_of
from rep3d.commands.trained import check_own_data, is_trained, with_weights
from rep3d.console.commands import switch

ALL = "all"
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
    told = told_by(config_file, options)
    for fold in _folds(folds, Path(told.get("dataset_dir", folder / "data"))):
        of_fold = _of_fold(options, told, fold)
        if told.get("resume", "false").lower() != "false" and is_trained(folder, config_file, of_fold):
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
    if Path(told_by(config_file, options).get("dataset_dir", own_data)).resolve() == own_data.resolve():
        check_own_data(folder, config_file, options)
    if chooses:
        choosing = "choose_refinement.json"
        if not (folder / "configs" / choosing).is_file():
            raise FileNotFoundError(f"{folder} has no configs/{choosing}: this kind of bundle, or an earlier version's")
        run_line(with_weights("evaluating", folder, [*files, choosing], config_file, options))
    run_line(with_weights("evaluating", folder, files, config_file, options))


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
    run_line(with_weights("evaluating", folder, ["inference.json"], config_file, told | options))


def _folds(folds: str, dataset_dir: Path) -> list[int]:
    """The numbers of the folds; fold 0 there is without folds, too.

    Raises:
        ValueError: neither numbers nor `all`, one twice, or the data set has none, or fewer.
    """
    from rep3d.data.lists import count_folds  # here, not above: it takes seconds

    if folds == ALL:
        return list(range(count_folds(dataset_dir)))
    if not all(number.isdecimal() for number in folds.split(",")):
        raise ValueError(f"folds is {folds!r}, expected {ALL}, or numbers such as 0,2")
    numbers = [int(number) for number in folds.split(",")]
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"folds is {folds!r}, expected each number once")
    if max(numbers) > 0 and dataset_dir.is_dir() and max(numbers) >= (count := count_folds(dataset_dir)):
        raise ValueError(f"folds is {folds!r}, but {str(dataset_dir)!r} has fold 0 to {count - 1}")
    return numbers


def _of_fold(options: Mapping[str, str], told: Mapping[str, str], fold: int) -> dict[str, str]:
    """The options of one of several folds: each has folders of its own.

    Args:
        options: what is typed.
        told: see `told_by`.
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
