"""What `--conf NAME VALUE` sets. The class below is the table of it: defaults, checks, help and docs follow from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from textwrap import fill, indent
from typing import TypeVar

from pydicom.datadict import tag_for_keyword

from rep3d.console.tables import markdown_table

PROMOTION = ("not worse", "better", "never")  # than the serving weights, to serve in their place
APP = "APP"  # stands in defaults for the app's folder
COLUMNS = 110  # of the table on the command line

T = TypeVar("T")


@dataclass(frozen=True)
class Setting:
    """One row of the table.

    Args:
        default: as on the command line, where APP stands for the app's folder; None: not set.
        help: what it sets.
        parse: from the text of the command line to the value; raises ValueError, which says what was expected.
        of_pacs: whether it counts only where the studies are in a PACS.
    """

    name: str
    default: str | None
    help: str
    parse: Callable[[str], object]
    of_pacs: bool


def _setting(default: str | None, parse: Callable[[str], T], help: str, *, of_pacs: bool = False) -> T:
    """A field of `Settings`. To the type checker it is a value, as what `dataclasses.field` returns is."""
    metadata = {"default": default, "parse": parse, "help": help, "of_pacs": of_pacs}
    return field(metadata=metadata)  # type: ignore[no-any-return]


def _switch(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError("expected true or false")
    return text.lower() == "true"


def _megabytes(text: str) -> int:
    """In bytes."""
    if not text.isdigit() or int(text) < 1:
        raise ValueError("expected megabytes, a whole number above 0")
    return int(text) * 2**20


def _days(text: str) -> float:
    days = float(text) if text.replace(".", "", 1).isdigit() else 0.0
    if not 0 < days <= 3650:
        raise ValueError("expected a number of days above 0, at most 3650")
    return days


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _folder(text: str) -> Path:
    return Path(text).resolve()


def _promotion(text: str) -> str:
    if text not in PROMOTION:
        raise ValueError(f"expected one of {PROMOTION}")
    return text


def _keywords(text: str) -> dict[str, str]:
    pairs = [word.partition("=") for word in _words(text)]
    wrong = [keyword for keyword, _, value in pairs if not value or tag_for_keyword(keyword) is None]
    if wrong:
        raise ValueError(f"expected KEYWORD=VALUE with DICOM keywords, not {wrong}")
    return {keyword: value for keyword, _, value in pairs}


@dataclass(frozen=True)
class Settings:
    """The settings of a running app; sizes are in bytes."""

    models: str = _setting(
        "all",
        str,
        "bundles to serve, separated by commas, or `all`: every bundle that has weights; the one that takes prompts is "
        "always served as well",
    )
    bundles: Path = _setting("APP/../bundles", _folder, "folder of the bundles")
    promotion: str = _setting(
        "not worse",
        _promotion,
        "which new weights serve: `not worse` or `better` than those that serve, on validation cases, or `never`",
    )
    anatomy: Path | None = _setting(
        None,
        _folder,
        "data set of volumes (`scripts/draw_anatomy.py`) that trainings of the bundle that follows prompts mix in; "
        "where not set, some are drawn into `APP/anatomy` at the first one",
    )
    warm_up: bool = _setting("true", _switch, "run each network once at the start")
    scoring: bool | None = _setting(
        None,
        _switch,
        "compute the scores of active learning in the background; where not set, for a folder only, not for a PACS",
    )
    api_keys: str | None = _setting(None, str, "file of the API keys that may call")
    realm: str = _setting(
        "", str, "address of an OpenID provider's realm, such as `https://keycloak.example/realms/hospital`"
    )
    client_id: str = _setting("monailabel-app", str, "the OpenID provider's name for this app")
    insecure: bool = _setting("false", _switch, "serve other computers without authentication")
    origins: tuple[str, ...] = _setting(
        "", _words, "web pages of other servers that may call, separated by commas, such as `https://viewer.example`"
    )
    max_upload: int = _setting("2048", _megabytes, "megabytes of one request")
    session_days: float = _setting(
        "7", _days, "days that interactive sessions, which hold users' clicks and masks, are kept after their last use"
    )
    max_audit: int = _setting("1024", _megabytes, "megabytes of the audit log, whose oldest lines go then")
    model_upload: bool = _setting("false", _switch, "take weights from clients with the role of an administrator")
    modalities: tuple[str, ...] = _setting(
        "CT,MR",
        _words,
        "of the series that are images to label, separated by commas; a series of one instance is none",
        of_pacs=True,
    )
    search: dict[str, str] = _setting(
        "",
        _keywords,
        "what else these series must have, as in a search of the PACS, such as "
        "`StudyDate=20260101-,BodyPartExamined=ABDOMEN`. Orthanc 1.10 finds nothing for values with blanks or `*`",
        of_pacs=True,
    )
    pacs_folder: Path = _setting(
        "APP/pacs", Path, "where labels, their versions and fetched series lie: back it up", of_pacs=True
    )
    send_labels: bool = _setting(
        "true", _switch, "store submitted labels in the PACS as DICOM Segmentations", of_pacs=True
    )


def list_settings() -> Iterator[Setting]:
    """The rows of the table."""
    return (Setting(entry.name, **entry.metadata) for entry in fields(Settings))


def read_settings(app_dir: Path, conf: Mapping[str, str]) -> Settings:
    """The settings of a command line.

    Raises:
        ValueError: names the setting, its value and what was expected.
    """
    table = list(list_settings())
    unknown = sorted(set(conf) - {setting.name for setting in table})
    if unknown:
        raise ValueError(f"conf has {unknown}, expected some of {', '.join(setting.name for setting in table)}")
    return Settings(**{setting.name: _value(setting, app_dir, conf) for setting in table})  # type: ignore[arg-type]


def _value(setting: Setting, app_dir: Path, conf: Mapping[str, str]) -> object:
    default = setting.default and setting.default.replace(APP, str(app_dir))
    text = conf.get(setting.name, default)
    if text is None:
        return None
    try:
        return setting.parse(text)
    except ValueError as error:
        raise ValueError(f"{setting.name} is {text!r}, {error}") from None


def help_text() -> str:
    """The table for the command line, with the defaults in brackets."""
    width = max(len(setting.name) for setting in list_settings()) + 2
    rows = []
    for setting in list_settings():
        default = f" ({setting.default})" if setting.default else ""
        text = f"{setting.name:{width}}{setting.help}{default}"
        rows.append(fill(text, COLUMNS, subsequent_indent=" " * width, break_on_hyphens=False))
    return indent("\n".join(rows), "    ")


def settings_table(*, of_pacs: bool) -> str:
    """Markdown for the docs: the settings of a PACS, or all others."""
    rows = [
        (f"`{setting.name}`", setting.help, f"`{setting.default}`" if setting.default else "")
        for setting in list_settings()
        if setting.of_pacs == of_pacs
    ]
    return markdown_table(("`--conf`", "what it sets", "default"), rows) + "\n"


if __name__ == "__main__":
    print(settings_table(of_pacs=False), settings_table(of_pacs=True), sep="\n")
