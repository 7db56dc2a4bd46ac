import pytest
import torch

from rep3d import Rep3D, reparameterize
from rep3d.networks.weights import differences
from rep3d.training.checkpoints import load_weights


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"kernel_size": 7}, "kernel size 7 in the weights, 5 in the network"),
        ({"feature_size": (8, 8, 8, 8)}, "feature sizes (8, 8, 8, 8) in the weights, (4, 8, 8, 8) in the network"),
        ({"hidden_size": 32}, "hidden size 32 in the weights, 16 in the network"),
        ({"modulation": "csla"}, "modulation csla in the weights, lrbm in the network"),
        ({"modulation": "fixed"}, "modulation fixed in the weights, lrbm in the network"),
        ({"modulation": "none"}, "modulation none in the weights, lrbm in the network"),
    ],
)
def test_a_checkpoint_of_another_rep3d(change, told, tiny_rep3d, tmp_path):
    torch.save(tiny_rep3d(**change).state_dict(), tmp_path / "a.pt")
    with pytest.raises(ValueError) as raised:
        load_weights(tiny_rep3d(), tmp_path / "a.pt")
    message = str(raised.value)
    assert message.startswith(f"{tmp_path / 'a.pt'}: the weights are of another network: {told}; ")
    assert len(message) < 500 and "\n" not in message


def test_other_classes_and_channels():
    small = {"feature_size": (4, 4, 4, 4), "hidden_size": 8, "kernel_size": 3}
    told = differences(Rep3D(2, 16, **small).state_dict(), Rep3D(1, 3, **small).state_dict())
    assert told.startswith(
        "classes 16 in the weights, 3 in the network; input channels 2 in the weights, 1 in the network; "
    )


def test_other_networks(tiny_rep3d):
    own = tiny_rep3d().state_dict()
    linear = torch.nn.Linear(2, 3).state_dict()
    assert differences(linear, own).startswith("numbers in all 9 in the weights, ")
    assert "tensors are in the network only, such as bottom.layer" in differences(linear, own)
    assert "tensors are in the network only, such as encoder" in differences(
        reparameterize(tiny_rep3d()).state_dict(), own
    )
    same_size = {"weight": torch.zeros(2, 3), "bias": torch.zeros(3)}
    assert differences(linear, same_size) == "weight (3, 2) in the weights, (2, 3) in the network"


def test_no_difference(tiny_rep3d):
    assert differences(tiny_rep3d().state_dict(), tiny_rep3d().state_dict()) == ""
