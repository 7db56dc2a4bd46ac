"""`LabelMapInferer` gives the network the very windows of MONAI's `SlidingWindowInferer`, and weighs them alike."""

import pytest
import torch
from monai.inferers import SlidingWindowInferer
from torch import nn

from rep3d.inferers import LabelMapInferer


class Watched(nn.Module):
    """Four classes from the neighbourhood of a voxel; remembers the windows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.windows.append(x.clone())
        return self.conv(x)


@pytest.mark.parametrize(
    "arguments",
    [
        {"overlap": 0.3},  # steps of 2.8 voxels
        {"overlap": 0.95},  # of less than one
        {"overlap": 0.5, "mode": "gaussian", "sigma_scale": 0.4},
        {"overlap": (0.2, 0.5, 0.3), "mode": "gaussian", "sigma_scale": (0.1, 0.2, 0.6)},
        {"cval": 3.0},
        {"padding_mode": "replicate"},
    ],
    ids=str,
)
def test_windows_of_monai(arguments):
    network, x, windows, label_maps = Watched(), torch.randn(1, 1, 3, 7, 9), [], []
    for kind in (SlidingWindowInferer, LabelMapInferer):
        network.windows = []
        with torch.no_grad():
            label_maps.append(kind((4, 4, 4), **arguments)(x, network))
        windows.append(torch.cat(network.windows))
    assert torch.equal(*windows)
    assert torch.equal(label_maps[0].argmax(1, keepdim=True), label_maps[1].long())


def test_as_many_classes_as_a_byte_holds():
    def last_of(classes):
        scores = torch.arange(classes, dtype=torch.float32).view(1, -1, 1, 1, 1)
        return lambda x: scores.expand(len(x), -1, *x.shape[2:])

    with torch.no_grad():
        assert (LabelMapInferer((2, 2, 2))(torch.zeros(1, 1, 2, 2, 2), last_of(256)) == 255).all()
        with pytest.raises(ValueError, match="holds 256 classes, the network gives 257"):
            LabelMapInferer((2, 2, 2))(torch.zeros(1, 1, 2, 2, 2), last_of(257))
        with pytest.raises(ValueError, match="the network gives 1 class, expected the background and at least one"):
            LabelMapInferer((2, 2, 2))(torch.zeros(1, 1, 2, 2, 2), last_of(1))
