"""The explorer in a real browser, headless: in JupyterLab, and as an app served by Voila. No other host is asked."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlparse
from urllib.request import urlopen

import pytest

from zsnr.prediction import EPS_AT_ZERO_SNR

ROOT = Path(__file__).parents[1]
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER and find_spec("selenium") and find_spec("voila")),
    reason="needs chromium and chromedriver (Debian: apt-get install chromium chromium-driver), selenium and voila",
)
NO_JUPYTEXT = "--VoilaConfiguration.extension_denylist=jupyterlab-jupytext"
"""As `make explorer` has it: that extension of JupyterLab asks for what Voila does not share."""
TOKEN = "explorer"
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=1440,1000",
]
SECONDS = 240
"""For a server to start, or a figure to come, on a busy machine."""
NETWORK = ROOT / "results/full/zsnr/finetune/control/weights.safetensors"


@pytest.fixture
def browser(tmp_path):
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    for flag in [*FLAGS, f"--user-data-dir={tmp_path / 'browser'}"]:
        options.add_argument(flag)
    driver = Chrome(options, ChromeService(DRIVER))
    yield driver
    driver.quit()


@contextlib.contextmanager
def served(folder, *command):
    """Serve a copy of the notebook on a free port; yields the address."""
    shutil.copy(ROOT / "notebooks/explorer.ipynb", folder)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    config = folder / "config"
    # JupyterLab asks its makers for news, and the user whether it may
    news = config / "labconfig/page_config.json"
    news.parent.mkdir(parents=True)
    news.write_text(json.dumps({"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}))
    own = {
        "JUPYTER_CONFIG_DIR": str(config),
        "JUPYTER_RUNTIME_DIR": str(folder / "run"),
        "JUPYTER_PATH": str(ROOT / "pipeline/jupyter"),
        "IPYTHONDIR": str(folder),
    }
    own |= {"JUPYTERLAB_SETTINGS_DIR": str(folder), "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces")}
    log = folder / "server.log"
    with log.open("w") as out:
        server = subprocess.Popen(
            [sys.executable, "-m", *command, "--no-browser", f"--port={port}", "--ip=127.0.0.1"],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT), **own},
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        wait(lambda: answers(port) or server.poll() is not None, lambda: log.read_text()[-2000:])
        assert server.poll() is None, log.read_text()
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def answers(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5):
        return True
    return False


def wait(until, why=lambda: ""):
    """Whatever `until` returns, as soon as it is true."""
    from selenium.common.exceptions import WebDriverException

    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        with contextlib.suppress(WebDriverException):
            if found := until():
                return found
        time.sleep(0.1)
    pytest.fail(f"waited for {SECONDS} s: {why()}")


class Page:
    """What a user sees of the explorer, and can do with it."""

    def __init__(self, browser):
        self.browser = browser

    def text(self, part):
        return self.browser.find_element("css selector", f".zsnr-{part}").text

    def figure(self):
        return self.browser.find_element("css selector", "img.zsnr-figure, .zsnr-figure img").screenshot_as_png

    def shows(self, text, part="headline"):
        wait(lambda: text in self.text(part), lambda: f"{text!r}, not {self.text(part)!r}")

    def control(self, name, part):
        return self.browser.find_element("xpath", f"//label[normalize-space()='{name}']/..//{part}")

    def choose(self, name, value):
        from selenium.webdriver.support.select import Select

        wait(lambda: self.control(name, "select").is_enabled(), lambda: f"{name} stays disabled")
        Select(self.control(name, "select")).select_by_visible_text(value)

    def press(self, name, *keys):
        self.control(name, "*[contains(@class, 'noUi-handle')]").send_keys(*keys)

    def disabled(self, name):
        return "disabled" in self.control(name, "*[contains(@class, 'noUi-target')]").get_attribute("outerHTML")[:300]


def used(page):
    """Move sliders, choose, be refused: the same in every surrounding."""
    from selenium.webdriver.common.keys import Keys

    page.shows("25 evaluations")
    first = page.figure()
    page.press("steps", Keys.ARROW_RIGHT)
    page.shows("26 evaluations")
    assert page.figure() != first

    page.choose("solver", "heun")
    page.shows("51 evaluations")
    assert page.disabled("rho")
    page.choose("spacing", "karras")
    wait(lambda: not page.disabled("rho"))
    page.shows("51 evaluations")
    before = page.figure()
    page.press("rho", Keys.ARROW_LEFT, Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    wait(lambda: page.figure() != before)

    page.choose("spacing", "leading")
    page.choose("schedule", "rescaled to zero SNR")
    page.shows("use spacing='trailing'", "notes")
    if not NETWORK.exists():
        return
    page.press("steps", Keys.HOME)
    page.shows("1 evaluations")
    page.choose("model", "flawed network")  # which brings the schedule that it was trained on
    wait(lambda: not page.text("notes"))
    page.choose("schedule", "rescaled to zero SNR")
    page.shows(EPS_AT_ZERO_SNR, "notes")
    assert "Traceback" not in page.browser.page_source
    page.choose("model", "exact denoiser")
    page.shows("1 evaluations")


def checked(browser, address, picture):
    """No error on the console, and no request to another host."""
    if folder := os.environ.get("EXPLORER_PICTURES"):
        browser.save_screenshot(f"{folder}/explorer_{picture}.png")
    severe = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert not severe
    calls = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {call["params"]["request"]["url"] for call in calls if call["method"] == "Network.requestWillBeSent"}
    hosts = {urlparse(url).netloc for url in asked if urlparse(url).scheme in ("http", "https", "ws", "wss")}
    assert hosts == {urlparse(address).netloc}


def connected(kernels):
    """The idle kernels that a page is connected to; the server answers 500 while it makes one."""
    try:
        with urlopen(kernels) as answer:
            return [k for k in json.load(answer) if k["execution_state"] == "idle" and k["connections"]]
    except HTTPError:
        return []


def test_in_jupyterlab(browser, tmp_path):
    command = ("jupyterlab", f"--IdentityProvider.token={TOKEN}", "--expose-app-in-browser", "--allow-root")
    with served(tmp_path, *command) as address:
        browser.get(f"{address}/lab/tree/explorer.ipynb?token={TOKEN}")
        # a kernel that is not connected yet would be asked for by name, in a dialog
        kernels = f"{address}/api/kernels?token={TOKEN}"
        wait(lambda: connected(kernels))
        browser.execute_script("window.jupyterapp.commands.execute('notebook:run-all-cells')")
        used(Page(browser))
        checked(browser, address, "lab")


def test_as_an_app_of_voila(browser, tmp_path):
    with served(tmp_path, "voila", "explorer.ipynb", "--template=offline", NO_JUPYTEXT) as address:
        browser.get(address)
        used(Page(browser))
        assert not browser.find_elements("css selector", ".jp-InputArea-editor"), "an app shows no code"
        checked(browser, address, "voila")
