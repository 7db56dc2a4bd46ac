"""The methods that follow clicks, or make a start for them, as `rep3d.evaluation.clicks` takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.inferers import SimpleInferer

from rep3d.evaluation.click_cases import Case, Labels, read_ras
from rep3d.evaluation.clicks import Segment
from rep3d.interactive.correction import correct
from rep3d.interactive.cubes import cube_edge
from rep3d.interactive.prompts import Prompt
from rep3d.interactive.scene import Network, Scene
from rep3d.interactive.working_grid import CROP, GROWTH, LEAVING, RIM, SHARE, SIZE
from rep3d.shipped import overlays_of
from rep3d.training.checkpoints import load_deployed

ALL_TILES = 10_000  # the whole answer, of which the rest may come later where somebody waits
CORRECTING = {
    "growth": GROWTH,
    "rim": RIM,
    "share": SHARE,
    "leaving": LEAVING,
    "crop": CROP,
}  # by which results are told from others


def ours(network: Network, size: int = SIZE) -> Segment:
    """`rep3d.interactive.correction.correct` with a network, on a working grid of `size` voxels along each axis."""

    def segment(
        image: torch.Tensor, spacing: Sequence[float], prompts: Sequence[Prompt], previous: torch.Tensor
    ) -> torch.Tensor:
        scene = Scene(network, image, spacing, size=size, tiles=ALL_TILES)
        with torch.inference_mode():
            return correct(scene, prompts, previous=previous).mask

    return segment


def load_ours(config: Path, weights: Path, device: torch.device) -> Segment:
    """`ours` with the network of a bundle.

    Args:
        config: the bundle's inference.json, or another file with "network_def" and where it differs from what
            `rep3d.interactive` takes by itself with "inferer" and "patch_size".
        weights: a training checkpoint; what its training was told counts more than the file.
        device: of the network.

    Raises:
        ValueError: no "network_def", or weights of another network.
        FileNotFoundError: a file is not there.
    """
    for path in (config, weights):
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file")
    parser = ConfigParser()
    parser.read_config([str(path) for path in (config, *overlays_of(weights))])
    told: Any = parser.config
    if "network_def" not in told:
        raise ValueError(f"{config}: defines no 'network_def'")
    if "imports" in told:
        parser.get_parsed_content("imports")
    network = load_deployed(parser.get_parsed_content("network_def"), weights).to(device)
    inferer = parser.get_parsed_content("inferer") if "inferer" in told else SimpleInferer()
    size = cube_edge(parser.get_parsed_content("patch_size")) if "patch_size" in told else SIZE
    return ours(lambda channels: inferer(channels.to(device), network), size)


class FromLabelMaps:
    """Starts from label maps that an automatic method made, one file per case, on the scan's grid.

    Args:
        path_of: by case.
    """

    def __init__(self, path_of: Mapping[str, Path]) -> None:
        self.path_of = path_of

    def __call__(self, case: Case, labels: Labels) -> dict[str, torch.Tensor]:
        path = self.path_of[case.name]
        voxels, _ = read_ras(path)
        if voxels.shape != case.label.shape:
            expected = f"that of {case.path}, {tuple(case.label.shape)}"
            raise ValueError(f"{path}: has the shape {tuple(voxels.shape)}, expected {expected}")
        return {label: torch.isin(voxels, torch.tensor(ids)) for label, ids in labels.items()}
