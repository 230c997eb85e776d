"""Headless Chromium with nothing but the page: it says what went wrong, what was asked for and what plays."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--force-device-scale-factor=1",
)  # fmt: skip


PATIENCE = 120  # seconds for what takes less than one: a loaded machine starves the browser for as long as that


@contextmanager
def browser(profile: Path) -> Iterator["Browser"]:
    """A browser for the time of the block. Skips the test where there is none, unless CI is set."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        if os.environ.get("CI"):
            pytest.fail("chromium and chromedriver must be on PATH")
        pytest.skip("no chromium and chromedriver on PATH")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield Browser(opened)
    finally:
        opened.quit()


class Browser:
    """One page at a time."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, page: Path, *, width: int = 1280, dark: bool = False, still: bool = False) -> None:
        """Load a page at a width in CSS pixels, in the dark or where less motion is asked for."""
        self.driver.get("about:blank")
        self.driver.get_log("performance")
        self.driver.get_log("browser")
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        wishes = {"prefers-color-scheme": "dark" if dark else "light"}
        wishes |= {"prefers-reduced-motion": "reduce" if still else "no-preference"}
        features = [{"name": name, "value": value} for name, value in wishes.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        self.driver.get(page.resolve().as_uri())

    def ask(self, script: str, *values: Any) -> Any:
        return self.driver.execute_script(script, *values)

    def until(self, script: str, *values: Any) -> Any:
        """Wait until a script returns what is true."""
        return self._wait(lambda _: self.ask(script, *values), f"{script} {values}")

    def until_complaint(self, says: str) -> None:
        """Wait for an entry of the console: it comes some time after what caused it."""
        self._wait(lambda _: any(says in complaint for complaint in self.complaints()), f"no complaint says {says!r}")

    def complaints(self) -> list[str]:
        """What stands in the console since the page was opened: errors, refused loads, warnings."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> tuple[set[str], set[str]]:
        """URLs that were asked for since the page was opened, and those of them that failed or were not found."""
        asked: dict[str, str] = {}
        failed = set()
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            params = message["params"]
            if message["method"] == "Network.requestWillBeSent":
                asked[params["requestId"]] = params["request"]["url"]
            elif message["method"] == "Network.loadingFailed" and not params.get("canceled"):
                failed.add(asked.get(params["requestId"], params["requestId"]))
            elif message["method"] == "Network.responseReceived" and params["response"]["status"] >= 400:
                failed.add(params["response"]["url"])
        return {url for url in asked.values() if not url.startswith(("data:", "about:"))}, failed

    def _wait(self, until: Callable[[webdriver.Chrome], Any], message: str) -> Any:
        return WebDriverWait(self.driver, PATIENCE, poll_frequency=0.1).until(until, message)
