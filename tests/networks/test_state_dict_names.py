"""Checkpoints of earlier versions load: names, shapes and order of what a state dict holds are as recorded."""

import hashlib

import pytest

from rep3d.networks.rep3d import BLOCK_ORDERS

# Tensors, and the digest of their names, shapes and types.
TRAINING = {
    "lrbm": (161, "96ac106ace22c5ea"),
    "fixed": (113, "f9439cb737ef4f5c"),
    "none": (105, "bddc9e03d480e7dc"),
    "csla": (113, "25da2337f6210181"),
}
DEPLOYED = {"conv-norm-act": (73, "de92c8c6f7011d54"), "norm-conv-act": (81, "51d167cb92bd6cb5")}


def recorded(network):
    lines = [f"{name} {tuple(tensor.shape)} {tensor.dtype}" for name, tensor in network.state_dict().items()]
    return len(lines), hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


@pytest.mark.parametrize("block_order", BLOCK_ORDERS)
@pytest.mark.parametrize("modulation", TRAINING)
def test_as_recorded(modulation, block_order, tiny_rep3d):
    arguments = {"modulation": modulation, "block_order": block_order}
    assert recorded(tiny_rep3d(**arguments)) == TRAINING[modulation]
    assert recorded(tiny_rep3d(**arguments, use_checkpoint=True)) == TRAINING[modulation]
    assert recorded(tiny_rep3d(**arguments, deploy=True)) == DEPLOYED[block_order]


def test_some_names(tiny_rep3d):
    names = tiny_rep3d().state_dict().keys()
    assert {
        "encoder.downsamples.0.0.weight",
        "encoder.stages.3.1.mask.convs.1.weight",
        "skip1.layer.conv1.conv.weight",
        "up4.transp_conv.conv.weight",
        "up1.conv_block.conv3.conv.weight",
        "out.conv.conv.bias",
    } <= names
