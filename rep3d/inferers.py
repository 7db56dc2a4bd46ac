"""Mixed precision for any MONAI inferer, on CPU and CUDA alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import Inferer


def has_fast_bfloat16(device: torch.device | str) -> bool:
    """Whether bfloat16 is faster than float32 there: CUDA that supports it, and CPUs with AMX or AVX512-BF16."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities: dict = getattr(torch.cpu, "get_capabilities", dict)()  # absent before torch 2.12: then float32
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


class AutocastInferer(Inferer):
    """Runs an inferer under bfloat16 autocast where that is fast, and returns float32.

    MONAI's engines know autocast on CUDA only. bfloat16 has float32's range, so no gradient scaling is needed.

    Args:
        inferer: what calls the network.
        enabled: None: where bfloat16 is fast, see `has_fast_bfloat16`.
    """

    def __init__(self, inferer: Inferer, enabled: bool | None = None) -> None:
        super().__init__()
        self.inferer = inferer
        self.enabled = enabled

    def __call__(self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any) -> Any:
        enabled = has_fast_bfloat16(inputs.device) if self.enabled is None else self.enabled
        with torch.autocast(inputs.device.type, dtype=torch.bfloat16, enabled=enabled):
            return self.inferer(inputs, network, *args, **kwargs).float()
