"""What `--conf NAME VALUE` sets, with its checks.

models        bundles to serve, separated by commas, or all: every bundle that has weights (all)
bundles       folder of the bundles (bundles, beside the app)
promotion     which new weights serve: "not worse", "better" (than those that serve, on validation cases) or "never"
warm_up       run each network once at the start (true)
scoring       compute the scores of active learning in the background (true; false for a PACS, of which it fetches all)
api_keys      file of the API keys that may call, see docs/deployment.md
realm         address of an OpenID provider's realm, such as https://keycloak.example/realms/hospital
client_id     the provider's name for this app (monailabel-app)
insecure      serve other computers without authentication (false)
origins       web pages of other servers that may call, separated by commas
max_upload    megabytes of one request (2048)
max_audit     megabytes of the audit log, whose oldest lines go then (1024)
model_upload  take weights from clients with the role of an administrator (false)

Where studies is the address of a PACS:
modalities    of the series to label, separated by commas (CT,MR)
search        what else these must have, such as StudyDate=20260101-,BodyPartExamined=ABDOMEN
pacs_folder   of labels and fetched series (pacs, in the app's folder)
send_labels   store submitted labels in the PACS as DICOM Segmentations (true)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydicom.datadict import tag_for_keyword

from monailabel_app.http.authentication import Authentication
from monailabel_app.http.security import Security
from monailabel_app.models.retraining import PROMOTION

NAMES = (
    "models",
    "bundles",
    "promotion",
    "warm_up",
    "scoring",
    "api_keys",
    "realm",
    "client_id",
    "insecure",
    "origins",
    "max_upload",
    "max_audit",
    "model_upload",
    "modalities",
    "search",
    "pacs_folder",
    "send_labels",
)


@dataclass(frozen=True)
class Settings:
    """The settings of a running app."""

    models: str
    bundles: Path
    promotion: str
    warm_up: bool
    scoring: bool
    sessions: Path
    security: Security
    model_upload: bool
    modalities: tuple[str, ...]
    search: dict[str, str]
    pacs_folder: Path
    send_labels: bool


def read_settings(app_dir: Path, conf: Mapping[str, str]) -> Settings:
    """The settings of a command line.

    Raises:
        ValueError: names the setting, its value and what was expected.
    """
    unknown = [name for name in conf if name not in NAMES]
    if unknown:
        raise ValueError(f"conf has {unknown}, expected some of {', '.join(NAMES)}")
    promotion = conf.get("promotion", PROMOTION[0])
    if promotion not in PROMOTION:
        raise ValueError(f"promotion is {promotion!r}, expected one of {PROMOTION}")
    authentication = Authentication(
        conf.get("api_keys"), conf.get("realm", ""), conf.get("client_id", "monailabel-app")
    )
    security = Security(
        authentication,
        insecure=_switch(conf, "insecure", False),
        origins=_words(conf, "origins", ""),
        max_upload=_megabytes(conf, "max_upload", "2048"),
        audit_file=app_dir / "logs/audit.jsonl",
        audit_bytes=_megabytes(conf, "max_audit", "1024"),
    )
    return Settings(
        conf.get("models", "all"),
        Path(conf.get("bundles", app_dir.parent / "bundles")).resolve(),
        promotion,
        _switch(conf, "warm_up", True),
        _switch(conf, "scoring", True),
        app_dir / "sessions",
        security,
        _switch(conf, "model_upload", False),
        _words(conf, "modalities", "CT,MR"),
        _search(conf),
        Path(conf.get("pacs_folder", app_dir / "pacs")),
        _switch(conf, "send_labels", True),
    )


def _words(conf: Mapping[str, str], name: str, default: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in conf.get(name, default).split(",") if word.strip())


def _search(conf: Mapping[str, str]) -> dict[str, str]:
    pairs = [word.partition("=") for word in _words(conf, "search", "")]
    wrong = [keyword for keyword, _, value in pairs if not value or tag_for_keyword(keyword) is None]
    if wrong:
        raise ValueError(f"search is {conf['search']!r}, expected KEYWORD=VALUE with DICOM keywords, not {wrong}")
    return {keyword: value for keyword, _, value in pairs}


def _switch(conf: Mapping[str, str], name: str, default: bool) -> bool:
    value = str(conf.get(name, default)).lower()
    if value not in ("true", "false"):
        raise ValueError(f"{name} is {conf[name]!r}, expected true or false")
    return value == "true"


def _megabytes(conf: Mapping[str, str], name: str, default: str) -> int:
    value = conf.get(name, default)
    if not value.isdigit() or int(value) < 1:
        raise ValueError(f"{name} is {value!r}, expected megabytes, a whole number above 0")
    return int(value) * 2**20
