"""One evaluation of clicks: the methods that were asked for, on the same cases, with the same user."""

from __future__ import annotations

import importlib
import random
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from rep3d.console.progress import Progress
from rep3d.console.tables import markdown_table
from rep3d.data.cases import POSTFIX, Item, file_name, item_name
from rep3d.data.names import check_names
from rep3d.evaluation import cvpr25, deepedit
from rep3d.evaluation.case_records import CaseRecords
from rep3d.evaluation.click_baselines import SETTINGS, graph_cut, graph_cut_near, region_growing
from rep3d.evaluation.click_cases import Case, Labels, load_case
from rep3d.evaluation.click_methods import CORRECTING, FromLabelMaps, load_ours
from rep3d.evaluation.click_pictures import State, click_strip
from rep3d.evaluation.click_summary import write_summary
from rep3d.evaluation.clicks import Method, MixedUser, Segment, User, deepest_user, evaluate, follow
from rep3d.evaluation.montage import PLANES
from rep3d.evaluation.scribble_planes import MOST, SPACINGS, TooSmall, dice_by_plane
from rep3d.files import read_json, short_digest, write_csv, write_json, write_text
from rep3d.interactive.prompts import Prompt
from rep3d.shipped import find_weights, overlays_of
from rep3d.study.run import BundleRun, run_process
from rep3d.training.checkpoints import trained_on

BASELINES: Mapping[str, tuple[str, Segment]] = {
    "graph_cut": ("numpymaxflow", graph_cut),
    "graph_cut_near": ("numpymaxflow", graph_cut_near),
    "region_growing": ("SimpleITK", region_growing),
}
OURS, FROM_AUTOMATIC, AUTOMATIC, DEEPEDIT = "ours", "ours_from_automatic", "automatic", "deepedit"
METHODS = (OURS, FROM_AUTOMATIC, AUTOMATIC, DEEPEDIT, *BASELINES)
USERS = ("deepest", "mixed")
STRIP_CLICKS = 5

T = TypeVar("T")


@dataclass(frozen=True)
class Weights:
    """The files of the networks.

    Args:
        config: defines our network, see `rep3d.evaluation.click_methods.load_ours`.
        weights: of our network.
        automatic: folder of the bundle that makes the automatic segmentations.
        automatic_weights: of that bundle; None: its own.
        deepedit: weights of `rep3d.study.deepedit`.
    """

    config: Path
    weights: Path
    automatic: Path | None = None
    automatic_weights: Path | None = None
    deepedit: Path | None = None

    def of(self, method: str) -> list[Path]:
        """The files of weights that a method takes."""
        automatic = self.automatic_weights or (find_weights(self.automatic) if self.automatic else None)
        taken: dict[str, list[Path | None]] = {
            OURS: [self.weights],
            FROM_AUTOMATIC: [self.weights, automatic],
            AUTOMATIC: [automatic],
            DEEPEDIT: [self.deepedit],
        }
        return [path for path in taken.get(method, []) if path is not None]


def evaluate_clicks(
    items: Sequence[Item],
    labels: Labels,
    methods: Sequence[str],
    files: Weights,
    folder: Path,
    *,
    source: Path,
    user: str = "deepest",
    seed: int = 0,
    strips: int = 0,
    plane: str = "axial",
) -> str:
    """Evaluate methods, leave tables, plot and strips in a folder, and return the tables in Markdown.

    Args:
        items: {"image": path, "label": path} of the cases.
        labels: what is segmented, one after the other.
        methods: some of `METHODS`.
        files: of the networks that they need.
        folder: receives everything; what an earlier call finished there is not done again.
        source: the cases' data set, by which results are told from those of another one.
        user: "deepest" clicks the deepest voxel of the largest error; "mixed" draws as in the training.
        seed: of the mixed user.
        strips: of so many cases.
        plane: of the strips.

    Raises:
        ValueError: an unknown method, a file that a method lacks, or results of other settings in the folder.
        ModuleNotFoundError: a baseline's library is missing.
    """
    settings = {"data set": str(source), "labels": labels, "user": user, **({"seed": seed} if user == "mixed" else {})}
    made = {name: _method(name, items, files, folder, source) for name in methods}
    results = {
        name: evaluate(
            method,
            items,
            labels,
            folder / f"records/{name}.json",
            settings,
            lambda case: _user(user, seed, case),
            doing=name,
        )
        for name, method in made.items()
    }
    for item in items[:strips]:
        for name, method in made.items():
            if method.segment is not None:
                _write_strips(name, method, item, labels, _user(user, seed, item_name(item)), folder, plane)
    clicked = {name: method.segment is not None for name, method in made.items()}
    told = [f"{len(items)} case(s), user: {user}", *_seen_in_training(items, methods, files, folder)]
    return write_summary(results, clicked, folder, "\n\n".join(told))


def _seen_in_training(items: Sequence[Item], methods: Sequence[str], files: Weights, folder: Path) -> list[str]:
    """For each file of weights that was trained on some of the cases a line that says so."""
    paths = dict.fromkeys(path for name in methods for path in files.of(name))
    seen = {path: trained_on(path, items, folder / "digests.json") for path in paths}
    return [
        f"**{path} was trained on {len(names)} of these cases**: {', '.join(names)}"
        for path, names in seen.items()
        if names
    ]


def evaluate_planes(items: Sequence[Item], labels: Labels, methods: Sequence[str], files: Weights, folder: Path) -> str:
    """How much it matters in which plane a scribble is drawn; return the table in Markdown, which planes.md keeps.

    Structures that are too small for a scribble are left out, and named.

    Args:
        items, labels, methods, files, folder: as `evaluate_clicks`; methods that start from nothing.

    Raises:
        ValueError: as `evaluate_clicks`, or all structures are too small.
    """
    rows: list[list[str]] = []
    apart: dict[tuple[str, str], list[float]] = {}
    left_out: list[str] = []
    for name in methods:
        segment, _, _ = _segment_and_settings(name, files)
        for item in items:
            case = load_case(item)
            for label, ids in labels.items():
                truth = torch.isin(case.label, torch.tensor(ids))
                for spacing in SPACINGS if truth.any() else ():
                    told = " x ".join(f"{s:g}" for s in spacing)
                    try:
                        found = dice_by_plane(segment, case.image, truth, case.spacing, spacing)
                    except TooSmall as error:
                        left_out.append(f"{case.name}, {label}, {told} mm: {error}")
                        continue
                    differ = max(found.values()) - min(found.values())
                    rows.append([name, case.name, label, told, *(f"{v:.3f}" for v in (*found.values(), differ))])
                    apart.setdefault((name, told), []).append(differ)
    if not rows:
        raise ValueError("; ".join(left_out) or "no case holds any of the labels")
    table = markdown_table(["method", "case", "label", "spacing, mm", *PLANES, "difference"], rows)
    title = "Dice after the same scribble, by the plane in which it is drawn"
    missing = [f"{len(left_out)} left out: " + "; ".join(left_out)] if left_out else []
    text = "\n\n".join((title, table, _differences(apart), *missing))
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "planes.md", text)
    return text


def _differences(apart: Mapping[tuple[str, str], Sequence[float]]) -> str:
    """The table of how far Dice differs between planes, by method and spacing."""
    rows = [
        [*names, f"{np.mean(differ):.3f}", f"{max(differ):.3f}", f"{sum(d <= MOST for d in differ)} of {len(differ)}"]
        for names, differ in apart.items()
    ]
    return markdown_table(["method", "spacing, mm", "mean difference", "largest", f"at most {MOST}"], rows)


def choose(items: Sequence[T], count: int, seed: int) -> list[T]:
    """So many of the cases, drawn at random, in their order; all where count is 0."""
    if not count or count >= len(items):
        return list(items)
    chosen = set(random.Random(seed).sample(range(len(items)), count))
    return [item for index, item in enumerate(items) if index in chosen]


def _user(user: str, seed: int, case: str) -> User:
    return deepest_user if user == "deepest" else MixedUser(seed + zlib.crc32(case.encode()))


def _method(name: str, items: Sequence[Item], files: Weights, folder: Path, source: Path) -> Method:
    if name in (AUTOMATIC, FROM_AUTOMATIC):
        paths, settings = _automatic(items, files, folder / "automatic", source)
        start = FromLabelMaps(paths)
        if name == AUTOMATIC:
            return Method(None, start, settings)
        segment, own = _ours(files)
        return Method(segment, start, {**settings, **own})
    if name == DEEPEDIT:
        if files.deepedit is None:
            raise ValueError("the method deepedit needs --deepedit FILE, weights of scripts/train_deepedit.py")
        trained = deepedit.DeepEditSegment(deepedit.load(files.deepedit, _device()))
        return Method(trained, trained.start, {"weights": short_digest(files.deepedit)})
    return Method(*_segment_and_settings(name, files))


def _segment_and_settings(name: str, files: Weights) -> tuple[Segment, None, Mapping[str, Any]]:
    """A method that starts from nothing."""
    if name in BASELINES:
        module, segment = BASELINES[name]
        importlib.import_module(module)  # what is missing is missed before hours have passed
        return segment, None, SETTINGS[name]
    if name == OURS:
        segment, own = _ours(files)
        return segment, None, own
    raise ValueError(f"the method {name!r} is none that starts from nothing, expected {', '.join((OURS, *BASELINES))}")


def _ours(files: Weights) -> tuple[Segment, dict[str, Any]]:
    segment = load_ours(files.config, files.weights, _device())
    made_with = {
        "weights": short_digest(files.weights),
        "config": short_digest(files.config, *overlays_of(files.weights)),
    }
    return segment, {**made_with, **CORRECTING}


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _automatic(
    items: Sequence[Item], files: Weights, folder: Path, source: Path
) -> tuple[dict[str, Path], dict[str, str]]:
    """The label maps of a bundle by case, and what they were made with; makes those that are not there yet."""
    if files.automatic is None:
        raise ValueError("automatic segmentations need --automatic BUNDLE, the folder of a bundle")
    (weights,) = files.of(AUTOMATIC)
    config, told = files.automatic / "configs/inference.json", overlays_of(weights)
    for path in (weights, config):
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file, expected one of the bundle {files.automatic}")
    settings = {name: value for path in (config, *told) for name, value in read_json(path).items()}
    check_names(source, settings.get("label_names", ()))
    made_with = short_digest(weights, config, *told)
    target, paths, missing = folder / made_with, {}, []
    for item in items:
        case = f"{file_name(item_name(item))}_{short_digest(Path(item['image']))}"
        paths[item_name(item)] = path = target / f"{case}{POSTFIX}.nii.gz"
        if not path.is_file():
            missing.append({"image": item["image"], "case": case})
    if missing:
        overrides = {"checkpoint": str(weights), "output_dir": str(target), "dataset#data": missing}
        run_process(BundleRun(files.automatic, "evaluating", ["inference.json", *told], overrides))
    return paths, {"automatic": made_with}


def _write_strips(name: str, method: Method, item: Item, labels: Labels, user: User, folder: Path, plane: str) -> None:
    """Follow the first clicks of a case once more, and draw them."""
    case = load_case(item)
    starts = {} if method.start is None else method.start(case, labels)
    for label, ids in labels.items():
        truth = torch.isin(case.label, torch.tensor(ids))
        if truth.any():
            states = _states(method, case, truth, starts.get(label), user)
            path = folder / "strips" / f"{name}_{file_name(case.name)}_{file_name(label)}.png"
            title = f"{name}: {case.name}, {label}"
            click_strip(case.image, case.spacing, truth, states, path, plane=plane, title=title)


def _states(method: Method, case: Case, truth: torch.Tensor, start: torch.Tensor | None, user: User) -> list[State]:
    states: list[State] = []

    def remember(prompts: Sequence[Prompt], mask: torch.Tensor) -> None:
        states.append((tuple(prompts), mask))

    follow(method.segment, case.image, case.spacing, truth, user, start=start, most=STRIP_CLICKS, watch=remember)
    return states


def evaluate_challenge(
    paths: Sequence[Path], methods: Sequence[str], files: Weights, folder: Path, *, source: Path
) -> str:
    """Evaluate methods by the protocol of `rep3d.evaluation.cvpr25`, and return the table in Markdown.

    The folder then has cvpr25.csv, cvpr25.json and cvpr25.md.

    Args:
        paths: of the cases.
        methods: some of `METHODS` that start from nothing.
        files: of the networks that they need.
        folder: receives everything; what an earlier call finished there is not done again.
        source: the folder of the cases, by which results are told from those of others.

    Raises:
        ValueError: as `evaluate_clicks`, or a case cannot be read.
    """
    results: dict[str, dict[str, cvpr25.Scores]] = {}
    for name in methods:
        segment, _, settings = _segment_and_settings(name, files)
        records = CaseRecords(folder / f"records/cvpr25_{name}.json", {"data set": str(source), **settings})
        results[name] = {}
        with Progress(len(paths), name, "case") as progress:
            for path in paths:
                told = records.result(path.stem, [path])
                if told is None:
                    told = asdict(cvpr25.evaluate_case(cvpr25.read_case(path), segment))
                    records.add(path.stem, [path], told)
                results[name][path.stem] = cvpr25.Scores(**told)
                progress.update()
    return _write_challenge(results, folder)


def _write_challenge(results: Mapping[str, Mapping[str, cvpr25.Scores]], folder: Path) -> str:
    rows = [
        {"method": method, "case": case, **scores.summary, "seconds": scores.seconds, "in_time": scores.in_time}
        for method, cases in results.items()
        for case, scores in cases.items()
    ]
    write_csv(folder / "cvpr25.csv", rows)
    means = {method: _challenge_means(list(cases.values())) for method, cases in results.items()}
    write_json(folder / "cvpr25.json", means)
    header = ["method", "DSC_AUC", "NSD_AUC", "final DSC", "final NSD", "too late", "DSC_AUC with 0 where too late"]
    table = markdown_table(header, [[method, *_shown(one)] for method, one in means.items()])
    count = len(next(iter(results.values())))
    text = f"CVPR 2025 protocol, {count} case(s)\n\n{table}\n\nToo late: more than {cvpr25.SECONDS:g} s for each label."
    write_text(folder / "cvpr25.md", text)
    return text


def _challenge_means(scores: Sequence[cvpr25.Scores]) -> dict[str, float]:
    late = [not one.in_time for one in scores]
    means = {column: float(np.mean([one.summary[column] for one in scores])) for column in cvpr25.COLUMNS}
    in_time = {
        f"{column}_in_time": float(np.mean([one.summary[column] * one.in_time for one in scores]))
        for column in cvpr25.COLUMNS
    }
    return {**means, **in_time, "too_late": sum(late)}


def _shown(means: Mapping[str, float]) -> list[str]:
    shown = [f"{means[column]:.3f}" for column in cvpr25.COLUMNS]
    return [*shown, str(means["too_late"]), f"{means['dsc_auc_in_time']:.3f}"]
