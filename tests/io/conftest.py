import importlib.util

if importlib.util.find_spec("highdicom") is None:
    collect_ignore = [
        "test_dicom.py",
        "test_dicom_folders.py",
        "test_dicom_seg.py",
        "test_dicom_values.py",
        "test_nrrd.py",
        "test_segments.py",
        "test_volumes.py",
    ]  # they need the extra `dicom`
