"""A trained bundle as one archive: configs, weights, and the deployed network as TorchScript and ONNX."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser, ckpt_export

from rep3d.console.configurations import plain_values
from rep3d.files import read_json, whole_file, write_text
from rep3d.shipped import INCLUDED, METADATA, NOTICE, OF_THE_DATA, SHIPPED, check_settings, settings_beside
from rep3d.shipping import file_facts
from rep3d.training.checkpoints import load_deployed, read_weights, save_whole

INFERENCE = "configs/inference.json"


def pack_bundle(bundle: str | os.PathLike, weights: str | os.PathLike, archive: str | os.PathLike) -> Path:
    """Write a zip with one folder of the bundle's name, and return its path.

    `models` in it holds model.pt (training form: for retraining and inference) and the deployed network for patches,
    (1, C, *patch_size), as model.ts (any batch and size; that size only of a network that cannot be scripted, such as
    SwinUNETR, and is traced) and model.onnx (that size only). Neither tells where its
    source code lay on this computer. Beside weights that the bundle ships with stands their notice; of
    others the metadata tells nothing. The configs in it are those that the weights were trained with, see
    `rep3d.shipped.settings_beside`.

    Args:
        bundle: the bundle's folder.
        weights: a model.pt or last.pt of its network.
        archive: the zip file; one that is there is replaced when the new one is whole.

    Raises:
        FileNotFoundError: no bundle or no weights there.
        ValueError: the weights are of another network, or know other labels or channels than the bundle.
    """
    source, archive = Path(bundle).resolve(), Path(archive)
    if not (source / INFERENCE).is_file():
        raise FileNotFoundError(f"bundle {str(bundle)!r} has no {INFERENCE}: give a bundle's folder")
    settings = _settings(source, weights)
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / source.name
        (copy / "models").mkdir(parents=True)
        for name in INCLUDED:
            (shutil.copytree if (source / name).is_dir() else shutil.copy)(source / name, copy / name)
        _write_settings(settings, copy)
        parser = ConfigParser()
        parser.read_config(copy / INFERENCE)
        deployed = load_deployed(parser.get_parsed_content("network_def"), weights)
        model = copy / SHIPPED
        _pack_weights(source, weights, copy)
        image = torch.zeros(1, parser.get_parsed_content("in_channels"), *parser["patch_size"])
        _export_onnx(deployed, image, model.with_suffix(".onnx"))
        ckpt_export(
            net_id="network_def",
            filepath=str(model.with_suffix(".ts")),
            ckpt_file=str(model),
            meta_file=str(copy / METADATA),
            config_file=str(copy / INFERENCE),
            use_trace=not _is_scriptable(deployed),
            input_shape=tuple(image.shape),
        )
        _drop_source_places(model.with_suffix(".ts"))
        return _zip(copy, archive)


def _settings(bundle: Path, weights: str | os.PathLike) -> dict[str, Any]:
    """What the weights were trained with.

    Raises:
        ValueError: other labels or channels than the bundle's, which its metadata and README tell of.
    """
    config = read_json(bundle / INFERENCE)
    check_settings(weights, {name: config[name] for name in OF_THE_DATA if name in config}, "pack")
    return read_json(settings_beside(weights))


def _write_settings(settings: Mapping[str, Any], bundle: Path) -> None:
    """Write what weights were trained with into a bundle's configs, and the size of their patches into its metadata."""
    others = [name for name, value in settings.items() if read_json(bundle / INFERENCE).get(name, value) != value]
    if not others:
        return
    readme = bundle / "docs/README.md"
    told = f"The weights were trained with other {', '.join(others)} than this page tells of: see `{INFERENCE}`."
    write_text(readme, f"{readme.read_text(encoding='utf-8').rstrip()}\n\n## These weights\n{told}")
    for path in (bundle / INFERENCE, bundle / "configs/train.json"):
        config = read_json(path)
        config |= {key: value for key, value in settings.items() if key in config}
        if "known_values" in config:
            config["known_values"] |= plain_values({key: config[key] for key in config["known_values"]})
        write_text(path, json.dumps(config, indent=4))
    if "patch_size" in settings:
        metadata = read_json(bundle / METADATA)
        data_format = metadata["network_data_format"]
        for tensor in (data_format["inputs"]["image"], data_format["outputs"]["pred"]):
            tensor["spatial_shape"] = settings["patch_size"]
        write_text(bundle / METADATA, json.dumps(metadata, indent=4))


def _pack_weights(source: Path, weights: str | os.PathLike, copy: Path) -> None:
    """Weights that ship stay the file that metadata and notice are about."""
    metadata = json.loads((copy / METADATA).read_text(encoding="utf-8"))
    facts = metadata.pop("weights", None)
    if facts is not None and file_facts(weights)["sha256"] == facts["sha256"]:
        shutil.copy(weights, copy / SHIPPED)
        shutil.copy(source / NOTICE, copy / NOTICE)
        return
    save_whole(read_weights(weights), copy / SHIPPED)
    if facts is not None:
        write_text(copy / METADATA, json.dumps(metadata, indent=4))


def _is_scriptable(network: torch.nn.Module) -> bool:
    try:
        torch.jit.script(network)
    except Exception:  # of several kinds, by what its code has
        return False
    return True


def _export_onnx(network: torch.nn.Module, image: torch.Tensor, path: Path) -> None:
    program = torch.onnx.export(
        network, (image,), input_names=["image"], output_names=["pred"], dynamo=True, verbose=False
    )
    assert program is not None
    for node in program.model.graph:
        node.metadata_props.pop("pkg.torch.onnx.stack_trace", None)
    program.save(path, external_data=False)


def _drop_source_places(script: Path) -> None:
    """Rewrite a TorchScript file without the files and lines that its code comes from."""
    with whole_file(script) as temporary, zipfile.ZipFile(script) as file, zipfile.ZipFile(temporary, "w") as stripped:
        for name in file.namelist():
            if not name.endswith(".debug_pkl"):
                stripped.writestr(name, file.read(name))


def _zip(folder: Path, archive: Path) -> Path:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(archive) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(folder.rglob("*")):
            file.write(path, path.relative_to(folder.parent))
    return archive
