import logging
import warnings

import pytest

from rep3d.console.logs import NOISY_LOGGERS, NOISY_RECORDS, end_log, file_only, filter_noise, start_log

logger = logging.getLogger("rep3d.somewhere")


@pytest.fixture(autouse=True)
def _closed(caplog):
    caplog.set_level("INFO")
    with warnings.catch_warnings():
        yield
    end_log()


def read(path):
    return path.read_text(encoding="utf-8")


def test_a_log_takes_what_is_said_and_what_only_it_is_told(tmp_path, capsys):
    start_log(tmp_path / "new", "run.log")
    logger.info("said")
    file_only.info("told")
    text = read(tmp_path / "new/run.log")
    assert "rep3d.somewhere - INFO - said\n" in text and " - told\n" in text
    assert text.splitlines()[0].endswith("pytest") or "started: " in text.splitlines()[0]
    assert "told" not in "".join(capsys.readouterr())


def test_a_second_run_of_a_process_has_its_own(tmp_path):
    for number in (1, 2):
        start_log(tmp_path, f"{number}.log")
        logger.info("run %d", number)
    assert "run 1" in read(tmp_path / "1.log") and "run 2" not in read(tmp_path / "1.log")
    assert "run 2" in read(tmp_path / "2.log")


def test_a_resumed_run_is_appended(tmp_path):
    for number in (1, 2):
        start_log(tmp_path, "run.log")
        logger.info("run %d", number)
    assert read(tmp_path / "run.log").index("run 1") < read(tmp_path / "run.log").index("run 2")


def test_other_ranks_have_none(tmp_path):
    start_log(tmp_path, "run.log", writes=False)
    logger.info("said")
    assert list(tmp_path.iterdir()) == []


def test_a_log_that_cannot_be_written(tmp_path, caplog):
    (tmp_path / "file").touch()
    start_log(tmp_path / "file/folder", "run.log")
    assert "this run has no log file: " in caplog.text


def test_noise_is_filtered_and_nothing_else():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        filter_noise()
        warnings.warn(
            "monai.transforms.spatial.dictionary Orientationd.__init__:labels: Current default value of", stacklevel=1
        )
        warnings.warn(
            "monai.transforms.spatial.dictionary Spacingd.__init__:labels: Current default value of", stacklevel=1
        )
    assert [str(warning.message)[36:44] for warning in caught] == ["Spacingd"]
    for name in NOISY_LOGGERS:
        assert not logging.getLogger(name).isEnabledFor(logging.WARNING)
    assert logging.getLogger("monai.data").isEnabledFor(logging.WARNING)
    for name, text in NOISY_RECORDS.items():
        said = [logging.LogRecord(name, logging.WARNING, "", 0, f"{word} ...", (), None) for word in (text, "Other")]
        assert [bool(logging.getLogger(name).filter(record)) for record in said] == [False, True]
