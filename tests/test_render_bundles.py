import importlib.util
import json
import shutil

import pytest
from bundle_helpers import BUNDLES, ROOT

from rep3d.datasets.rendering import merge, render


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
    shutil.copytree(ROOT / "bundles", tmp_path / "bundles", ignore=shutil.ignore_patterns("*.pt", "eval"))
    shutil.copy(ROOT / "LICENSE", tmp_path)
    return tmp_path


def test_committed_bundles_are_what_configs_render_to(script, capsys):
    script.main(check=True)
    assert capsys.readouterr().out == ""


def test_one_bundle_per_dataset():
    datasets = {path.stem for path in ROOT.glob("configs/datasets/*.json")}
    assert datasets == {path.name for path in BUNDLES}
    folders = {path.name for path in (ROOT / "bundles").iterdir() if (path / "configs").is_dir()}
    own = {name for name in folders if (ROOT / "bundles" / name / f"{name}.json").is_file()}  # by `rep3d new`
    assert datasets == folders - own


def touch(path):
    path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")


@pytest.mark.parametrize("change", [touch, lambda path: path.unlink()], ids=["edited", "missing"])
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


def change(copy, folder, name, edit):
    path = copy / "configs" / folder / f"{name}.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    edit(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def refusal(script, copy, capsys):
    """What the script says; it writes nothing for a bundle that it refuses."""
    with pytest.raises(SystemExit) as exit_:
        script.main(root=copy)
    capsys.readouterr()
    return str(exit_.value.code)


@pytest.mark.parametrize(
    ("dataset", "edit", "said"),
    [
        ("kits", lambda c: c.update(trian=c.pop("train")), "unknown key 'trian', did you mean 'train'?"),
        ("kits", lambda c: c.update(trainer={}), "unknown key 'trainer', did you mean 'train'?"),
        ("kits", lambda c: c["train"].update(epoch=3), "nothing uses the key 'epoch', did you mean 'epochs'?"),
        ("kits", lambda c: c["common"].update(spacings=[1, 1, 1]), "nothing uses the key 'spacings', did you mean"),
        ("kits", lambda c: c["train"].update(train={"handler": []}), "nothing uses the key 'train.handler', did you"),
        ("kits", lambda c: c["metadata"].update(modalty="CT"), "unknown key 'metadata.modalty', did you mean"),
        ("kits", lambda c: c["readme"].update(license="x"), "unknown key 'readme.license', did you mean 'licence'?"),
        ("kits", lambda c: c["data"].update(fold=5), "unknown key 'data.fold', did you mean 'folds'?"),
        ("kits", lambda c: c["data"]["split"].update(val=5), "unknown key 'data.split.val'"),
        ("kits", lambda c: c.pop("metadata"), "lacks the key 'metadata'"),
        ("kits", lambda c: c["common"].pop("spacing"), "lacks the key 'spacing', which the bundle's configuration"),
        ("kits", lambda c: c["common"].pop("label_names"), "lacks the key 'label_names', which the bundle's"),
        ("kits", lambda c: c["train"].pop("epochs"), "lacks the key 'epochs', which the bundle's configuration"),
        ("kits", lambda c: c["readme"].pop("get"), "lacks the key 'readme.get'"),
        ("kits", lambda c: c.update(network="rep3d_tinny"), "network is 'rep3d_tinny', expected one of "),
        (
            "kits",
            lambda c: c.update(recipe="papers"),
            "recipe is 'papers', expected one of automatic, channels, paper, window, z_score, did you mean",
        ),
        ("kits", lambda c: c["common"]["label_names"].append("$1"), "the name '$1' means something else in a config"),
        ("kits", lambda c: c["common"].update(channel_names=["CT", "%MR"]), "the name '%MR' means something else"),
        ("kits", lambda c: c["common"].update(regions={"cyst #1": [3]}), "the name 'cyst #1' means something else"),
        ("msd_hippocampus", lambda c: c["common"].pop("preprocessing"), "lacks the key 'preprocessing"),
        (
            "interactive",
            lambda c: c.update(variant="interactiv"),
            "variant is 'interactiv', expected one of",
        ),
        ("interactive", lambda c: c.update(data={}), "unknown key 'data'"),
        ("interactive", lambda c: c.update(recipe="paper"), "unknown key 'recipe'"),
        ("interactive", lambda c: c.pop("variant"), "lacks the key 'data'"),
        ("interactive", lambda c: c["train"].pop("validation_clicks"), "lacks the key 'validation_clicks', which the"),
        ("interactive", lambda c: c["train"].update(clicks=3), "nothing uses the key 'clicks'"),
    ],
)
def test_keys_that_are_misspelt_or_missing(dataset, edit, said, script, copy, capsys):
    path = change(copy, "datasets", dataset, edit)
    message = refusal(script, copy, capsys)
    assert message.startswith(f"{path}: {said}") and "\n" not in message


def test_keys_of_a_recipe(script, copy, capsys):
    path = change(copy, "recipes", "paper", lambda content: content.update(commons={}))
    assert refusal(script, copy, capsys) == f"{path}: unknown key 'commons', did you mean 'common'?"


@pytest.mark.parametrize(
    "name", ["datasets/kits", "recipes/paper", "networks/rep3d", "base/train", "base/automatic", "interactive/train"]
)
def test_broken_json_is_named(name, script, copy, capsys):
    path = copy / f"configs/{name}.json"
    path.write_text(path.read_text(encoding="utf-8").rstrip()[:-1], encoding="utf-8")
    assert refusal(script, copy, capsys).startswith(f"{path}: no valid JSON (Expecting ")


def test_a_label_stands_once(copy):
    """A label's new name in the dataset's config reaches every file that names it."""
    path = copy / f"configs/datasets/{BUNDLES[-1].name}.json"
    dataset = json.loads(path.read_text(encoding="utf-8"))
    old, dataset["common"]["label_names"][-1] = dataset["common"]["label_names"][-1], "renamed label"
    path.write_text(json.dumps(dataset), encoding="utf-8")
    files = render(copy, BUNDLES[-1].name)
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
def test_merge(fragments, merged):
    before = json.dumps(fragments)
    assert merge(*fragments) == merged
    assert json.dumps(fragments) == before


# --- weights that ship


@pytest.fixture
def facts(copy):
    """Of weights that ship with a bundle which has none."""
    told = {
        **{"sha256": "0123456789abcdef" * 4, "bytes": 12_345_678, "float16_parameters": 6_000_000},
        **{"command": "train them", "data": "scans {of} ours", "seed": 0, "commit": "abc", "processor": "an abacus"},
        **{
            "pytorch": "2.13.0",
            "duration": "3 days",
            "dice": {"kidney": 0.9, "mean": 0.8765},
            "cases": "30 test cases",
        },
        **{"authors": "A. Nurse", "source": "a clinic", "licence": "CC BY 4.0", "changes": "a network was trained"},
    }
    (copy / "configs/weights").mkdir(exist_ok=True)
    (copy / "configs/weights/kits.json").write_text(json.dumps(told), encoding="utf-8")
    change(copy, "datasets", "kits", lambda content: content["readme"].pop("our_dice"))
    return told


def test_facts_of_weights_reach_metadata_notice_and_readme(facts, copy):
    files = render(copy, "kits")
    assert json.loads(files["configs/metadata.json"])["weights"] == facts
    for name in ("sha256", "data", "authors", "source", "licence", "changes", "command"):
        assert str(facts[name]) in files["models/NOTICE"], name
    readme = files["docs/README.md"]
    assert f"`{facts['sha256']}`" in readme and "12.3 MB in half precision" in readme
    assert "| this bundle | kidney 0.900, mean 0.876 (30 test cases; trained in 3 days on an abacus) |" in readme
    assert "Licence: CC BY 4.0." in readme and "No trained weights" not in readme


def test_a_bundle_without_weights(copy):
    files = render(copy, "kits")
    assert "weights" not in json.loads(files["configs/metadata.json"]) and "models/NOTICE" not in files
    assert "**No trained weights ship with this bundle.**" in files["docs/README.md"]


@pytest.mark.parametrize(
    ("folder", "edit", "said"),
    [
        ("weights", lambda c: c.pop("licence"), "lacks the key 'licence'"),
        ("weights", lambda c: c.update(license="x"), "unknown key 'license', did you mean 'licence'?"),
        ("weights", lambda c: c.pop("sha256"), "lacks the key 'sha256'"),
        ("datasets", lambda c: c["readme"].update(our_dice="0.99"), "unknown key 'readme.our_dice'"),
    ],
)
def test_facts_of_weights_that_are_refused(folder, edit, said, facts, script, copy, capsys):
    """One that stands at another place already, too."""
    path = change(copy, folder, "kits", edit)
    assert refusal(script, copy, capsys).startswith(f"{path}: {said}")
