"""What a configuration of `monai.bundle` defines, refers to and runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from numbers import Real
from typing import Any

from monai.bundle import ConfigParser
from monai.bundle.reference_resolver import ReferenceResolver

SEPARATOR = ReferenceResolver.sep
EVALUATED = ("$", "@", "%")  # begin what a configuration evaluates


def option_ids(config: dict, prefix: str = "") -> Iterator[str]:
    """The ids of what a config defines, except the arguments of components, which Python checks.

    Of `{"seed": 0, "train": {"dataset": {"_target_": "Dataset", "data": []}}}`: seed, train, train::dataset.
    """
    for name, value in config.items():
        if name == ConfigParser.meta_key:
            continue
        yield prefix + name
        if isinstance(value, dict) and "_target_" not in value:
            yield from option_ids(value, f"{prefix}{name}{SEPARATOR}")


def plain_values(config: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a config that are numbers, lists of numbers or truth values."""
    return {
        name: value
        for name, value in config.items()
        if isinstance(value, bool) or is_number(value) or is_numbers(value)
    }


def references(config: Any) -> set[str]:
    """The ids that a config refers to with `@id`."""
    if isinstance(config, str):
        return set(ReferenceResolver.match_refs_pattern(config))
    values = config.values() if isinstance(config, dict) else config if isinstance(config, list) else ()
    return set().union(*map(references, values))


def all_references(config: Mapping[str, Any], name: str) -> set[str]:
    """The ids that an entry refers to, and that these refer to in their turn."""
    found, left = set[str](), [name]
    while left:
        new = references(config.get(left.pop().split(SEPARATOR)[0])) - found
        found |= new
        left += new
    return found


def unused_ids(config: dict) -> list[str]:
    """The ids that nothing refers to, and that are nothing to run either: they do nothing."""
    used, parser = references(config), ConfigParser(config)
    return [
        name
        for name in option_ids(config)
        if not is_runnable(parser[name]) and not any(_is_part(name, one) or _is_part(one, name) for one in used)
    ]


def _is_part(name: str, of: str) -> bool:
    return name == of or name.startswith(of + SEPARATOR)


def undefined_ids(config: dict) -> list[str]:
    """The ids that are referred to and nowhere defined."""
    parser = ConfigParser(config)
    return sorted(name for name in references(config) if name not in parser)


def is_runnable(value: Any) -> bool:
    """Whether a config's value is a list of expressions, such as what `monai.bundle run` runs."""
    return isinstance(value, list) and bool(value) and all(map(is_expression, value))


def is_expression(value: object) -> bool:
    return isinstance(value, str) and value.startswith("$")


def is_number(value: object, kind: type = Real) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def is_numbers(value: object) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(map(is_number, value))
