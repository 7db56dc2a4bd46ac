"""The messages of docs/troubleshooting.md are those of the code."""

import ast
import re

import pytest
from bundle_helpers import ROOT

PAGE = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
QUOTED = [
    quoted
    for line in PAGE.splitlines()
    if line.startswith("| `")
    for quoted in re.findall(r"`([^`]+)`", line.split(" | ")[0])
]
HOLE = "\0"  # where a message tells of the case


def texts(node):
    """The texts that are built in a piece of code, each whole, with HOLE for what is computed."""
    if isinstance(node, ast.JoinedStr):
        yield "".join(part.value if isinstance(part, ast.Constant) else HOLE for part in node.values)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    else:
        for child in ast.iter_child_nodes(node):
            yield from texts(child)


@pytest.fixture(scope="module")
def messages():
    paths = [*ROOT.glob("rep3d/**/*.py"), *ROOT.glob("monailabel_app/**/*.py")]
    return [text for path in paths for text in texts(ast.parse(path.read_text(encoding="utf-8")))]


def said(quoted, messages):
    """Whether a message has that part; "..." is what it computes."""
    part = quoted.replace("...", HOLE).strip(HOLE)
    return any(part in message for message in messages)


def test_there_are_the_likeliest():
    assert len(QUOTED) == len(set(QUOTED)) >= 25


@pytest.mark.parametrize("quoted", QUOTED)
def test_the_code_says_it(quoted, messages):
    assert len(quoted.replace("...", "").strip()) > 12, "too little to find it by"
    assert said(quoted, messages)


def test_what_nobody_says_is_not_found(messages):
    assert said("dataset_dir ... does not exist", messages) and not said("dataset_dir ... exists not", messages)
