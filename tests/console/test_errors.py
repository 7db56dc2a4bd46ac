import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest
from monai.data import Dataset
from monai.transforms import Lambdad
from monai.utils import optional_import
from torch.utils.data import DataLoader

from rep3d.console import errors
from rep3d.console.errors import CaseError, describe, root_cause
from rep3d.transforms import NamingCompose

PACKAGE = str(Path(errors.__file__).parents[1])
PROGRAM = f"""
import sys, types
for name, folder in (("rep3d", {PACKAGE!r}), ("rep3d.console", {PACKAGE!r} + "/console")):
    sys.modules[name] = package = types.ModuleType(name)  # without the seconds that `import rep3d` takes
    package.__path__ = [folder]
from rep3d.console import errors, logs
"""
OURS = """
errors.show_errors_briefly({traceback})
logs.start_log({folder!r}, "run.log")
code = "def check(error): raise error"
exec(code, ours := {{"__name__": "rep3d.data.lists"}})
try:
    try:
        ours["check"](ValueError("scan.nii.gz: some voxels are NaN"))
    except ValueError as error:
        raise RuntimeError("applying transform") from error
except RuntimeError as error:
    raise TypeError("Failed to evaluate ConfigExpression") from error
"""


def run(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", PROGRAM + code], capture_output=True, text=True, check=False)


def test_an_error_of_our_own_is_one_line_and_the_log_has_its_traceback(tmp_path):
    result = run(OURS.format(traceback=False, folder=str(tmp_path)))
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr == "\nValueError: scan.nii.gz: some voxels are NaN\n"
    log = (tmp_path / "run.log").read_text(encoding="utf-8")
    assert "TypeError: Failed to evaluate ConfigExpression" in log and "Traceback" in log


@pytest.mark.parametrize("traceback", [True, "true", "True"])
def test_its_traceback_on_demand(traceback, tmp_path):
    lines = run(OURS.format(traceback=repr(traceback), folder=str(tmp_path))).stderr.rstrip().splitlines()
    assert lines[0].startswith("Traceback") and "TypeError: Failed to evaluate ConfigExpression" in lines
    assert lines[-1] == "ValueError: scan.nii.gz: some voxels are NaN"


@pytest.mark.parametrize("raising", ["[][1]", "int('x')", "raise ValueError('of a library')", "assert False, 'a bug'"])
def test_an_error_that_nobody_foresaw_keeps_its_traceback(raising):
    result = run(f"errors.show_errors_briefly()\n{raising}")
    assert result.returncode == 1 and result.stderr.startswith("Traceback")


@pytest.mark.parametrize("raising", ["1 / 0", "int('x')", "[][1]", "assert 0"])
def test_nor_is_what_our_own_code_calls_foreseen(raising):
    code = f"exec({raising!r}, {{'__name__': 'rep3d.data.lists'}})"
    assert run(f"errors.show_errors_briefly()\n{code}").stderr.startswith("Traceback")


def test_errors_of_the_file_system_are_one_line():
    result = run("errors.show_errors_briefly()\nopen('/nowhere/x')")
    assert result.stderr == "\nFileNotFoundError: [Errno 2] No such file or directory: '/nowhere/x'\n"


def test_interruption_is_one_word():
    assert run("errors.show_errors_briefly()\nraise KeyboardInterrupt").stderr == "\ninterrupted\n"


def test_exit_is_not_an_error():
    result = run("errors.show_errors_briefly()\nraise SystemExit(3)")
    assert result.returncode == 3
    assert result.stderr == ""


def test_root_cause_of_a_chain():
    inner, middle, outer = ValueError("inner"), RuntimeError("middle"), RuntimeError("outer")
    middle.__cause__, outer.__cause__ = inner, middle
    assert root_cause(outer) is inner
    assert root_cause(inner) is inner


def test_what_our_own_code_says_of_a_library_s_error():
    """It names the file, which the library's error does not."""
    inner, own, outer = ValueError("bad magic number"), CaseError("a.pt: no checkpoint"), RuntimeError("outer")
    own.__cause__, outer.__cause__ = inner, own
    assert root_cause(outer) is own


def test_only_explicit_causes_count():
    error = ValueError("what matters")
    error.__context__ = KeyError("what was being handled")
    assert root_cause(error) is error


@pytest.mark.parametrize(
    ("module", "extra"),
    [
        ("skimage.nowhere", "refine"),
        ("einops.nowhere", "baselines"),
        ("dynamic_network_architectures.nowhere", "baselines"),
        ("onnx.nowhere", "export"),
    ],
)
def test_missing_extras_say_how_to_install_them(module, extra):
    """As Python and as MONAI say that something is missing."""
    missing, _ = optional_import(module)
    for raising in (lambda: __import__(module), lambda: missing.anything):
        with pytest.raises(ImportError) as raised:
            raising()
        assert describe(raised.value).endswith(f': pip install "rep3d[{extra}]"')
    assert "pip" not in describe(ImportError("No module named 'another'"))


def test_the_extras_are_those_of_the_package():
    assert set(errors.EXTRAS.values()) <= set(importlib.metadata.metadata("rep3d").get_all("Provides-Extra"))


def fail(_):
    raise RuntimeError("sizes differ")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_transform_that_fails_names_the_file(num_workers):
    """Also from a worker of a data loader, which hands over texts only."""
    data = Dataset([{"image": "a/scan.nii.gz"}], NamingCompose([Lambdad("image", fail)]))
    with pytest.raises(CaseError) as raised:
        next(iter(DataLoader(data, num_workers=num_workers)))
    assert describe(raised.value) == "a/scan.nii.gz: sizes differ"
    assert root_cause(raised.value) is raised.value
