"""The network that makes proposals and the one that follows clicks, in working copies of their bundles.

They serve and they are trained as in the app; which weights serve is decided here.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import torch

from monailabel_app.bundles import Bundle, read_bundle
from monailabel_app.history import digest
from monailabel_app.models.annotation.plan import NETWORKS
from monailabel_app.models.clicks import PromptedNetwork
from monailabel_app.models.inference import BundleInference
from monailabel_app.models.parameters import TrainingParameters
from monailabel_app.models.retraining.labels import describe
from monailabel_app.models.retraining.phantoms import Phantoms
from monailabel_app.models.retraining.record import read_record
from monailabel_app.models.retraining.task import BundleTraining
from monailabel_app.models.simulation import EPOCHS
from monailabel_app.models.turn import Turn
from monailabel_app.models.versions import FOLDER as VERSIONS
from monailabel_app.studies.folder import StudiesFolder
from monailabel_app.studies.submission import Submission, submit_label
from monailabel_app.studies.volumes import read_grid, read_voxels, split_suffix
from monailabel_app.tasks import Task
from rep3d.files import copy_whole, read_json, write_json
from rep3d.interactive.scene import Scene
from rep3d.training.settings import other_settings

USER = "simulated"
NOT_COPIED = shutil.ignore_patterns("models", "eval", "data")


class Labelled(NamedTuple):
    """Files of a scan: its image and its label map."""

    image: Path
    label: Path


class Learners:
    """Both networks.

    Args:
        automatic: folder of the bundle that makes proposals; it needs no weights.
        interactive: folder of the bundle that follows clicks, with the weights that it begins with.
        phantoms: from which the latter learns beside the labels.
        folder: receives the working copies.
        automatic_steps, interactive_epochs: see `Plan`.

    Raises:
        ValueError: the weights were trained with other settings than their bundle has.
    """

    def __init__(
        self,
        automatic: Path,
        interactive: Path,
        phantoms: Phantoms,
        folder: Path,
        automatic_steps: int,
        interactive_epochs: int,
    ) -> None:
        self.folder = folder
        self.phantoms = phantoms
        self.epochs = {"automatic": EPOCHS, "interactive": interactive_epochs}
        for name, root in (("automatic", automatic), ("interactive", interactive)):
            shutil.copytree(root, folder / name, ignore=NOT_COPIED)
            (folder / name / "models/trained").mkdir(parents=True)
        begins = read_bundle(interactive, prompts=True).weights
        if others := other_settings(begins, interactive):
            raise ValueError(f"{begins} was trained with other {', '.join(others)} than its bundle has: train anew")
        own = {
            "automatic": read_bundle(folder / "automatic"),
            "interactive": read_bundle(folder / "interactive", prompts=True),
        }
        copy_whole(begins, own["interactive"].shipped)
        _tell(own["automatic"], steps_per_epoch=automatic_steps // EPOCHS)
        self.bundles: Mapping[str, Bundle] = own
        self.proposing = BundleInference(own["automatic"])
        self.answering = PromptedNetwork(own["interactive"], Turn())

    def serve(self, weights: Path | None, names: Collection[str] = NETWORKS) -> None:
        """Let the weights of a folder serve, as `train` left them; None: those that the bundles came with.

        What serves already stays as it is, and in memory.

        Args:
            weights: the folder.
            names: of the networks that it has weights of; the others serve as they came.
        """
        for name, bundle in self.bundles.items():
            if weights is None or name not in names:
                bundle.own_weights.unlink(missing_ok=True)
            elif not bundle.own_weights.is_file() or digest(bundle.own_weights) != digest(weights / f"{name}.pt"):
                copy_whole(weights / f"{name}.pt", bundle.own_weights)

    def propose(self, image: Path) -> torch.Tensor | None:
        """The automatic segmentation of an image file, (D, H, W) of bool; None as long as nothing has been learned."""
        if not self.proposing.is_valid():
            return None
        return torch.from_numpy(self.proposing.segment(image).voxels > 0)

    @contextmanager
    def scene(self, image: Path) -> Iterator[Scene]:
        """An image file for clicks, while the context lasts."""
        voxels = torch.from_numpy(np.ascontiguousarray(read_voxels(image), dtype=np.float32))
        spacing = nib.affines.voxel_sizes(read_grid(image).affine).tolist()
        with self.answering.answering() as network:
            yield Scene(network, voxels, spacing, size=self.answering.size)

    def draw_phantoms(self) -> None:
        """Draw those that are not there yet."""
        self.phantoms.draw(Task({}), self.bundles["interactive"], self.folder)

    def train(
        self, labelled: Mapping[str, Labelled], seed: int, target: Path, names: Collection[str] = NETWORKS
    ) -> None:
        """Go on from the weights that serve with all labels, and leave the new weights in a folder.

        Args:
            labelled: the scans, by name.
            seed: of the trainings.
            target: the folder.
            names: of the networks that learn.

        Raises:
            RequestError: a training failed; the message has the reason.
            ValueError: a network cannot learn from one of the labels.
        """
        studies = self._submitted(labelled)
        trainings = {name: self._prepared(name, studies, seed) for name in names}
        target.mkdir(parents=True, exist_ok=True)
        for name, training in trainings.items():
            training.run(Task({}))
            copy_whole(training.models / "model.pt", target / f"{name}.pt")

    def _prepared(self, name: str, studies: StudiesFolder, seed: int) -> BundleTraining:
        """A training that can run, on all cores: nobody clicks meanwhile."""
        bundle = self.bundles[name]
        _tell(bundle, seed=seed)
        shutil.rmtree(bundle.root / VERSIONS, ignore_errors=True)
        training = BundleTraining(bundle, "never", [self.bundles["automatic"]], self.phantoms, spared=0)
        training.prepare(studies, TrainingParameters(max_epochs=self.epochs[name], val_split=0), USER)
        left_out = read_record(training.folder).left_out
        if left_out:
            raise ValueError(f"the {name} network cannot learn from all labels: {describe(left_out)}")
        return training

    def _submitted(self, labelled: Mapping[str, Labelled]) -> StudiesFolder:
        """The images as studies, with their labels submitted."""
        root = self.folder / "studies"
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        for name, scan in labelled.items():
            shutil.copy(scan.image, root / f"{name}{split_suffix(scan.image.name)[1]}")
        studies, served = StudiesFolder(root), {"automatic": self.bundles["automatic"]}
        for name, scan in labelled.items():
            submit_label(studies, served, Submission(name, scan.label, {"user": USER}, uploaded=False))
        return studies


def _tell(bundle: Bundle, **entries: object) -> None:
    """Change entries of how a bundle trains."""
    path = bundle.config("train")
    write_json(path, {**read_json(path), **entries})
