import subprocess
import sys

from rep3d import errors

FAILING = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("errors", {path!r})  # without the seconds that `import rep3d` takes
errors = importlib.util.module_from_spec(spec)
spec.loader.exec_module(errors)
errors.show_root_cause_last()
try:
    try:
        raise ValueError("scan.nii.gz: some voxels are NaN")
    except ValueError as error:
        raise RuntimeError("applying transform") from error
except RuntimeError as error:
    raise {last} from error
"""


def run(last: str) -> subprocess.CompletedProcess:
    code = FAILING.format(path=errors.__file__, last=last)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_root_cause_is_printed_last():
    result = run('TypeError("Failed to evaluate ConfigExpression")')
    assert result.returncode == 1
    lines = result.stderr.rstrip().splitlines()
    assert lines[-1] == "ValueError: scan.nii.gz: some voxels are NaN"
    assert "TypeError: Failed to evaluate ConfigExpression" in lines[:-1]  # the traceback stays whole
    assert lines[0].startswith("Traceback")


def test_exit_is_not_an_error():
    result = run("SystemExit(3)")
    assert result.returncode == 3
    assert result.stderr == ""


def test_root_cause_of_a_chain():
    inner, middle, outer = ValueError("inner"), RuntimeError("middle"), RuntimeError("outer")
    middle.__cause__, outer.__cause__ = inner, middle
    assert errors.root_cause(outer) is inner
    assert errors.root_cause(inner) is inner


def test_only_explicit_causes_count():
    error = ValueError("what matters")
    error.__context__ = KeyError("what was being handled")
    assert errors.root_cause(error) is error
