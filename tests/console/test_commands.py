import ast
import sys
from pathlib import Path

import pytest
from fire.decorators import SetParseFn

from rep3d.console.commands import run_command


@pytest.fixture
def type_words(monkeypatch):
    """Words of a command line."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    return lambda *words: monkeypatch.setattr(sys, "argv", ["script.py", *words])


@pytest.fixture
def called():
    return []


@pytest.fixture
def command(called):
    @SetParseFn(str, "folder")
    def main(folder: str = "", steps: int = 1, check: bool = False) -> None:
        """Do it."""
        called.append((folder, steps, check))

    return main


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), ("", 1, False)),
        (("--folder", "2024_01_05", "--steps=3"), ("2024_01_05", 3, False)),
        (("here", "--check"), ("here", 1, True)),
        (("--nocheck",), ("", 1, False)),
    ],
)
def test_options_that_are_known(words, expected, type_words, command, called):
    type_words(*words)
    run_command(command)
    assert called == [expected]


@pytest.mark.parametrize(("word", "hint"), [("--stepz", ", did you mean 'steps'?"), ("--stepz=3", ""), ("--x", "")])
def test_an_unknown_option_is_refused_before_anything_is_done(word, hint, type_words, command, called):
    type_words("--folder", "here", word)
    with pytest.raises(SystemExit, match=f"unknown option '{word.partition('=')[0]}'{hint}".replace("?", r"\?")):
        run_command(command)
    assert not called


def test_help_shows_the_options_only(type_words, command, capsys):
    type_words("--help")
    with pytest.raises(SystemExit) as ended:
        run_command(command)
    assert ended.value.code == 0
    shown = capsys.readouterr()
    assert "--steps" in shown.out + shown.err and "METADATA" not in (shown.out + shown.err).upper()


def test_a_word_too_many_is_refused_before_anything_is_done(type_words, command, called, capsys):
    type_words("here", "3", "True", "more")
    with pytest.raises(SystemExit) as ended:
        run_command(command)
    assert ended.value.code == 2 and not called
    assert "Could not consume arg: more" in capsys.readouterr().err


def test_a_command_that_takes_any_option_gets_it_as_typed(type_words, called):
    @SetParseFn(str)
    def anything(place: str, **options: str) -> None:
        called.append((place, options))

    type_words()
    run_command(anything, ["007", "--fold", "01", "--deep#down=1e3", "--flag"], program="many")
    assert called == [("007", {"fold": "01", "deep#down": "1e3", "flag": "True"})]


@pytest.mark.parametrize("words", [("-f", "all"), ("-f=all",)])
def test_letters_that_the_help_has(words, called, capsys):
    @SetParseFn(str)
    def anything(place: str, *, folds: str = "", bundle: str = "", bundle_dir: str = "", **options: str) -> None:
        called.append((folds, bundle_dir, options))

    with pytest.raises(SystemExit):
        run_command(anything, ["--help"])
    shown = capsys.readouterr()
    assert "-f, --folds" in shown.out + shown.err and "-b, " not in shown.out + shown.err
    run_command(anything, ["here", *words, "-b", "x"])
    assert called == [("all", "", {"b": "x"})]


def test_switches_of_all_commands_are_read_as_such():
    """fire makes `--flag false` a text, which is true."""
    root = Path(__file__).parents[2]
    files = [path for place in ("scripts", "rep3d/commands") for path in (root / place).glob("*.py")]
    functions = [
        (path.name, node)
        for path in files
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and any("SetParseFn" in ast.unparse(one) for one in node.decorator_list)
    ]
    assert len(functions) > 20
    for name, function in functions:
        arguments = [*function.args.args, *function.args.kwonlyargs]
        assert "bool" not in [ast.unparse(one.annotation) for one in arguments if one.annotation], name
