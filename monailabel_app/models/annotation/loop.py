"""The cells: each annotates the scans of a seed in one way."""

from __future__ import annotations

import hashlib
import random
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

from monailabel_app.bundles import Bundle, read_bundle
from monailabel_app.history import digest
from monailabel_app.models.annotation.learners import Labelled, Learners
from monailabel_app.models.annotation.plan import NETWORKS, WAYS, Plan, taught
from monailabel_app.models.annotation.sets import AUTOMATIC, make_automatic, write_set
from monailabel_app.models.annotation.user import NO_USE, annotate
from monailabel_app.models.picking import BASELINE, STRATEGIES, Picker
from monailabel_app.models.retraining.averaging import SHARE
from monailabel_app.models.retraining.phantoms import Phantoms
from monailabel_app.studies.volumes import read_grid, read_label
from rep3d.data.cases import Item, file_name, item_name
from rep3d.evaluation.click_cases import ALL, list_cases, named_labels
from rep3d.evaluation.clicks import MOST
from rep3d.files import read_json, write_json
from rep3d.io.volumes import write_label_map
from rep3d.study.annotation import AIM, Cell, Scan, read_cell, read_scan, summarize, write_cell, write_scan
from rep3d.study.claims import claim, config_digests

TRAINED = "training.json"  # written last
# By which cells are told from those of other code.
RULES = {"aim": AIM, "most clicks": MOST, "no use": NO_USE, "share": SHARE}


class OutOfTime(Exception):
    """The time is over."""


def annotate_sets(bundle: Path, dataset_dir: Path, output: Path, plan: Plan, hours: float | None = None) -> str:
    """Run the missing cells, and leave the table and the plot of all cells in a folder.

    Args:
        bundle: folder of the bundle that takes prompts, with its weights.
        dataset_dir: a data set, whose labels are the truth.
        output: receives everything.
        plan: which cells.
        hours: after which no scan and no training begins any more; None: no limit.

    Returns:
        The table, in Markdown; and what is missing, where the time was too short.

    Raises:
        ValueError: no such bundle, more scans wanted than there are, `output` has cells of other settings, another
            process annotates one of the seeds there, or the time was too short for any cell.
        FileNotFoundError: no data set, or no weights.
        KeyboardInterrupt: also by SIGTERM, so that a training ends with this process.
    """
    begins = read_bundle(bundle, prompts=True)
    if not begins.weights.is_file():
        raise FileNotFoundError(f"{begins.weights}: no such file, expected the weights of {bundle}")
    given, labels = list_cases(dataset_dir, ALL), named_labels(dataset_dir, plan.labels)
    claim(output, {"data set": str(dataset_dir), **_digests(begins), **RULES, **plan.settings})
    with _interrupted_by_sigterm(), _own(plan.seeds, output), tempfile.TemporaryDirectory() as folder:
        with FileLock(output / ".preparing.lock"):
            write_set(dataset_dir, given, labels, output / "data")
            items = {file_name(item_name(item)): item for item in list_cases(output / "data", ALL)}
            if plan.scans > len(items):
                raise ValueError(f"scans is {plan.scans}, but {dataset_dir} has {len(items)} scans with the structure")
            make_automatic(output / "data", output, plan.spacing, plan.patch_size)
            phantoms = Phantoms(output / "phantoms")
            learners = Learners(
                output / AUTOMATIC, bundle, phantoms, Path(folder), plan.automatic_steps, plan.interactive_epochs
            )
            learners.draw_phantoms()
        missing = Loop(learners, items, output, plan, hours).run()
    cells = [read_cell(path) for path in sorted((output / "cells").glob("[!.]*.json"))]
    table = summarize([cell for cell in cells if cell is not None], WAYS, plan.rounds, output)
    told = f"\n\n{missing} cell(s) are missing: the time was over. Run this again to go on."
    return f"{table}{told}" if missing else table


def _digests(bundle: Bundle) -> dict[str, str]:
    """Of what a bundle begins with, and of how it is trained and used."""
    return {"weights": digest(bundle.weights)[:16], **config_digests(bundle.root, ("train", "inference"))}


@contextmanager
def _own(seeds: Sequence[int], output: Path) -> Iterator[None]:
    """Keep other processes away from the cells of these seeds."""
    with ExitStack() as locks:
        for seed in set(seeds):
            try:
                locks.enter_context(FileLock(output / f".seed{seed}.lock", timeout=0))
            except Timeout:
                raise ValueError(
                    f"another process annotates seed {seed} in {output}: wait for its end, or give other seeds"
                ) from None
        yield


@contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Loop:
    """What all cells share.

    Args:
        learners: both networks.
        items: {"image": path, "label": path} of all scans, by name.
        output: folder of the cells.
        plan: which cells.
        hours: see `annotate_sets`.
    """

    def __init__(
        self, learners: Learners, items: Mapping[str, Item], output: Path, plan: Plan, hours: float | None
    ) -> None:
        self.learners = learners
        self.items = items
        self.output = output
        self.shipped = output / "networks/shipped"
        self.plan = plan
        self.picker = Picker(learners.proposing, {case: Path(item["image"]) for case, item in items.items()})
        self._ends = None if hours is None else time.monotonic() + 3600 * hours

    def run(self) -> int:
        """The cells that are not there yet, way by way; how many are missing when the time is over."""
        folder = self.output / "cells"
        folder.mkdir(exist_ok=True)
        cells = [(seed, way) for way in self.plan.ways for seed in self.plan.seeds]
        paths = {cell: folder / f"seed{cell[0]}_{cell[1].replace(' ', '_')}.json" for cell in cells}
        with suppress(OutOfTime):
            for (seed, way), path in paths.items():
                if not path.is_file():
                    with tqdm(total=self.plan.scans, desc=f"Scans of seed {seed}, {way}") as progress:
                        write_cell(path, self.cell(seed, way, progress))
        return sum(not path.is_file() for path in paths.values())

    def cell(self, seed: int, way: str, progress: tqdm) -> Cell:
        """All scans of a seed in one way."""
        order = random.Random(seed).sample(sorted(self.items), self.plan.scans)
        networks = [self.shipped]
        scans: dict[str, Scan] = {}
        labelled: dict[str, Labelled] = {}
        for first, end in self.plan.stages:
            if scans and taught(way):
                networks.append(self.trained(seed, networks[-1], labelled, taught(way)))
            left = [case for case in order if case not in scans]
            versions = [one / "automatic.pt" for one in networks[1:]]
            strategy = way if versions and way in STRATEGIES else BASELINE  # what has learned nothing has no scores
            for case in self.picker.pick(strategy, end - first, left, list(scans), versions):
                scans[case], labelled[case] = self.annotated(networks[-1], case, taught(way))
                progress.update()
        return Cell(seed, way, list(scans.values()), [read_json(one / TRAINED)["seconds"] for one in networks[1:]])

    def annotated(self, networks: Path, case: str, names: Sequence[str]) -> tuple[Scan, Labelled]:
        """A scan that was annotated with the networks of a folder, and its label.

        One that failed is finished by hand: its label is the truth.

        Args:
            networks: the folder.
            case: the scan.
            names: of the networks that have learned.
        """
        record, image = networks / f"scans/{case}.json", Path(self.items[case]["image"])
        labelled = Labelled(image, networks / f"scans/{case}.nii.gz")
        known = read_scan(record)
        if known:
            return known, labelled
        self._check_time()
        record.parent.mkdir(parents=True, exist_ok=True)
        self._serve(networks, names)
        grid = read_grid(image)
        truth = torch.from_numpy(read_label(Path(self.items[case]["label"]), grid, [1]) > 0)
        with self.learners.scene(image) as scene:
            scan, mask = annotate(case, truth, self.learners.propose(image), scene)
        label = (truth if scan.failed else mask).numpy().astype(np.uint8)
        write_label_map(label, grid, labelled.label, labels=self.learners.proposing.bundle.labels)
        write_scan(record, scan)
        return scan, labelled

    def trained(self, seed: int, before: Path, labelled: Mapping[str, Labelled], names: Sequence[str]) -> Path:
        """The folder of the networks that went on from those of another folder with these labels."""
        named = hashlib.sha256(" ".join([before.name, *sorted(labelled)]).encode()).hexdigest()[:8]
        alone = "" if names == NETWORKS else f"_{'_'.join(names)}"
        folder = self.output / f"networks/seed{seed}_{len(labelled)}_{named}{alone}"
        if not (folder / TRAINED).is_file():
            self._check_time()
            start = time.monotonic()
            self._serve(before, names)
            self.learners.train(dict(sorted(labelled.items())), seed, folder, names)
            write_json(folder / TRAINED, {"seconds": round(time.monotonic() - start, 1)})
        return folder

    def _serve(self, networks: Path, names: Sequence[str]) -> None:
        self.learners.serve(None if networks == self.shipped else networks, names)

    def _check_time(self) -> None:
        if self._ends is not None and time.monotonic() > self._ends:
            raise OutOfTime
