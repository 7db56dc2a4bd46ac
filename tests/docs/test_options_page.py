"""docs/options.md names every entry of the bundles' configs, with its value, and no other."""

import json
import re

import pytest
from bundle_helpers import AUTOMATIC, BUNDLES, ROOT, read
from monai.bundle import ConfigParser

from rep3d.datasets.rendering import render_file

PAGE = (ROOT / "docs/options.md").read_text(encoding="utf-8")
OWN_BUNDLE = (ROOT / "docs/your_own_dataset.md").read_text(encoding="utf-8")
OF_INTERACTIVE = "## The bundle `interactive`"
CODE = re.compile(r"`([^`]+)`")
PRIVATE = {"known_ids", "known_values"}  # what the bundle itself has; nobody's to set


def rows(text, header):
    """The cells of the tables with that header."""
    tables = re.findall(rf"^\| {re.escape(header)} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert tables
    return [[cell.strip() for cell in line.strip("|").split("|")] for table in tables for line in table.splitlines()]


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """The configs of a bundle as `rep3d new` writes them: path -> text."""
    (block,) = re.findall(r"```json\n(.*?)```", OWN_BUNDLE, re.DOTALL)
    path = tmp_path_factory.mktemp("own") / "knee.json"
    path.write_text(block, encoding="utf-8")
    return render_file(ROOT, path)


def entries(configs):
    return {name.split("#")[0] for config in configs for name in config} - PRIVATE


def configs_of(bundle):
    return [read(bundle, name) for name in ("train", "inference", "evaluate")]


def named(text, headers=("option | default | what it does", "entry | what it is")):
    return {name for header in headers for first, *_ in rows(text, header) for name in CODE.findall(first)}


def test_every_entry_is_named(own):
    of_all, of_interactive = PAGE.split(OF_INTERACTIVE)
    automatic = entries(config for bundle in AUTOMATIC for config in configs_of(bundle))
    automatic |= entries(json.loads(own[f"configs/{name}.json"]) for name in ("train", "inference", "evaluate"))
    assert named(of_all) == automatic
    (interactive,) = set(BUNDLES) - set(AUTOMATIC)
    assert entries(configs_of(interactive)) - automatic <= named(of_interactive) <= entries(configs_of(interactive))


def value_of(config, name):
    value = config[name]
    return None if isinstance(value, str) and value[:1] in "$@" else json.dumps(value)


def test_values():
    """What a cell has as code is the value; what it says in words is computed, or differs from bundle to bundle."""
    of_all, of_interactive = PAGE.split(OF_INTERACTIVE)
    (interactive,) = set(BUNDLES) - set(AUTOMATIC)
    for text, bundles in ((of_all, AUTOMATIC), (of_interactive, [interactive])):
        for first, default, _ in rows(text, "option | default | what it does"):
            (name,) = CODE.findall(first)
            merged = [evaluate | inference | train for train, inference, evaluate in map(configs_of, bundles)]
            values = {value_of(config, name) for config in merged if name in config}
            if value := CODE.fullmatch(default):
                assert values == {value[1]}, name
            else:
                assert values in (set(), {None}) or len(values) > 1, name


def test_values_by_bundle():
    of_all, _ = PAGE.split(OF_INTERACTIVE)
    (header,) = re.findall(r"^\| (bundle \|.*) \|$", of_all, re.MULTILINE)
    names = CODE.findall(header)
    by_bundle = {
        first for first, default, _ in rows(of_all, "option | default | what it does") if default == "by bundle"
    }
    assert by_bundle - {"`label_names`"} == {f"`{name}`" for name in names}
    told = {CODE.findall(bundle)[0]: values for bundle, *values in rows(of_all, header)}
    assert told == {bundle.name: [json.dumps(read(bundle, "train")[name]) for name in names] for bundle in AUTOMATIC}


def test_values_of_own_bundles(own):
    config = json.loads(own["configs/train.json"])
    told = {first: default for first, default, _ in rows(PAGE, "option | default | what it does")}
    of_mr = f"only of bundles of `rep3d new`: {config['noise_std']:g}, of CT 0.02"
    assert told["`noise_std`"] == of_mr
    assert told["`steps_per_epoch`"].endswith(f" {config['steps_per_epoch']}")
    window = json.loads((ROOT / "configs/recipes/window.json").read_text())
    assert window["train"]["noise_std"] == 0.02


def test_options_that_the_page_shows_exist():
    options = {name.rstrip(".,:") for name in re.findall(r"--([\w#]+)", PAGE)} - {"config_file"}
    parser = ConfigParser(read(ROOT / "bundles/kits", "train"))
    assert len(options) > 8
    for name in options:
        parent = name.rpartition("#")[0]
        # Arguments of components are Python's to check: here, that the component is there.
        assert name in parser or "_target_" in parser[parent], name
