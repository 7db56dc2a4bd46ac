"""The app as MONAI Label finds it, and the list of what it is built from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import monailabel.app
from filelock import FileLock
from monailabel.config import settings as environment
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy

from monailabel_app.bundles import Bundle, choose_bundles, find_prompted
from monailabel_app.dicomweb.client import connect
from monailabel_app.dicomweb.images import PacsImages
from monailabel_app.dicomweb.synchronization import Synchronization
from monailabel_app.interaction.conversation import Conversation
from monailabel_app.interaction.leases import Leases
from monailabel_app.interaction.registry import InteractiveSessions
from monailabel_app.models.active_learning import Uncertainty, make_strategies
from monailabel_app.models.background import BackgroundWork
from monailabel_app.models.clicks import PromptedNetwork
from monailabel_app.models.inference import BundleInference, serve_bundles
from monailabel_app.models.prompted import PromptedModel, serve_prompts, tell_prompted
from monailabel_app.models.retraining import BundleTraining
from monailabel_app.models.retraining.phantoms import Phantoms
from monailabel_app.models.turn import Turn
from monailabel_app.models.versions import check_versions, finish_serving, keep_shipped
from monailabel_app.models.warm_up import prepare_models, warm_up_prompted
from monailabel_app.services import Services
from monailabel_app.settings import read_settings
from monailabel_app.studies.folder import StudiesFolder, check_studies, check_writable
from monailabel_app.studies.knowledge import KNOWLEDGE
from monailabel_app.studies.sessions import Sessions
from monailabel_app.temporary import own_temporary_files
from monailabel_app.web.authentication import Authentication
from monailabel_app.web.server import make_server
from rep3d.files import remove_parts
from rep3d.locks import lock_folders


class Rep3DApp(MONAILabelApp):
    """Serves bundles.

    Args:
        app_dir: this folder; logs go below it.
        studies: folder of the images, or address of a DICOMweb service.
        conf: see `monailabel_app.settings`.

    Raises:
        ValueError: a setting that does not work, such as a model that is not there; another server works on the
            studies or on a bundle; or a newer one wrote them; or the studies cannot be written to.
    """

    def __init__(self, app_dir: str, studies: str, conf: Mapping[str, str]) -> None:
        folder = Path(app_dir)
        settings = read_settings(folder, conf)
        authentication = Authentication.of(settings)
        bundles = choose_bundles(settings.bundles, settings.models)
        in_pacs = studies.startswith(("http://", "https://"))
        studies_folder = settings.pacs_folder if in_pacs else Path(studies)
        prompted = find_prompted(settings.bundles)
        trained = [*bundles.values(), *([prompted] if prompted else [])]
        self._locks = own_folders(trained, studies_folder)
        for bundle in trained:
            finish_serving(bundle)
            keep_shipped(bundle)
        own_temporary_files()
        (folder / "logs").mkdir(exist_ok=True)

        pacs = connect(studies, settings.modalities, settings.search) if in_pacs else None
        store = StudiesFolder(studies_folder, PacsImages(pacs, studies_folder) if pacs else None)
        sessions = Sessions(folder / "sessions")
        turn = Turn()
        models = serve_bundles(bundles, turn)
        network = PromptedNetwork(prompted, turn)
        interaction = InteractiveSessions(
            studies_folder / KNOWLEDGE / "interaction", network, store, sessions, settings.session_days * 86400
        )
        shown = partial(interaction.shown, None)  # a segmentation of the PACS does not tell which user's it is
        synchronization = (
            Synchronization(pacs, store, bundles, prompted, shown=shown, send=settings.send_labels) if pacs else None
        )
        strategies = make_strategies(models) if environment.MONAI_LABEL_TASKS_STRATEGY else {}
        served, phantoms = list(bundles.values()), Phantoms(folder / "anatomy", settings.anatomy)
        trainers = {bundle.name: BundleTraining(bundle, settings.promotion, served, phantoms) for bundle in trained}
        if not environment.MONAI_LABEL_TASKS_TRAIN:
            trainers = {}
        scoring = not in_pacs if settings.scoring is None else settings.scoring
        background = BackgroundWork(models, trainers, store, scoring=scoring)

        self.services = Services(
            app_dir=folder,
            settings=settings,
            bundles=bundles,
            studies=store,
            pacs=pacs,
            synchronization=synchronization,
            sessions=sessions,
            interaction=interaction,
            leases=Leases(Conversation.end, spared=1 if authentication.enabled else 0),
            models=models,
            prompted=serve_prompts(network, models),
            strategies=strategies,
            trainers=trainers,
            background=background,
            describe_app=self.info,
            describe_model=self.model_info,
        )
        super().__init__(app_dir, studies, dict(conf), "Rep3D", "Large-kernel segmentation of 3D scans")
        # Starlette sends every request through this, so that it holds for a server that is starting.
        monailabel.app.app.middleware_stack = make_server(self.services, authentication)

    def on_init_complete(self) -> None:
        prepare_models(self.services.models.values(), warm_up=self.services.settings.warm_up)
        tell_prompted(self.services.interaction.network, self.services.prompted)
        if self.services.settings.warm_up:
            warm_up_prompted(self.services.interaction.network)
        self.services.background.resume_trainings()
        if self.services.synchronization is not None:
            self.services.synchronization.start()
        super().on_init_complete()

    # --- what MONAI Label asks for

    def init_datastore(self) -> StudiesFolder:
        return self.services.studies

    def init_infers(self) -> Mapping[str, BundleInference | PromptedModel]:
        return {**self.services.models, **self.services.prompted}

    def init_trainers(self) -> Mapping[str, BundleTraining]:
        return self.services.trainers

    def init_strategies(self) -> Mapping[str, Strategy]:
        return self.services.strategies

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        return {"uncertainty": Uncertainty()}

    def _load_sessions(self, load: bool = False) -> Sessions:
        return self.services.sessions

    def async_scoring(self, method: str | None = None, params: Mapping[str, Any] | None = None) -> None:
        """Compute what scores are missing in the background."""
        self.services.background.keep_scores()


def own_folders(bundles: Iterable[Bundle], studies: Path) -> list[FileLock]:
    """Keep other servers away from weights and studies, and remove what a killed one left half written.

    Raises:
        ValueError: another server works on one of them, or a newer one wrote it; that one is left as it was. Or the
            studies cannot be written to.
    """
    bundles = list(bundles)
    for bundle in bundles:
        check_versions(bundle)
    check_studies(studies)
    check_writable(studies)
    weights = [bundle.shipped.parent for bundle in bundles]
    locks = lock_folders([*weights, studies / KNOWLEDGE], "server")
    for folder in weights:
        remove_parts(folder)
    return locks
