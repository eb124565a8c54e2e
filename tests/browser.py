"""Chromium without a window, for tests of pages: opens a file, and says what its console said."""

from __future__ import annotations

import base64
import shutil
import time
from pathlib import Path
from typing import Any, Self

NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE_S = 30.0


def chromium() -> str:
    """The path of Chromium; empty if it or its driver is not installed."""
    found = next((path for name in NAMES if (path := shutil.which(name))), "")
    return found if shutil.which("chromedriver") else ""


class Browser:
    """A browser of a given width; ``scheme`` is ``light`` or ``dark``."""

    def __init__(
        self, binary: str, *, width: int = 1280, height: int = 900, scheme: str = "light"
    ) -> None:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        options.binary_location = binary
        for each in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
            options.add_argument(each)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        driver = Service(shutil.which("chromedriver"))
        self.driver = webdriver.Chrome(options=options, service=driver)
        self._width = width
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    def open(self, page: Path) -> None:
        """Open a page from disk, and wait until its figures are drawn."""
        self.driver.get(page.resolve().as_uri())
        until = time.monotonic() + PATIENCE_S
        while self.run("return document.documentElement.dataset.drawn") is None:
            if time.monotonic() > until:
                raise AssertionError(f"{page}: not drawn: {self.console()}")
            time.sleep(0.02)

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def console(self) -> list[str]:
        """What the console has said since it was last asked."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def drawn_ms(self) -> float:
        return float(self.run("return document.documentElement.dataset.milliseconds"))

    def picture(self, path: Path) -> None:
        """The whole page as a .png."""
        height = self.run("return document.documentElement.scrollHeight")
        clip = {"x": 0, "y": 0, "width": self._width, "height": height, "scale": 1}
        asked = {"captureBeyondViewport": True, "clip": clip}
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", asked)
        path.write_bytes(base64.b64decode(shot["data"]))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.driver.quit()
