import numpy as np
import pytest

from rep3d.data.notes import channel_windows, image_note, intensity_note, modality_note, warn_once

CT, HEPATIC, MR = (-125, 275), (0, 230), (0, 1000)


def body(air, inside, *, air_share=0.8, seed=0):
    """A volume of noisy air around a body of some mean intensities, in equal parts."""
    rng = np.random.default_rng(seed)
    voxels = rng.normal(air, 20, 40**3)
    count = int(voxels.size * (1 - air_share))
    voxels[:count] = rng.normal(0, 20, count) + np.resize(inside, count)
    return voxels.reshape(40, 40, 40).astype(np.float32)


@pytest.mark.parametrize(
    ("voxels", "window"),
    [
        (body(-1000, [-100, 40, 60]), CT),
        (body(-1000, [-100, 40, 60], air_share=0.97), CT),  # a small patient in a big field of view
        (body(-2048, [-100, 40, 900], air_share=0.7), CT),  # padding outside the scanner's circle
        (body(-1000, [-100, 40, 60, 110]), HEPATIC),  # fat is outside
        (body(10, [300, 500, 900]), MR),
        (body(0, [100, 200, 300]), None),
        (np.zeros((4, 4, 4), np.uint8), None),
    ],
)
def test_nothing_is_said_of_good_scans(voxels, window):
    assert intensity_note(voxels, window) == ""


@pytest.mark.parametrize(
    ("voxels", "window", "words"),
    [
        (
            body(0, [900, 1064, 1100]),
            CT,
            "more than 90% of those above the mean lie outside the window",
        ),  # without -1024
        (body(50, [1500, 3000, 5000]), MR, "lie outside the window"),  # a bright MRI
        (body(-1000, [-700, -800]), CT, "lie outside the window"),
        (body(-1000, [40]) / 2000 + 0.5, CT, "nearly all contrast is lost"),  # scaled to 0-1
        (np.full((4, 4, 4), -1000, np.int16), CT, "nearly all contrast is lost"),  # air
    ],
)
def test_what_is_said_of_a_window(voxels, window, words):
    note = intensity_note(voxels, window)
    assert words in note and f"window is {window[0]} to {window[1]}" in note


@pytest.mark.parametrize("extreme", [1e9, -1e9])
def test_one_voxel_that_decides_the_z_score(extreme):
    voxels = body(0, [100, 200, 300])
    voxels[3, 4, 5] = extreme
    assert f"one voxel of {extreme:g} has more than half of the variance" in intensity_note(voxels, None)
    voxels[3, 4, 5] = 2000  # a bright vessel does not
    assert intensity_note(voxels, None) == ""


def test_each_file_is_named_once(caplog):
    for path in ("x/a.nii.gz", "x/b.nii.gz", "x/a.nii.gz"):
        warn_once(path, "is odd")
    warn_once("x/c.nii.gz", "")
    assert [record.getMessage() for record in caplog.records] == ["x/a.nii.gz: is odd", "x/b.nii.gz: is odd"]


def test_a_label_map_in_the_place_of_a_scan():
    drawing = np.zeros((1, 8, 8, 8), np.float32)
    assert image_note(drawing, [None]) == ""  # air
    drawing[:, :3] = 7
    assert "is it a label map?" in image_note(drawing, [None]) and "is it a label map?" in image_note(drawing, [CT])
    scan = body(0, [100, 200, 300])[None, :8, :8, :8]
    assert image_note(np.concatenate([drawing, scan]), [None, None]) == ""  # a channel may be drawn
    assert image_note(drawing / 10, [None]) == ""


@pytest.mark.parametrize(
    ("modality", "air", "share", "told"),
    [
        ("MR", -1000, 0.8, True),
        ("MR", -1000, 0.02, True),  # a CT that was cropped to the body
        ("PET", -1000, 0.8, True),
        ("MR", -1000, 0.005, False),
        ("MR", 0, 0.8, False),
        ("CT", -1000, 0.8, False),
        ("CT and MR", -1000, 0.8, False),
        (None, -1000, 0.8, False),
    ],
)
def test_a_ct_for_a_bundle_of_another_modality(modality, air, share, told):
    scan = body(air, [-50, 40, 60], air_share=share)[None]
    note = modality_note(np.concatenate([abs(scan), scan]), modality)
    assert (f"as the air of a CT does: the bundle is of {modality}" in note) == told == bool(note)


@pytest.mark.parametrize(
    ("window", "channels", "expected"),
    [
        (None, 2, [None, None]),
        ([-125, 275], 2, [[-125, 275]] * 2),
        ((0.5, 1), 1, [(0.5, 1)]),
        ([[-125, 275], None], 2, [[-125, 275], None]),
    ],
)
def test_the_windows_of_channels(window, channels, expected):
    assert channel_windows(window, channels) == expected


@pytest.mark.parametrize(
    ("window", "channels"),
    [
        ([275, -125], 1),  # would invert the image
        ([100, 100], 1),
        ([0, float("inf")], 1),
        ([0, float("nan")], 1),
        ([0, 100, 200], 1),
        ([], 1),
        (100, 1),
        ("CT", 2),
        ([[275, -125], None], 2),
        ([None, 100], 2),
    ],
)
def test_windows_that_are_none(window, channels):
    with pytest.raises(ValueError) as error:
        channel_windows(window, channels)
    assert str(error.value) == f"intensity_window is {window!r}, expected the lower first, of two finite numbers"


def test_a_window_for_each_of_another_number_of_channels():
    with pytest.raises(ValueError, match=r"expected \[lowest, highest\] or null for 3 channel\(s\)"):
        channel_windows([[-125, 275], None], 3)
