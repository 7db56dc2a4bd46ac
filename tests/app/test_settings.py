"""The table of settings: what it gives, what it refuses, and that the docs have it."""

from pathlib import Path

import pytest
from bundle_helpers import ROOT

from monailabel_app.settings import Settings, help_text, list_settings, read_settings, settings_table


def test_defaults(tmp_path):
    assert read_settings(tmp_path / "app", {}) == Settings(
        models="all",
        bundles=tmp_path / "bundles",
        promotion="not worse",
        anatomy=None,
        warm_up=True,
        scoring=None,
        api_keys=None,
        realm="",
        client_id="monailabel-app",
        insecure=False,
        origins=(),
        max_upload=2 * 2**30,
        session_days=7.0,
        max_audit=2**30,
        model_upload=False,
        modalities=("CT", "MR"),
        search={},
        pacs_folder=tmp_path / "app/pacs",
        send_labels=True,
    )


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("models", "kits, amos_ct", "kits, amos_ct"),
        ("bundles", "APP", Path("APP").resolve()),  # it means the app's folder in defaults only
        ("promotion", "never", "never"),
        ("warm_up", "FALSE", False),
        ("scoring", "true", True),
        ("scoring", "false", False),
        ("api_keys", "keys.json", "keys.json"),
        ("origins", "https://a.example, https://b.example,", ("https://a.example", "https://b.example")),
        ("max_upload", "500", 500 * 2**20),
        ("modalities", "CT", ("CT",)),
        (
            "search",
            "StudyDate=20260101-,BodyPartExamined=ABDOMEN=",
            {"StudyDate": "20260101-", "BodyPartExamined": "ABDOMEN="},
        ),
        ("pacs_folder", "kept", Path("kept")),
    ],
)
def test_values(name, text, value, tmp_path):
    assert getattr(read_settings(tmp_path, {name: text}), name) == value


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("scoring", "", "scoring is '', expected true or false"),
        ("warm_up", "1", "warm_up is '1', expected true or false"),
        ("promotion", "Never", "promotion is 'Never', expected one of"),
        ("max_upload", "1.5", "max_upload is '1.5', expected megabytes, a whole number above 0"),
        ("session_days", "0", "session_days is '0', expected a number of days above 0, at most 3650"),
        ("session_days", "-1", "session_days is '-1', expected a number of days"),
        ("session_days", "week", "session_days is 'week', expected a number of days"),
        ("session_days", "inf", "session_days is 'inf', expected a number of days"),
        (
            "search",
            "Colour=red",
            r"search is 'Colour=red', expected KEYWORD=VALUE with DICOM keywords, not \['Colour'\]",
        ),
        ("model", "kits", r"conf has \['model'\], expected some of models, bundles"),
    ],
)
def test_what_is_refused(name, text, expected, tmp_path):
    with pytest.raises(ValueError, match=expected):
        read_settings(tmp_path, {name: text})


@pytest.mark.parametrize(("page", "of_pacs"), [("deployment.md", False), ("ohif.md", True)])
def test_the_docs_have_the_table(page, of_pacs):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert settings_table(of_pacs=of_pacs) in text, "print the tables: python -m monailabel_app.settings"


def test_help_names_every_setting():
    names = [line.split()[0] for line in help_text().splitlines() if not line.startswith(" " * 5)]
    assert names == [setting.name for setting in list_settings()]
