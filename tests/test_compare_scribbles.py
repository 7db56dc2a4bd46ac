"""Scribbles of people and of the simulated user side by side."""

import compare_scribbles as script
import numpy as np
import pytest


def test_a_table_of_both(tmp_path, capsys):
    label = np.zeros((64, 64), np.float32)
    label[20:44, 16:50] = 1
    scribble = np.zeros((2, 64, 64), np.float32)
    scribble[0, 32, 20:46] = scribble[0, 24:26, 24:30] = 1  # two strokes on the label
    scribble[1, 5, 5:30] = 1  # and one on the rest
    (tmp_path / "organ/case").mkdir(parents=True)
    np.save(tmp_path / "organ/case/seg.npy", label)
    np.save(tmp_path / "organ/case/scribble_0.npy", scribble)
    script.main(str(tmp_path))
    first, _, *lines = capsys.readouterr().out.strip().splitlines()
    assert first == "1 image(s), 2 strokes"
    inside = lines[-1].strip("| ").split(" | ")
    assert inside[1] == "100" and float(inside[2].split()[0]) > 90


def test_no_masks(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no seg.npy"):
        script.main(str(tmp_path))
