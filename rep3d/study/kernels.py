"""How kernels learn: receptive fields and masks of a trained bundle, and learning rates by element of trainings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from monai.utils import set_determinism
from torch import nn

from rep3d.evaluation.kernel_pictures import show_masks, show_receptive_fields, show_updates
from rep3d.evaluation.kernels import by_distance, effective_kernels, kernel_masks, receptive_fields
from rep3d.study.run import BundleRun, initialize_here, parse, scratch_folder
from rep3d.training.checkpoints import load_weights

FORMS = ("none", "csla", "rep_optimizer", "fixed", "lrbm")  # of the block; "rep_optimizer" scales gradients of "none"
OPTIMIZERS = ("SGD", "AdamW")


def show_trained(
    bundle: Path, dataset_dir: str, output: Path, checkpoint: str | None, patches: int, overlays: Sequence[str] = ()
) -> None:
    """Pictures and tables of a network's receptive fields, over patches of the training cases, and of its masks.

    Args:
        bundle: the bundle's folder.
        dataset_dir: its data.
        output: folder that receives them.
        checkpoint: weights of a training. None: the network as it starts.
        patches: as training crops them.
        overlays: config files, as of the training.

    Raises:
        ValueError: weights of another network, or one without `encoder.stages`.
    """
    overrides: dict[str, Any] = {"dataset_dir": dataset_dir, "cache_num": 0, "num_workers": 0}
    run = BundleRun(bundle, "training", ["train.json", *overlays], overrides)
    parser = parse(run)
    set_determinism(0)
    network: nn.Module = parser.get_parsed_content("network_def")
    if checkpoint is not None:
        load_weights(network, checkpoint)
    images = _patches(parser.get_parsed_content("train#dataset"), patches)
    set_determinism(None)
    show_receptive_fields(receptive_fields(network, images), output)
    masks = kernel_masks(network)
    if masks:
        show_masks(masks, output)


def show_learning(
    bundle: Path,
    dataset_dir: str,
    output: Path,
    steps: int,
    forms: Sequence[str] = FORMS,
    optimizers: Sequence[str] = OPTIMIZERS,
    overrides: dict[str, Any] | None = None,
) -> None:
    """A picture and a table of how far the elements of the kernels move per step, by form of the block and optimizer.

    Args:
        bundle: the bundle's folder; its network is a `rep3d.Rep3D`.
        dataset_dir: its data.
        output: folder that receives them.
        steps: of each training; all start from the same seed.
        forms: some of FORMS.
        optimizers: classes of `torch.optim`.
        overrides: values by config id, such as of a smaller network.

    Raises:
        ValueError: an unknown form, or no steps.
    """
    if not set(forms) <= set(FORMS):
        raise ValueError(f"forms is {list(forms)}, expected some of {', '.join(FORMS)}")
    if steps < 1:
        raise ValueError(f"steps is {steps}, expected at least 1")
    profiles = {}
    for optimizer in optimizers:
        for form in forms:
            settings = {"dataset_dir": dataset_dir, **(overrides or {}), **_training(form, optimizer, steps)}
            profiles[optimizer, form] = _update_sizes(bundle, settings, steps)
    show_updates(profiles, output)


def _patches(dataset: Sequence[Any], count: int) -> list[torch.Tensor]:
    """Images (1, C, D, H, W) of as many training patches; cases come again where there are fewer."""
    found: list[torch.Tensor] = []
    while len(found) < count:
        for i in range(len(dataset)):
            found += [crop["image"][None] for crop in _as_list(dataset[i])]
    return found[:count]


def _as_list(crops: Any) -> list[Any]:
    return crops if isinstance(crops, list) else [crops]


def _training(form: str, optimizer: str, steps: int) -> dict[str, Any]:
    plain = {
        "_target_": f"torch.optim.{optimizer}",
        "params": "$rep3d.training.parameter_groups(@network, weight_decay=0.0)",  # which moves elements by their size
        "lr": "@learning_rate",
    }
    scaled = {"_target_": "rep3d.training.scale_gradients", "optimizer": plain, "network": "@network_def"}
    return {
        "network_def#modulation": "none" if form == "rep_optimizer" else form,
        "optimizer": scaled if form == "rep_optimizer" else plain,
        "epochs": 1,
        "train#trainer#epoch_length": steps,
        "val_interval": 0,
        "cache_num": 0,
        "num_workers": 0,
    }


def _update_sizes(bundle: Path, settings: dict[str, Any], steps: int) -> list[float]:
    """Mean |change| of the effective kernels' elements per step, over steps, blocks and channels, by distance."""
    with scratch_folder() as folder:
        run = BundleRun(bundle, "training", ["train.json"], {**settings, "ckpt_dir": folder, "output_dir": folder})
        workflow = initialize_here(run)
        trainer = workflow.parser.get_parsed_content("train#trainer")
        network = workflow.parser.get_parsed_content("network_def")
        before = effective_kernels(network)
        sizes = [torch.zeros(kernel.shape[2:]) for kernel in before.values()]

        def add() -> None:
            after = effective_kernels(network)
            for size, name in zip(sizes, before, strict=True):
                size += (after[name] - before[name]).abs().mean((0, 1)).cpu() / steps
            before.update(after)

        trainer.add_event_handler(Events.ITERATION_COMPLETED, add)
        workflow.run()
        workflow.finalize()
    return by_distance(torch.stack(sizes).mean(0))
