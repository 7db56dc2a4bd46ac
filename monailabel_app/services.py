"""What the server's handlers work with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from monailabel.interfaces.tasks.strategy import Strategy

from monailabel_app.bundles import Bundle
from monailabel_app.dicomweb.client import Pacs
from monailabel_app.dicomweb.synchronization import Synchronization
from monailabel_app.errors import RequestError
from monailabel_app.interaction.conversation import Conversation
from monailabel_app.interaction.leases import Leases
from monailabel_app.interaction.registry import InteractiveSessions
from monailabel_app.models.background import BackgroundWork
from monailabel_app.models.inference import BundleInference
from monailabel_app.models.prompted import PromptedModel
from monailabel_app.models.retraining import BundleTraining
from monailabel_app.settings import Settings
from monailabel_app.studies.folder import StudiesFolder
from monailabel_app.studies.sessions import Sessions


@dataclass(frozen=True)
class Services:
    """Built once by `main`; every handler gets it as an argument.

    Args:
        app_dir: the app's folder; logs are below it.
        bundles: those that segment by themselves, by name.
        studies: images and labels.
        pacs: where the images are, if not in a folder.
        synchronization: of labels with the PACS, if there is one.
        sessions: images that are only lent.
        interaction: users' clicks and masks, while they work on them.
        leases: of nnInteractive's clients, with what each says.
        models: inference by model name.
        prompted: those that segment what prompts show, by name.
        strategies: of active learning, by the names that clients see.
        trainers: training by model name.
        background: trainings, batches and scorings.
        describe_app: what MONAI Label tells clients of the app.
        describe_model: what it tells of a model's weights; None where there are none.
    """

    app_dir: Path
    settings: Settings
    bundles: Mapping[str, Bundle]
    studies: StudiesFolder
    pacs: Pacs | None
    synchronization: Synchronization | None
    sessions: Sessions
    interaction: InteractiveSessions
    leases: Leases[Conversation]
    models: Mapping[str, BundleInference]
    prompted: Mapping[str, PromptedModel]
    strategies: Mapping[str, Strategy]
    trainers: Mapping[str, BundleTraining]
    background: BackgroundWork
    describe_app: Callable[[], dict[str, object]]
    describe_model: Callable[[str], dict[str, object] | None]

    def model(self, name: str) -> BundleInference:
        """The model of that name, which segments by itself.

        Raises:
            RequestError: 404, it is not served; 400, it takes prompts.
        """
        if name in self.prompted:
            raise RequestError(400, f"model {name!r} takes prompts: it segments nothing by itself")
        if name not in self.models:
            raise RequestError(404, f"there is no model {name[:100]!r}, expected one of {', '.join(self.models)}")
        return self.models[name]

    def weighted(self, name: str) -> Bundle:
        """The bundle of that name, which segments by itself or follows prompts: it has weights and versions.

        Raises:
            RequestError: as `model`.
        """
        prompted = self.interaction.network.bundle
        return prompted if prompted is not None and name == prompted.name else self.model(name).bundle

    def synchronize(self) -> None:
        """Make labels and the PACS, if there is one, the same.

        Raises:
            RequestError: 502, the PACS does not answer.
        """
        if self.synchronization is not None:
            self.synchronization.run()

    def synchronize_soon(self) -> None:
        """The same in the background."""
        if self.synchronization is not None:
            self.synchronization.soon()
