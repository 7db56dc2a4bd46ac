"""OHIF in a real browser, over a real PACS: what a clinician clicks."""

import hashlib
import io
import json
import shutil
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from bundle_helpers import ROOT
from dicom_helpers import write_series
from pacs_helpers import objects, pacs_server, until
from PIL import Image
from prefix_proxy import prefix_proxy
from prompt_helpers import prompt_bundle

pytestmark = pytest.mark.slow

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
ABDOMEN = ROOT.parent / "shared/data/abdomen_ct_dicom/uncompressed"
OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # root
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--enable-unsafe-swiftshader",  # WebGL without a GPU
    "--window-size=1400,900",
)
PATIENCE = 120  # seconds, for a slow machine without a GPU


@pytest.fixture(scope="module", autouse=True)
def need_a_browser():
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("Debian's packages chromium and chromium-driver are not here")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ohif")
    prompt_bundle(folder / "bundles")
    with pacs_server(folder) as place:
        yield place


class Browser:
    """Chromium with OHIF of a server."""

    def __init__(self, url: str, profile: Path) -> None:
        from selenium import webdriver
        from selenium.webdriver.support.ui import WebDriverWait

        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        options.add_experimental_option("prefs", {"download.default_directory": str(profile / "downloads")})
        for option in (*OPTIONS, f"--user-data-dir={profile}"):
            options.add_argument(option)
        self.url = url
        self.downloads = profile / "downloads"
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
        self._wait = WebDriverWait(self.driver, PATIENCE)
        self.open("/ohif/")
        self.click("//button[text()='Confirm and Hide']")

    def open(self, path: str) -> None:
        self.driver.get(f"{self.url}{path}")

    def find(self, xpath: str):
        """The last visible element."""
        visible = lambda driver: [e for e in driver.find_elements("xpath", xpath) if e.is_displayed()]  # noqa: E731
        return self._wait.until(visible, f"no {xpath}")[-1]

    def click(self, xpath: str, *, times: int = 1) -> None:
        from selenium.common.exceptions import ElementClickInterceptedException, StaleElementReferenceException
        from selenium.webdriver.common.action_chains import ActionChains

        def clicked(driver):
            try:
                element = self.find(xpath)
                element.click() if times == 1 else ActionChains(driver).double_click(element).perform()
                return True
            except (ElementClickInterceptedException, StaleElementReferenceException):  # something lies over it yet
                return False

        self._wait.until(clicked)

    def text(self, words: str):
        return self.find(f"//*[contains(text(), '{words}')]")

    def picture(self) -> np.ndarray:
        """The first viewport as (H, W, 3), once it has stopped changing."""
        viewport = self.driver.find_element("css selector", ".viewport-element")
        shots = [np.zeros(1)]
        while len(shots) < 2 or shots[-1].shape != shots[-2].shape or (shots[-1] != shots[-2]).any():
            time.sleep(1)
            shots.append(np.asarray(Image.open(io.BytesIO(viewport.screenshot_as_png)).convert("RGB")).astype(int))
            assert len(shots) < PATIENCE
        return shots[-1]

    def click_on(self, picture: np.ndarray, place: np.ndarray) -> None:
        """The first viewport where `place` (H, W) of its picture is true: in the middle."""
        from selenium.webdriver.common.action_chains import ActionChains

        viewport = self.driver.find_element("css selector", ".viewport-element")
        row, column = np.argwhere(place).mean(0) - np.array(picture.shape[:2]) / 2
        ActionChains(self.driver).move_to_element_with_offset(viewport, int(column), int(row)).click().perform()


@pytest.fixture(scope="module")
def chromium(place):
    started = Browser(place.server.url, place.folder / "profile")
    yield started
    started.driver.quit()


@pytest.fixture
def browser(chromium, tmp_path):
    """One for all tests, each of which opens a study of its own."""
    yield chromium
    chromium.driver.save_screenshot(str(tmp_path / "last.png"))  # to see why a test failed


def store(place, files):
    """Into the PACS; returns the study's and the series' UID."""
    place.orthanc.store(files)
    dataset = pydicom.dcmread(files[0], stop_before_pixels=True)
    uid = str(dataset.SeriesInstanceUID)
    until(lambda: uid in objects(place))
    return str(dataset.StudyInstanceUID), uid


def connect(browser, study):
    browser.open(f"/ohif/monai-label?StudyInstanceUIDs={study}")
    assert browser.find("//input[@id='monailabelServerURL']").get_attribute("value") == f"{browser.url}/"
    browser.picture()
    browser.click("//table[@class='settingsTable']//button")
    browser.text("Auto-Segmentation")


def overlap(one, other):
    return (one & other).sum() / (one | other).sum()


@pytest.mark.parametrize("scan", ["ball", "abdomen"])
def test_segmentation_lies_on_the_anatomy(place, browser, tmp_path, scan):
    """The network calls what is bright an organ: the overlay must cover what is bright on the screen."""
    if scan == "abdomen" and not ABDOMEN.is_dir():
        pytest.skip("the DICOM series is not here")
    study, uid = store(place, sorted(ABDOMEN.iterdir()) if scan == "abdomen" else write_series(tmp_path / "ball"))
    connect(browser, study)
    before = browser.picture()
    browser.click("//button[text()='Run']")
    browser.text("Running Segmentation - Successful")
    bright, covered = before.min(2) > 250, np.abs(browser.picture() - before).max(2) > 40
    covered[: len(covered) // 4], bright[: len(bright) // 4] = False, False  # texts
    assert bright.any() and overlap(bright, covered) > 0.5
    for mirrored in (bright[:, ::-1], bright[::-1]):
        assert overlap(mirrored, covered) < 0.5 * overlap(bright, covered)
    browser.click("//label[text()='Active Learning']")
    browser.click("//button[text()='Next Sample']")
    sample = browser.text("1.2.826.0.1.3680043").text  # the prefix of these series
    assert sample in objects(place) or sample == study


def test_behind_a_prefix(tmp_path):
    """The list of studies, a study, a segmentation and the next sample, all below the prefix."""
    with pacs_server(tmp_path, root_path="/monai") as place, prefix_proxy(place.server.url, "/monai") as url:
        study, uid = store(place, write_series(tmp_path / "ball"))
        browser = Browser(url, tmp_path / "profile")
        try:
            browser.text("Phantom, Ball")
            connect(browser, study)
            browser.click("//button[text()='Run']")
            browser.text("Running Segmentation - Successful")
            browser.click("//label[text()='Active Learning']")
            browser.click("//button[text()='Next Sample']")
            link = browser.find("//a[contains(@href, 'StudyInstanceUIDs')]").get_attribute("href")
            assert link == f"{url}/ohif/monai-label?StudyInstanceUIDs={study}"
        finally:
            browser.driver.save_screenshot(str(tmp_path / "last.png"))
            browser.driver.quit()


def test_training_and_a_corrected_segmentation(place, browser, tmp_path):
    study, uid = store(place, write_series(tmp_path / "ball"))
    before = place.server.request("GET", "/datastore/").json()["completed"]
    place.server.request("POST", "/batch/infer/amos_ct?images=unlabeled")
    until(lambda: place.server.request("GET", "/batch/infer").json()["status"] == "DONE")
    until(lambda: place.orthanc.segmentations(StudyInstanceUID=study))

    browser.open(f"/ohif/segmentation?StudyInstanceUIDs={study}")
    browser.click("//*[contains(text(), 'Segmentation, amos_ct')]", times=2)
    browser.click("//button[@data-cy='yes-hydrate-btn']")
    browser.text("liver")
    browser.click("//button[@aria-haspopup='menu' and following-sibling::*//*[contains(., 'amos_ct')]]")
    browser.click("//*[@role='menuitem' and contains(., 'Export')]")
    browser.click("//*[@role='menuitem' and .='Download DICOM SEG']")  # its "Export DICOM SEG" fails inside OHIF 3.10
    (file,) = until(lambda: list(browser.downloads.glob("Segmentation*")))
    browser.open("/ohif/")
    browser.click("//*[text()='Upload']")
    browser.driver.find_element("css selector", "input[type=file]").send_keys(str(file))
    until(lambda: "final" in objects(place)[uid]["labels"])
    assert place.server.request("GET", "/datastore/").json()["completed"] == before + 1
    labels = place.kept / "labels"
    proposed, taken_in = (nib.load(labels / tag / f"{uid}.nii.gz").get_fdata() for tag in ("original", "final"))
    np.testing.assert_array_equal(taken_in, proposed)

    connect(browser, study)
    browser.click("//label[text()='Active Learning']")
    browser.click("//button[text()='Update Model']")
    browser.text("STARTED")
    assert place.server.request("GET", "/train/?check_if_running=true").json()["status"] in ("SUBMITTED", "RUNNING")
    browser.click("//button[text()='Stop Training']")
    browser.text("STOPPED")
    assert place.server.request("GET", "/train/").json()["status"] == "STOPPED"


def test_the_browser_asks_for_a_key(tmp_path):
    keys = {hashlib.sha256(b"key").hexdigest(): {"name": "reader", "roles": ["monailabel-user"]}}
    (tmp_path / "keys.json").write_text(json.dumps(keys), encoding="utf-8")
    with pacs_server(tmp_path, api_keys=str(tmp_path / "keys.json")) as place:
        place.orthanc.store(write_series(tmp_path / "ball"))
        refused = place.server.request("GET", "/ohif/")
        assert refused.status_code == 401 and refused.headers["WWW-Authenticate"].startswith("Basic")
        browser = Browser(place.server.url.replace("://", "://reader:key@"), tmp_path / "profile")
        try:
            browser.text("Phantom, Ball")  # in the list of studies
        finally:
            browser.driver.quit()


@pytest.mark.parametrize(("model", "label"), [("amos_ct_edit", "aorta"), ("interactive", "bladder")])
def test_point_prompts(place, browser, tmp_path, model, label):
    """A click into what is bright makes it the chosen label."""
    from selenium.webdriver.support.ui import Select

    study, uid = store(place, write_series(tmp_path / "ball"))
    connect(browser, study)
    before = browser.picture()
    bright = before.min(2) > 250
    bright[: len(bright) // 4] = False  # texts
    browser.click("//label[text()='Point Prompts']")
    Select(browser.find(f"//select[option[@value='{model}']]")).select_by_value(model)

    def placed():
        browser.click(f"//tr[@class='clickable-row']/td[text()='{label}']")  # a redrawn list forgets it
        browser.click_on(before, bright)
        time.sleep(2)  # two clicks in quick succession are a double click
        return browser.driver.find_elements("css selector", "svg.svg-layer circle")

    until(placed)
    browser.click("//button[@title='Run PointPrompts']")
    browser.text("Running Inference for Point Prompts - Successful")
    covered = np.abs(browser.picture() - before).max(2) > 40
    covered[: len(covered) // 4] = False
    assert overlap(bright, covered) > 0.5
