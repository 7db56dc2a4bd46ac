"""Where a bundle keeps its refinement of label maps, and who may replace it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rep3d import installed
from rep3d.files import read_json, write_json, write_text

logger = logging.getLogger(__name__)

TRANSFORM = "rep3d.refinement.RefineLabelsd"


def check_is_ours(bundle: Path) -> None:
    """Whether a bundle's refinement may be replaced.

    Raises:
        ValueError: somebody wrote another one, or the bundle is the package's own.
    """
    if (installed.root() / installed.BUNDLES / bundle.resolve().name).resolve() == bundle.resolve():
        raise ValueError(
            f"bundle is {str(bundle)!r}, which comes with the package: `rep3d bundles NAME --bundle_dir DIR` writes "
            "one of yours"
        )
    for path in _files(bundle):
        content = read_json(path)
        found = content.get("common", content).get("refinement", [])
        if any(not isinstance(one, dict) or one.get("_target_") != TRANSFORM for one in found):
            raise ValueError(f"{path}: refinement is {json.dumps(found)}, expected [] to have one chosen: it is yours")


def write_refinement(bundle: Path, arguments: Mapping[str, Any]) -> None:
    """Write a refinement into a bundle's configs, and into its NAME.json where it has one, for later renderings.

    Args:
        bundle: its folder.
        arguments: of `RefineLabelsd`, but for keys and names; empty: none.
    """
    chosen = {"_target_": TRANSFORM, "keys": "pred", "label_names": "@label_names", **arguments}
    refinement = [chosen] if arguments else []
    paths = _files(bundle)
    for path in paths:
        content = read_json(path)
        if "common" in content:
            content["common"].pop("refinement", None)
            content["common"] |= {"refinement": refinement} if refinement else {}
            write_json(path, content)
        else:
            write_text(path, json.dumps(content | {"refinement": refinement}, indent=4))
    told = json.dumps(arguments) if arguments else "none"
    logger.info("refinement: %s, written into %s", told, ", ".join(map(str, paths)))


def _files(bundle: Path) -> list[Path]:
    own = bundle / f"{bundle.resolve().name}.json"
    return [*([own] if own.is_file() else []), *(bundle / f"configs/{name}.json" for name in ("train", "inference"))]
