"""The app as MONAI Label finds it: what it serves, from which studies, behind which doors."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import monailabel.app
from monailabel.config import settings
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy

from monailabel_app.active_learning import Uncertainty, make_strategies, pick_sample
from monailabel_app.background import BackgroundWork
from monailabel_app.bundles import choose_bundles
from monailabel_app.datastore import KNOWLEDGE, StudiesFolder
from monailabel_app.doors import guard
from monailabel_app.exchange import Exchange
from monailabel_app.files import remove_parts
from monailabel_app.inference import BundleInference, prepare_tasks
from monailabel_app.locks import lock_folders
from monailabel_app.pacs import Pacs
from monailabel_app.pacs_studies import PacsStudies
from monailabel_app.routes import add_routes
from monailabel_app.sessions import Sessions
from monailabel_app.settings import Settings, read_settings
from monailabel_app.training import BundleTraining
from monailabel_app.validation import RequestError
from monailabel_app.viewer import add_viewer

# It warns at every image that an optional decoder of NVIDIA is not there.
logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)


class Rep3DApp(MONAILabelApp):
    """Serves bundles.

    Args:
        app_dir: this folder; logs go below it.
        studies: folder of the images, or address of a DICOMweb service.
        conf: see `monailabel_app.settings`.

    Raises:
        ValueError: a setting that does not work, such as a model that is not there; or another server works on the
            studies or on a bundle.
    """

    def __init__(self, app_dir: str, studies: str, conf: Mapping[str, str]) -> None:
        self.settings: Settings = read_settings(Path(app_dir), conf)
        (Path(app_dir) / "logs").mkdir(exist_ok=True)
        self.bundles = choose_bundles(self.settings.bundles, self.settings.models)
        self._locks = lock_folders(bundle.weights.parent for bundle in self.bundles.values())
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
        if in_pacs and "@" in self.studies:
            raise ValueError(
                "studies holds a name or password; give them as MONAI_LABEL_DATASTORE_USERNAME and _PASSWORD"
            )
        folder = self.settings.pacs_folder if in_pacs else Path(self.studies)
        self._locks += lock_folders([folder / KNOWLEDGE])
        if not in_pacs:
            return StudiesFolder(folder)
        user, password = settings.MONAI_LABEL_DATASTORE_USERNAME, settings.MONAI_LABEL_DATASTORE_PASSWORD
        pacs = Pacs(self.studies, self.settings.modalities, self.settings.search, user, password)
        return PacsStudies(pacs, folder)

    def init_infers(self) -> dict[str, BundleInference]:
        return {name: BundleInference(bundle) for name, bundle in self.bundles.items()}

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
        prepare_tasks(self._infers.values(), warm_up=self.settings.warm_up)
        self.background.resume_trainings()
        if self.exchange is not None:
            self.exchange.start()
        super().on_init_complete()

    def infer_task(self, model: str) -> BundleInference:
        """The task of a model.

        Raises:
            RequestError: 404, the model is not served.
        """
        if model not in self._infers:
            raise RequestError(404, f"there is no model {model[:100]!r}, expected one of {', '.join(self._infers)}")
        return self._infers[model]

    def next_sample(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The image that `request["strategy"]` picks, and what is known of it; empty where all are labelled.

        Raises:
            RequestError: 404, there is no such strategy.
        """
        self.refresh()
        self.background.keep_scores()
        return pick_sample(self._strategies, request, self.datastore())

    def refresh(self, *, wait: bool = True) -> None:
        """Make labels and the PACS, if there is one, the same.

        Raises:
            RequestError: 502, the PACS does not answer (only where it is waited for).
        """
        if self.exchange is not None:
            self.exchange.run() if wait else self.exchange.soon()

    def async_scoring(self, method: str | None = None, params: Mapping[str, Any] | None = None) -> None:
        """Compute what scores are missing in the background."""
        self.background.keep_scores()
