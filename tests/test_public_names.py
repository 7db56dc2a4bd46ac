import rep3d


def test_public_names():
    assert sorted(rep3d.__all__) == [
        "Rep3D",
        "checkpoints",
        "checks",
        "convert_official_state_dict",
        "data",
        "depthwise_conv3d",
        "errors",
        "inference",
        "inferers",
        "logs",
        "options",
        "reparameterize",
        "tensorboard",
        "training",
        "transforms",
    ]
    assert all(hasattr(rep3d, name) for name in rep3d.__all__)
