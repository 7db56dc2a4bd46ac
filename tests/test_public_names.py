import re
import subprocess
import sys
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
        "MedNeXt",
        "MedNeXtV2",
        "PlainConvUNet",
        "Rep3D",
        "ResidualEncoderUNet",
        "UXNet",
        "console",
        "convert_official_state_dict",
        "corrections",
        "data",
        "depthwise_conv3d",
        "evaluation",
        "inference",
        "inferers",
        "interactive",
        "io",
        "locks",
        "predictions",
        "reparameterize",
        "training",
        "transforms",
        "upkern",
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


HELPS = {
    "the app": ("monailabel_app", ["--help"]),
    "a command that there is not": ("monailabel_app", ["serv"]),
    "the command": ("rep3d", []),
    "one command": ("rep3d", ["train", "--help"]),
    "the list of bundles": ("rep3d", ["bundles"]),
    "a script": ("scripts/pack_bundle.py", ["--help"]),
    "an option of a script that there is not": ("scripts/prepare_data.py", ["--sorce", "x"]),
}


@pytest.mark.parametrize("command", HELPS)
def test_a_help_does_not_wait_for_libraries(command):
    """torch and MONAI take seconds to import."""
    name, arguments = HELPS[command]
    run = "run_path" if name.endswith(".py") else "run_module"
    code = f"import runpy, sys; sys.argv = {[name, *arguments]}; runpy.{run}({name!r}, run_name='__main__')"
    imported = f"try:\n  {code}\nexcept SystemExit: pass\nprint({{'torch', 'monai'}} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", imported], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_names_that_there_are_not():
    with pytest.raises(AttributeError, match="module 'rep3d' has no attribute 'absent'"):
        _ = rep3d.absent
    with pytest.raises(AttributeError, match="module 'rep3d.console' has no attribute 'absent'"):
        _ = rep3d.console.absent
    with pytest.raises(AttributeError, match="module 'rep3d.inference' has no attribute 'absent'"):
        _ = rep3d.inference.absent
