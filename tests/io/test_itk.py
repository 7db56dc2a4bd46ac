import numpy as np
import pytest
import SimpleITK as sitk

from rep3d.io.itk import to_itk


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
@pytest.mark.parametrize("box", [(), (slice(None),), (slice(2, 5), slice(0, 3), slice(6, 9)), (4, 4, 4)])
def test_all_voxels_arrive_wherever_they_are(box, dtype):
    voxels = np.zeros((9, 7, 11), dtype)
    if box:
        voxels[box] = np.random.default_rng(0).integers(-3, 4, voxels[box].shape).astype(dtype)
    image = to_itk(voxels, np.diag([1, 2, 3, 1]))
    found = sitk.GetArrayFromImage(image).transpose()
    np.testing.assert_array_equal(found, voxels)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), voxels.transpose())
    assert found.dtype == dtype and image.GetSpacing() == (1, 2, 3)
