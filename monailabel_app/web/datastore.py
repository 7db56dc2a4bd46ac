"""The studies as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from fastapi import APIRouter

from monailabel_app.web.arguments import Annotator, AnyUser, AppServices
from monailabel_app.web.passing import PassingFile

router = APIRouter()


@router.get("/datastore/")
def datastore(
    user: AnyUser, services: AppServices, output: Literal["stats", "all", "train"] = "stats"
) -> dict[str, object] | list[dict[str, object]]:
    services.synchronize()
    studies = services.studies
    if output == "all":
        return studies.json()
    if output == "train":
        return studies.datalist(full_path=False)
    return {**studies.status(), "set_aside": studies.set_aside()}


@router.get("/datastore/dataset")
def download_dataset(user: Annotator, services: AppServices, limit_cases: int | None = None) -> PassingFile:
    path = services.studies.get_dataset_archive(limit_cases)
    return PassingFile(Path(path), filename="dataset.zip")
