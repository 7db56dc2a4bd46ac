import pickle

import nibabel as nib
import numpy as np
import pytest

from rep3d.io.geometry import (
    TooLargeError,
    VolumeError,
    agreement_problem,
    agrees_in_itk,
    check_geometry,
    displacement,
    plain_geometry,
)

SHAPE = (40, 50, 60)


def turned(degrees: float, size: float = 1.0) -> np.ndarray:
    """An affine (4, 4) turned about the third axis."""
    return nib.affines.from_matvec(nib.eulerangles.euler2mat(z=np.deg2rad(degrees)) * size)


def moved(*millimetres: float) -> np.ndarray:
    return nib.affines.from_matvec(np.eye(3), millimetres)


def test_displacement_is_in_voxels_of_the_smaller_edge():
    assert displacement(SHAPE, np.eye(4), np.eye(4)) == 0
    assert displacement(SHAPE, np.eye(4), moved(0, 3, 4)) == pytest.approx(5)
    sizes = np.diag([2.0, 2.0, 0.5, 1.0])
    assert displacement(SHAPE, sizes, moved(0, 3, 4) @ sizes) == pytest.approx(10)


@pytest.mark.parametrize(
    ("affine", "agrees"),
    [
        (moved(0.09, 0, 0), True),
        (moved(0.11, 0, 0), False),
        (turned(0.05), True),  # 0.06 voxels at the far corner
        (turned(0.5), False),  # no element differs by 0.01
        (np.diag([1, 1, 1.001, 1]), True),
        (np.diag([1, 1, 1.01, 1]), False),
    ],
)
def test_agreement(affine, agrees):
    problem = agreement_problem(plain_geometry(SHAPE, affine), plain_geometry(SHAPE, np.eye(4)))
    assert (not problem) == agrees
    assert agrees or "voxels at a corner" in problem


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, 1), (-1, -1, 1), (1, -1, -1), (-1, -1, -1)], ids=str)
def test_either_hand_will_do(signs):
    """Such as of LAS, whose determinant is negative."""
    check_geometry("a.nii", plain_geometry(SHAPE, np.diag([*signs, 1.0]) @ turned(20)))


@pytest.mark.parametrize("voxel", [0.009, 1e-4])
def test_a_mirror_image_of_small_voxels_does_not_agree(voxel):
    """All elements of micro-CT's affines are below a tolerance in millimetres."""
    affine = np.diag([voxel, voxel, voxel, 1.0])
    mirrored = affine.copy()
    mirrored[0] = -voxel, 0, 0, 39 * voxel
    geometry = plain_geometry(SHAPE, affine)
    check_geometry("a.nii", geometry)
    assert agreement_problem(plain_geometry(SHAPE, mirrored), geometry)


def test_one_slice_may_not_be_turned_over():
    assert agreement_problem(
        plain_geometry((40, 50, 1), np.diag([1, 1, -5, 1])), plain_geometry((40, 50, 1), np.eye(4))
    )


def test_shapes_that_differ():
    problem = agreement_problem(plain_geometry((4, 5, 6), np.eye(4)), plain_geometry((4, 5, 7), np.eye(4)))
    assert problem == "shape (4, 5, 6) differs from (4, 5, 7) of its image"


def test_where_all_readers_agree_itk_decides_nothing():
    image, label = plain_geometry(SHAPE, np.eye(4)), plain_geometry(SHAPE, moved(9, 0, 0))
    assert not agrees_in_itk(label, image) and not agrees_in_itk(image, image)


@pytest.mark.parametrize(
    ("geometry", "message"),
    [
        (plain_geometry((4, 5), np.eye(4)), r"shape \(4, 5\), expected three dimensions"),
        (plain_geometry((4, 0, 5), np.eye(4)), "expected three dimensions"),
        (plain_geometry(SHAPE, np.diag([1.0, 1, 0, 1])), "singular"),
        (plain_geometry(SHAPE, np.full((4, 4), np.nan)), "singular"),
        (plain_geometry(SHAPE, [[1, 1, 0, 0], [1, 1 + 1e-9, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "singular"),
        (plain_geometry(SHAPE, np.eye(4), np.complex64), r"complex numbers \(complex64\)"),
        (plain_geometry(SHAPE, np.eye(4), [("R", "u1"), ("G", "u1"), ("B", "u1")]), "colours"),
    ],
)
def test_geometries_that_no_network_can_take(geometry, message):
    with pytest.raises(VolumeError, match=f"^a.nii: .*{message}"):
        check_geometry("a.nii", geometry)


def test_the_limit_counts_bytes():
    check_geometry("a.nii", plain_geometry((10, 10, 10), np.eye(4), np.uint8), max_bytes=1000)
    with pytest.raises(TooLargeError, match="10 x 10 x 10 voxels of float64 take"):
        check_geometry("a.nii", plain_geometry((10, 10, 10), np.eye(4), np.float64), max_bytes=1000)


def test_an_error_survives_another_process():
    error = pickle.loads(pickle.dumps(VolumeError("a.nii", "is bad")))
    assert (str(error), error.reason) == ("a.nii: is bad", "is bad")
