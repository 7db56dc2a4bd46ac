"""Prompts from a command line to a mask of one scan: files in, files out, round `rep3d.interactive.correct`."""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.inferers import Inferer
from torch import nn

from rep3d.data.cases import POSTFIX
from rep3d.data.checks import image_problem, label_problem
from rep3d.data.notes import warn_once
from rep3d.evaluation.correction_picture import draw_planes
from rep3d.interactive import prompts as show
from rep3d.interactive.correction import Correction, correct
from rep3d.interactive.grid import Grid
from rep3d.interactive.prompts import Prompt, check_inside
from rep3d.interactive.scene import Scene
from rep3d.interactive.working_grid import SIZE
from rep3d.io.geometry import Geometry, VolumeError, agreement_problem, geometry_note, voxel_ml
from rep3d.io.nifti import CLICKED, digest, scan_of, write_marked
from rep3d.io.scans import read_scan
from rep3d.io.volumes import read_geometry, read_volume, split_suffix

logger = logging.getLogger(__name__)

POSITIONS = ("voxels", "ras")


def correct_scan(
    network: nn.Module,
    inferer: Inferer,
    image: str | os.PathLike,
    output_dir: str | os.PathLike,
    *,
    foreground: Any = None,
    background: Any = None,
    box: Any = None,
    previous: str | os.PathLike | None = None,
    taken: str | os.PathLike | None = None,
    positions: str = "voxels",
    size: int = SIZE,
    device: str | torch.device = "cpu",
) -> Path:
    """Segment what prompts show in a scan, and tell what was found.

    Writes NAME_seg.nii.gz, the mask on the scan's own grid, and NAME_seg.png, three planes with prompts and mask.

    Args:
        network: deployed.
        inferer: how it is run, as in its training.
        image: a NIfTI or NRRD file, or the folder of a DICOM series.
        output_dir: receives both files.
        foreground: positions [i, j, k] in the structure.
        background: positions that are not.
        box: two opposite corners of a box round the structure.
        previous: file of the mask to correct, a label map on the scan's grid; what is not 0 belongs to it.
        taken: file of a label map of other structures, on the scan's grid; none of its voxels joins the mask.
        positions: "voxels", in the order of the file's own array, from 0; "ras", millimetres as 3D Slicer shows them.
            A box along those directions becomes the smallest one along the scan's axes that holds it.
        size: voxels of the working grid along each axis.
        device: of the network.

    Returns:
        The path of the mask.

    Raises:
        ValueError: no prompts, or one that is none or lies outside; a file that cannot be used; in the mask's place one
            of another scan or one that was changed by others, or a label map of `rep3d.predictions`.
        FileNotFoundError: a file is missing.
    """
    path = _existing(image, "image")
    voxels, geometry = _read_scan(path)
    prompts = _prompts(geometry, positions, box=box, foreground=foreground, background=background)
    own = digest(voxels)
    target = _target(path, geometry, own, Path(output_dir))
    masks = [None if file is None else _read_mask(file, name, path, geometry, own)
             for name, file in (("previous", previous), ("taken", taken))]  # fmt: skip
    started = time.perf_counter()
    scan = torch.from_numpy(voxels)
    scene = Scene(
        lambda channels: inferer(channels.to(device), network),
        scan,
        _spacing(geometry),
        taken=masks[1],
        size=size,
        tiles=sys.maxsize,
    )
    with torch.inference_mode():
        answer = correct(scene, prompts, new=len(prompts), previous=masks[0])
    _tell(answer, geometry, time.perf_counter() - started)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_marked(answer.mask.numpy().astype(np.uint8), geometry, target, CLICKED, own)
    picture = target.with_name(f"{_name(path)}{POSTFIX}.png")
    draw_planes(scan, geometry.affine, answer.mask, prompts, picture)
    logger.info("mask: %s, picture: %s", os.path.abspath(target), os.path.abspath(picture))
    return target


class ScanCorrector:
    """`correct_scan` as the `evaluator` of a bundle, with whose `run` MONAI's tools start an inference.

    Args:
        network: as of `correct_scan`.
        inferer: likewise.
        dataset: items {"image": path, "previous": path or None, "taken": path or None}.
        **options: others of `correct_scan`.
    """

    def __init__(
        self, network: nn.Module, inferer: Inferer, dataset: Iterable[Mapping[str, Any]], **options: Any
    ) -> None:
        self.network, self.inferer, self.dataset, self.options = network, inferer, dataset, options

    def run(self) -> None:
        """Segment what the prompts show in each item."""
        for item in self.dataset:
            correct_scan(self.network, self.inferer, **item, **self.options)


def _existing(path: str | os.PathLike, name: str) -> Path:
    if not Path(path).exists():
        raise FileNotFoundError(f"{name} {str(path)!r} does not exist: give a scan's file, or the folder of a series")
    return Path(path)


def _target(image: Path, grid: Geometry, scan: bytes, folder: Path) -> Path:
    """The file of the mask.

    Raises:
        ValueError: there is a mask of another scan of that name, or a label map with a file that names its labels.
    """
    target = folder / f"{_name(image)}{POSTFIX}.nii.gz"
    names = target.with_name(f"{_name(image)}{POSTFIX}.json")
    if not target.exists():
        return target
    problem = agreement_problem(read_geometry(target), grid) or _voxel_problem(target, scan)
    if problem:
        raise ValueError(f"{target} is of another scan than {image} ({problem}): give another output_dir")
    if names.exists():
        raise ValueError(
            f"{target}: a label map whose labels {names.name} names, and so not replaced: give another output_dir"
        )
    return target


def _read_scan(path: Path) -> tuple[np.ndarray, Geometry]:
    voxels, geometry = read_scan(path)
    problem = image_problem(voxels)
    if problem:
        raise VolumeError(path, problem)
    warn_once(str(path), geometry_note(geometry))
    return voxels, geometry


def _voxel_problem(mask: Path, scan: bytes) -> str:
    """Whether a mask tells that it is of another scan on the same grid, in words, or an empty text."""
    return "the scan that it was drawn on has other voxels" if scan_of(mask) not in (b"", scan) else ""


def _read_mask(file: str | os.PathLike, name: str, image: Path, grid: Geometry, scan: bytes) -> torch.Tensor:
    path = _existing(file, name)
    voxels, geometry = read_volume(path)
    problem = agreement_problem(geometry, grid)
    if problem:
        raise VolumeError(path, f"{problem} {image}")
    if problem := _voxel_problem(path, scan):
        raise VolumeError(path, f"is no mask of {image}: {problem}")
    problem = label_problem(np.unique(voxels), None)
    if problem:
        raise VolumeError(path, problem)
    return torch.from_numpy(voxels != 0)


def _prompts(geometry: Geometry, positions: str, **given: Any) -> list[Prompt]:
    """The prompts in the order of the arguments, a box first."""
    if positions not in POSITIONS:
        raise ValueError(f"positions is {positions!r}, expected one of {', '.join(POSITIONS)}")
    scan = Grid.of_scan(geometry.shape, _spacing(geometry))
    prompts = []
    for name, value in given.items():
        for prompt in _prompts_of(name, value, geometry, positions):
            check_inside(prompt, scan, f"{name} {value}")
            prompts.append(prompt)
    if not prompts:
        raise ValueError('no prompt: expected --foreground "[[i,j,k],...]", --background or --box "[[i,j,k],[i,j,k]]"')
    return prompts


def _prompts_of(name: str, value: Any, geometry: Geometry, positions: str) -> Iterator[Prompt]:
    if value is None:
        return
    if not isinstance(value, list | tuple) or not all(map(_is_position, value)):
        raise ValueError(f"{name} is {value!r}, expected a list of positions, each of three numbers: [[i,j,k],...]")
    spacing = _spacing(geometry)
    if name == "box" and len(value) != 2:
        raise ValueError(f"box is {value!r}, expected two positions, its opposite corners: [[i,j,k],[i,j,k]]")
    corners = value if name != "box" else product(*zip(*value, strict=True))  # all eight: a scan may lie askew
    voxels = [position if positions == "voxels" else _from_ras(position, geometry) for position in corners]
    if name == "box":
        yield show.box(np.min(voxels, axis=0), np.max(voxels, axis=0), spacing)
    else:
        yield from (show.point(voxel, spacing, name == "foreground") for voxel in voxels)


def _is_position(value: object) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 3
        and all(isinstance(n, int | float) and not isinstance(n, bool) and math.isfinite(n) for n in value)
    )


def _from_ras(position: Sequence[float], geometry: Geometry) -> list[float]:
    """The voxel, and parts of one, at a position in millimetres as ITK, and so 3D Slicer, places the scan."""
    affine = geometry.affine if geometry.itk_affine is None else geometry.itk_affine
    return nib.affines.apply_affine(np.linalg.inv(affine), position).tolist()


def _spacing(geometry: Geometry) -> list[float]:
    return nib.affines.voxel_sizes(geometry.affine).tolist()


def _name(path: Path) -> str:
    return path.resolve().name if path.is_dir() else split_suffix(path.name)[0]


def _tell(answer: Correction, geometry: Geometry, seconds: float) -> None:
    count = int(answer.mask.sum())
    edge, size = answer.grid.spacing[0], answer.grid.shape[0]
    logger.info(
        "found %.4g ml, %d voxels, in %.2f s on a working grid of %d voxels of %.3g mm along each axis",
        count * voxel_ml(geometry.affine), count, seconds, size, edge,
    )  # fmt: skip
    for prompt in answer.locked:
        voxel = [round(p / s) for p, s in zip(prompt.positions[0], _spacing(geometry), strict=True)]
        logger.warning("the point at voxel %s has no effect: it lies in a taken voxel", voxel)
