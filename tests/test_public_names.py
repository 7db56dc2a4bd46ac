import re
from pydoc import locate

import pytest
from bundle_helpers import ROOT

import rep3d

NAME = re.compile(r"\brep3d(?:\.[A-Za-z_]\w*)+")


def names_in_configs() -> list[str]:
    """Every name of ours in the configs that bundles are rendered from."""
    texts = [path.read_text() for path in ROOT.glob("configs/**/*.json")]
    values = " ".join(value for text in texts for value in re.findall(r'"((?:[^"\\]|\\.)*)"', text))
    return sorted(set(NAME.findall(values)) - {"rep3d"})


def test_public_names():
    assert sorted(rep3d.__all__) == [
        "Rep3D",
        "console",
        "convert_official_state_dict",
        "data",
        "depthwise_conv3d",
        "evaluation",
        "inference",
        "inferers",
        "interactive",
        "io",
        "locks",
        "reparameterize",
        "training",
        "transforms",
    ]
    assert all(hasattr(rep3d, name) for name in rep3d.__all__)


@pytest.mark.parametrize("name", names_in_configs())
def test_configs_call_what_is_public(name):
    package, called = name.rsplit(".", 1)
    home = locate(package)
    assert called in getattr(home, "__all__", vars(home)), f"{package} exports no {called!r}"
    assert not called.startswith("_")
    assert package.count(".") <= 1, f"{name} reaches into a package"


@pytest.mark.parametrize(
    "name",
    [
        "cases.output_name",
        "checkpoints.Checkpoints",
        "checks.check_datalist",
        "errors.show_errors_briefly",
        "leakage.training_cases",
        "logs.start_log",
        "options.check_options",
        "scores.CaseScores",
        "splits.fold_folder",
        "tensorboard.write_dice",
    ],
)
def test_names_of_version_0_1_0_still_lead_there(name):
    with pytest.warns(FutureWarning, match=f"rep3d.{name.split('.')[0]} is now rep3d"):
        assert locate(f"rep3d.{name}") is not None


def test_readers_of_version_0_1_0():
    assert locate("rep3d.io.reader.NiftiReader") is rep3d.io.NiftiReader


def test_scoring_of_version_0_1_0(monkeypatch):
    called = []
    monkeypatch.setattr(rep3d.evaluation, "score_each", lambda *args: called.append(args))
    with pytest.warns(FutureWarning, match="is now rep3d.evaluation.score_each"):
        locate("rep3d.inference.score_each")(1, 2)
    assert called == [(1, 2)]
