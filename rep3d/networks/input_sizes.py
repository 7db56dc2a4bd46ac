"""Which images a network takes, found mostly without computing: tensors on the meta device have shapes only."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
from monai.transforms import compute_divisible_spatial_size
from monai.utils import ensure_tuple_rep
from torch import nn

from rep3d.networks.arguments import check_positive

DIVISORS = (1, 2, 4, 8, 16, 32, 64)  # that are tried
_found: WeakKeyDictionary[nn.Module, int | None] = WeakKeyDictionary()  # divisors


def check_patch_size(network: nn.Module, in_channels: int, out_channels: int, patch_size: Sequence[int]) -> None:
    """Refuse patches that a network cannot train on, before it does.

    Args:
        network: asked by its own `check_input(x)` and `out_channels`, or else tried: (B, in_channels, *patch_size) ->
            logits (B, out_channels, *patch_size), or a list of which they are the first, as with deep supervision.
        in_channels: of the images.
        out_channels: classes, background included.
        patch_size: voxels, for each axis.

    Raises:
        ValueError: the network takes no such patches, or other channels; names the sizes and channels that work.
    """
    name, size = type(network).__name__, list(patch_size)
    for edge in size:
        check_positive(f"patch_size is {size}: every edge", edge)
    check_input = getattr(network, "check_input", None)
    try:
        if check_input is not None:
            check_input(torch.empty(1, in_channels, *size, device="meta"))
            shape = [1, getattr(network, "out_channels", out_channels), *size]
        else:
            shape = _tried_shape(network, in_channels, size)
    except Exception as error:
        channels = _input_channels(network)
        if channels and channels != in_channels:
            told = f"network_def, {name}, takes images of {channels} channel(s)"
            raise ValueError(f"{told}, expected in_channels = {in_channels}") from error
        expected = str(error) if check_input else _expected(network, size, error)
        raise ValueError(f"patch_size {size} does not fit {name}: {expected}") from error
    if shape[1] != out_channels:
        raise ValueError(f"network_def, {name}, gives {shape[1]} channel(s), expected out_channels = {out_channels}")
    if shape[2:] != size:
        raise ValueError(f"network_def, {name}, gives {shape[2:]} voxels for patches of {size}, expected as many")


def divisor_of(network: object) -> int | Sequence[int] | None:
    """Voxels, of which the edges of an input are multiples; None where that is not known.

    A network's own `divisor`, or else what is found by trying, up to 64. A network that is built for one size has none.
    """
    own = getattr(network, "divisor", None)
    if own is not None or not isinstance(network, nn.Module):
        return own
    if network not in _found:
        channels = _input_channels(network)
        _found[network] = next((d for d in DIVISORS if channels and _divides(network, channels, d)), None)
    return _found[network]


def takes(network: nn.Module, in_channels: int, size: Sequence[int]) -> bool:
    """Whether a network takes images of so many channels and voxels."""
    try:
        output_shape(network, in_channels, size)
    except Exception:
        return False
    return True


def output_shape(network: nn.Module, in_channels: int, size: Sequence[int]) -> list[int]:
    """Of the network's output, the first of several, for one image; raises what its forward pass raises."""
    shapes: dict[int, torch.Tensor] = {
        id(one): nn.Parameter(one.detach().to("meta"), one.requires_grad) for one in network.parameters()
    }
    shapes |= {id(one): one.detach().to("meta") for one in network.buffers()}
    return _first_shape(copy.deepcopy(network, shapes), torch.empty(1, in_channels, *size, device="meta"))


def _tried_shape(network: nn.Module, in_channels: int, size: Sequence[int]) -> list[int]:
    """`output_shape`, computed where the network asks for values, which tensors on the meta device have not."""
    try:
        return output_shape(network, in_channels, size)
    except Exception as error:
        if "meta" not in str(error):
            raise
    device = next((parameter.device for parameter in network.parameters()), None)
    return _first_shape(copy.deepcopy(network).eval(), torch.zeros(1, in_channels, *size, device=device))


def _first_shape(network: nn.Module, x: torch.Tensor) -> list[int]:
    with torch.no_grad():
        output = network(x)
    return list((output[0] if isinstance(output, list | tuple) else output).shape)


def _divides(network: nn.Module, in_channels: int, divisor: int) -> bool:
    """Whether it takes odd multiples: two of them, as some networks are built for one size."""
    return all(takes(network, in_channels, [multiple * divisor] * 3) for multiple in (3, 5))


def _input_channels(network: nn.Module) -> int | None:
    """Of the first convolution."""
    return next((parameter.shape[1] for parameter in network.parameters() if parameter.ndim == 5), None)


def _expected(network: nn.Module, size: Sequence[int], error: Exception) -> str:
    """In words, which sizes work; the deepest map of some networks has to have more than one voxel."""
    divisor, channels = divisor_of(network), _input_channels(network)
    for one in [divisor] if divisor else DIVISORS:
        divisors = ensure_tuple_rep(one, len(size))
        rounded = list(compute_divisible_spatial_size(size, divisors))
        for works in (rounded, [max(edge, 2 * d) for edge, d in zip(rounded, divisors, strict=True)]):
            if channels and takes(network, channels, works):
                example = f"multiples of {divisor}, such as" if divisor else "for example"
                return f"expected {example} {works}"
    return (str(error).splitlines() or [type(error).__name__])[0]
