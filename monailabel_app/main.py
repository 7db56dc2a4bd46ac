"""The app as MONAI Label finds it: what it serves, from which studies, behind which doors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import monailabel.app
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy

from monailabel_app.bundles import choose_bundles
from monailabel_app.http.routes import add_routes
from monailabel_app.http.security import guard
from monailabel_app.http.viewer import add_viewer
from monailabel_app.models.active_learning import Uncertainty, make_strategies, pick_sample
from monailabel_app.models.background import BackgroundWork
from monailabel_app.models.inference import BundleInference, find_task, serve_bundles
from monailabel_app.models.retraining import BundleTraining
from monailabel_app.models.versions import check_versions
from monailabel_app.models.warm_up import prepare_models
from monailabel_app.pacs.client import connect
from monailabel_app.pacs.studies import PacsStudies
from monailabel_app.pacs.synchronization import Exchange
from monailabel_app.settings import Settings, read_settings
from monailabel_app.studies.folder import KNOWLEDGE, StudiesFolder, check_studies
from monailabel_app.studies.sessions import Sessions
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
            studies or on a bundle; or a newer one wrote them.
    """

    def __init__(self, app_dir: str, studies: str, conf: Mapping[str, str]) -> None:
        self.settings: Settings = read_settings(Path(app_dir), conf)
        (Path(app_dir) / "logs").mkdir(exist_ok=True)
        self.bundles = choose_bundles(self.settings.bundles, self.settings.models)
        for bundle in self.bundles.values():
            check_versions(bundle)  # before there is a lock beside them
        self._locks = lock_folders((bundle.weights.parent for bundle in self.bundles.values()), "server")
        for bundle in self.bundles.values():
            remove_parts(bundle.weights.parent)
        super().__init__(app_dir, studies, dict(conf), "Rep3D", "Large-kernel segmentation of 3D scans")
        store = self.datastore()
        in_pacs = isinstance(store, PacsStudies)
        scoring = self.settings.scoring and ("scoring" in conf or not in_pacs)
        self.background = BackgroundWork(self._infers, self._trainers, store, scoring=scoring)
        self.exchange = Exchange(store, self.bundles, send=self.settings.send_labels) if in_pacs else None
        guard(monailabel.app.app, self.settings.security, [add_routes, add_viewer])

    def init_datastore(self) -> StudiesFolder:
        in_pacs = self.studies.startswith(("http://", "https://"))
        folder = self.settings.pacs_folder if in_pacs else Path(self.studies)
        check_studies(folder)  # before there is a lock in it
        self._locks += lock_folders([folder / KNOWLEDGE], "server")
        if not in_pacs:
            return StudiesFolder(folder)
        return PacsStudies(connect(self.studies, self.settings.modalities, self.settings.search), folder)

    def init_infers(self) -> dict[str, BundleInference]:
        return serve_bundles(self.bundles)

    def init_trainers(self) -> dict[str, BundleTraining]:
        served = list(self.bundles.values())
        return {bundle.name: BundleTraining(bundle, self.settings.promotion, served) for bundle in served}

    def init_strategies(self) -> dict[str, Strategy]:
        return make_strategies(self._infers)

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        return {"uncertainty": Uncertainty()}

    def _load_sessions(self, load: bool = False) -> Sessions:
        return Sessions(self.settings.sessions)

    def on_init_complete(self) -> None:
        prepare_models(self._infers.values(), warm_up=self.settings.warm_up)
        self.background.resume_trainings()
        if self.exchange is not None:
            self.exchange.start()
        super().on_init_complete()

    def infer_task(self, model: str) -> BundleInference:
        """See `inference.find_task`."""
        return find_task(self._infers, model)

    def next_sample(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """See `active_learning.pick_sample`."""
        self.refresh()
        self.background.keep_scores()
        return pick_sample(self._strategies, request, self.datastore())

    def refresh(self, *, wait: bool = True) -> None:
        """Make labels and the PACS, if there is one, the same; see `exchange.Exchange`."""
        if self.exchange is not None:
            self.exchange.run() if wait else self.exchange.soon()

    def async_scoring(self, method: str | None = None, params: Mapping[str, Any] | None = None) -> None:
        """Compute what scores are missing in the background."""
        self.background.keep_scores()
