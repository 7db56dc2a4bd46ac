import pytest
import torch

from rep3d import Rep3D, reparameterize
from rep3d.checkpoints import load_weights
from rep3d.weights import differences


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"kernel_size": 7}, "they have 7 kernel size, the network 5"),
        ({"feature_size": (8, 8, 8, 8)}, "they have (8, 8, 8, 8) feature sizes, the network (4, 8, 8, 8)"),
        ({"hidden_size": 32}, "they have 32 hidden size, the network 16"),
        ({"modulation": "csla"}, "they have csla modulation, the network lrbm"),
        ({"modulation": "fixed"}, "they have fixed modulation, the network lrbm"),
        ({"modulation": "none"}, "they have none modulation, the network lrbm"),
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
    assert told.startswith("they have 16 classes, the network 3; they have 2 input channel(s), the network 1; ")


def test_other_networks(tiny_rep3d):
    own = tiny_rep3d().state_dict()
    linear = torch.nn.Linear(2, 3).state_dict()
    assert differences(linear, own).startswith("they have 9 numbers in all, the network ")
    assert "of the network's tensors, such as bottom.layer" in differences(linear, own)
    assert "tensors, such as encoder" in differences(reparameterize(tiny_rep3d()).state_dict(), own)
    same_size = {"weight": torch.zeros(2, 3), "bias": torch.zeros(3)}
    assert differences(linear, same_size) == "weight has the shape (3, 2), in the network (2, 3)"


def test_no_difference(tiny_rep3d):
    assert differences(tiny_rep3d().state_dict(), tiny_rep3d().state_dict()) == ""
