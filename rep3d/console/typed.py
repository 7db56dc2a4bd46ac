"""What was typed, where a command line or a configuration has made something else of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from numbers import Integral
from typing import Any

from fire.parser import DefaultParseValue
from monai.bundle import ConfigParser

from rep3d.console.configurations import EVALUATED, SEPARATOR, is_number

PATHS = (
    *("bundle_root", "dataset_dir", "output_dir", "ckpt_dir", "init_from", "checkpoint"),
    *("more_data", "predictions", "image", "previous", "taken"),  # of bundles that take prompts
)
TYPED_SEPARATOR = "#"
BOOLEANS = {"true": True, "false": False}


def as_text(path: str) -> str:
    """A path for a configuration, which would take # in it for ::."""
    if TYPED_SEPARATOR not in path:
        return path
    return "$" + repr(path).replace(TYPED_SEPARATOR, r"\x23").replace("@", r"\x40")


def check_no_none() -> None:
    """Refuse what `monai.bundle` takes for an option that was not given, as if nothing had been typed."""
    for name, typed in _typed_options():
        if typed is not None and DefaultParseValue(typed) is None:
            raise ValueError(f"{name} is {typed}, which monai.bundle leaves out: for nothing write --{name} '$None'")


def mistaken_paths(parser: ConfigParser) -> Iterator[tuple[str, str | list[str]]]:
    """The options of files and folders, each as it was typed, for the configuration.

    Raises:
        ValueError: one has no value, or is no text and cannot be recovered.
    """
    for name in PATHS:
        value, typed = parser.get(name), _typed(name)
        if value is None or isinstance(value, str) and value.startswith(EVALUATED):
            continue
        parsed = None if typed is None else DefaultParseValue(typed)
        if _is_path(value):
            is_quoted = typed is not None and typed.startswith(("'", '"'))
            yield name, _recovered(name, str(value), parsed, parsed if is_quoted else typed)
        elif isinstance(value, list) and all(map(_is_path, value)):
            originals = parsed if isinstance(parsed, list) and len(parsed) == len(value) else [None] * len(value)
            yield name, [_recovered(name, str(path), one, one) for path, one in zip(value, originals, strict=True)]
        elif value is True and (typed is None or typed.startswith("-")):
            raise ValueError(f"--{name} has no value, expected a path after it")
        elif typed is None:
            raise ValueError(f"{name} is {value!r}, expected text: write a name that looks like a number as ./NAME")
        else:
            yield name, as_text(typed)


def _recovered(name: str, value: str, parsed: object, typed: str | None) -> str:
    """A path as it was typed, for a configuration.

    Args:
        name: of the option.
        value: what the configuration made of it.
        parsed: what the command line made of what was typed.
        typed: None where nothing was.

    Raises:
        ValueError: nothing tells what it was.
    """
    if typed is not None and isinstance(parsed, str) and parsed.replace(TYPED_SEPARATOR, SEPARATOR) == value:
        return as_text(typed)
    if SEPARATOR in value:
        told = f"{name} is {value!r}, or with {TYPED_SEPARATOR} for {SEPARATOR}, which a configuration takes alike"
        raise ValueError(f"{told}: expected a path without them")
    return value


def _is_path(value: object) -> bool:
    return isinstance(value, str | os.PathLike)


def booleans(config: Any, prefix: str = "") -> Iterator[tuple[str, bool]]:
    """The ids whose values are true or false in words, which Python takes for true alike."""
    pairs = config.items() if isinstance(config, dict) else enumerate(config) if isinstance(config, list) else ()
    for key, value in pairs:
        name = f"{prefix}{SEPARATOR}{key}" if prefix else str(key)
        if name == ConfigParser.meta_key:
            continue
        if isinstance(config, dict) and isinstance(value, str) and value.lower() in BOOLEANS and name not in PATHS:
            yield name, BOOLEANS[value.lower()]
        yield from booleans(value, name)


def whole_numbers(config: Mapping[str, Any], known: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """The ids of whole numbers that were written as 1e3, which Python takes for 1000.0."""
    for name, value in config.items():
        if is_number(known.get(name), Integral) and isinstance(value, float) and value.is_integer():
            yield name, int(value)


def _typed(name: str) -> str | None:
    """The text that this process was started with after `--name`."""
    return dict(_typed_options()).get(name)


def _typed_options() -> Iterator[tuple[str, str | None]]:
    """The options that this process was started with, and the text after each."""
    for word, following in zip(sys.argv, [*sys.argv[1:], None], strict=True):
        option, equals, value = word.partition("=")
        if option.startswith("-"):
            yield option.lstrip("-").replace("-", "_"), value if equals else following
