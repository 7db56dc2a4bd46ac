import importlib.util
import json
import shutil

import pytest
from bundle_helpers import BUNDLES, ROOT


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("render_bundles", ROOT / "scripts/render_bundles.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def copy(tmp_path):
    """A repository to edit."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    shutil.copytree(ROOT / "bundles", tmp_path / "bundles", ignore=shutil.ignore_patterns("models", "eval"))
    shutil.copy(ROOT / "LICENSE", tmp_path)
    return tmp_path


def test_committed_bundles_are_what_configs_render_to(script, capsys):
    script.main(check=True)
    assert capsys.readouterr().out == ""


def test_one_bundle_per_dataset():
    datasets = {path.stem for path in ROOT.glob("configs/datasets/*.json")}
    assert datasets == {path.name for path in BUNDLES}
    assert datasets == {path.name for path in (ROOT / "bundles").iterdir() if path.is_dir()}


def edit(path):
    path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")


@pytest.mark.parametrize("change", [edit, lambda path: path.unlink()], ids=["edited", "missing"])
@pytest.mark.parametrize("name", ["configs/train.json", "configs/logging.conf", "docs/README.md", "LICENSE"])
def test_check_finds_what_differs(change, name, script, copy, capsys):
    path = copy / "bundles" / BUNDLES[-1].name / name
    before = path.read_bytes()
    change(path)
    with pytest.raises(SystemExit) as exit_:
        script.main(check=True, root=copy)
    assert exit_.value.code  # not 0
    assert capsys.readouterr().out == f"differs from its render: {path.relative_to(copy)}\n"
    script.main(root=str(copy))
    assert path.read_bytes() == before
    script.main(check=True, root=copy)


def test_a_fact_stands_once(script, copy):
    """A label's new name in the dataset's config reaches every file that names it."""
    path = copy / f"configs/datasets/{BUNDLES[-1].name}.json"
    dataset = json.loads(path.read_text(encoding="utf-8"))
    old, dataset["common"]["label_names"][-1] = dataset["common"]["label_names"][-1], "renamed label"
    path.write_text(json.dumps(dataset), encoding="utf-8")
    files = script.render(copy, BUNDLES[-1].name)
    for name in ("configs/train.json", "configs/inference.json", "configs/metadata.json", "docs/README.md"):
        assert "renamed label" in files[name]
    for name in ("configs/train.json", "configs/inference.json"):
        assert old not in files[name]


@pytest.mark.parametrize(
    "fragments, merged",
    [
        ([], {}),
        ([{"a": 1}, {"a": 2, "b": 3}], {"a": 2, "b": 3}),
        ([{"a": {"b": 1, "c": 2}}, {"a": {"c": 3}}], {"a": {"b": 1, "c": 3}}),
        ([{"a": {"b": 1}}, {"a": None}, {"a": {"c": 2}}], {"a": {"c": 2}}),
        ([{"a": [1, 2]}, {"a": [3]}], {"a": [3]}),
    ],
)
def test_merge(fragments, merged, script):
    before = json.dumps(fragments)
    assert script.merge(*fragments) == merged
    assert json.dumps(fragments) == before
