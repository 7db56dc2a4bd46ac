"""The weights that ship with a bundle: half the size of trained ones, and what is known of the file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from rep3d.files import digest
from rep3d.networks.weights import check_finite
from rep3d.shipped import SHIPPED
from rep3d.training.checkpoints import load_weights, read_weights, save_whole
from rep3d.training.settings import other_settings

OUTPUT_BIAS = "out.conv.conv.bias"  # of MONAI's UnetOutBlock in our networks


def ship_weights(bundle: str | os.PathLike, weights: str | os.PathLike, logit_shift: float = 0.0) -> dict[str, Any]:
    """Write a bundle's `models/model.pt`, and return the `file_facts` of it.

    Its parameters are in half precision; every loader copies them into a network's float32. What else a state dict
    holds stays as it is: the statistics of a BatchNorm have a wider range, and the metadata tells the images that were
    trained on.

    Args:
        bundle: the bundle's folder.
        weights: a `model.pt` of its network.
        logit_shift: is added to the one logit of such a network. One above 0 makes the structure larger: Dice is best
            from a probability below one half on where answers are uncertain.

    Raises:
        FileNotFoundError: no bundle or no weights there.
        ValueError: the weights are of another network, were trained with other settings than the bundle has, or one is
            too large for half precision; a shift of what is not one logit.
    """
    shipped, config = Path(bundle) / SHIPPED, Path(bundle) / "configs/inference.json"
    if not config.is_file():
        raise FileNotFoundError(f"bundle {str(bundle)!r} has no configs/inference.json: give a bundle's folder")
    others = other_settings(Path(weights), Path(bundle))
    if others:
        raise ValueError(f"{weights} was trained with other {', '.join(others)} than {bundle} has: they would not ship")
    parser = ConfigParser()
    parser.read_config(config)
    network = load_weights(parser.get_parsed_content("network_def"), weights)
    content: Any = read_weights(weights)  # changed in place, which keeps its metadata
    if logit_shift:
        if OUTPUT_BIAS not in content or content[OUTPUT_BIAS].numel() != 1:
            raise ValueError(f"logit_shift is {logit_shift}, expected 0: {weights} has no {OUTPUT_BIAS} of one logit")
        content[OUTPUT_BIAS] += logit_shift
    for name, _ in network.named_parameters():
        content[name] = content[name].half()
    check_finite(content, f"{weights} in half precision")
    shipped.parent.mkdir(exist_ok=True)
    save_whole(content, shipped)
    return file_facts(shipped)


def file_facts(path: str | os.PathLike) -> dict[str, Any]:
    """What a file of weights is: sha256, bytes, and the number of its parameters that are in half precision."""
    halved = [tensor for tensor in read_weights(path).values() if tensor.dtype == torch.float16]
    return {
        "sha256": digest(Path(path)),
        "bytes": Path(path).stat().st_size,
        "float16_parameters": sum(tensor.numel() for tensor in halved),
    }
