"""Takes the picture of a report that stands in the README, with Debian's Chromium and its driver.

    eproxy report runs/proxies_nasbench201 --truth cifar10valid.json cifar100.json tinyimagenet.json --out report.html
    python benchmarks/report_screenshot.py report.html --out benchmarks/results/report.png

Selenium is in the extra ``test``; ``apt-get install chromium chromium-driver`` brings the browser.
"""

import argparse
import contextlib
import io
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars")
READY = "return document.documentElement.dataset.ready === 'true'"
DRAWN = "return [...document.querySelectorAll('.chart')].every((chart) => chart.dataset.drawn)"


@contextlib.contextmanager
def opened(page: Path, width: int, height: int) -> Iterator[Any]:
    """Open a page in Chromium at a size in pixels, and yield the browser once the page's data are there."""
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = shutil.which("chromium") or ""
    with tempfile.TemporaryDirectory() as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        browser = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        try:
            size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            browser.get(page.resolve().as_uri())
            wait(browser, READY)
            yield browser
        finally:
            browser.quit()


def wait(browser: Any, script: str) -> None:
    """Wait until a script returns true."""
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 60, 0.05).until(lambda one: one.execute_script(script))


def take(page: Path, width: int, height: int, hidden: str) -> bytes:
    """Return a PNG of a page's beginning; elements of the selector ``hidden`` are left out."""
    with opened(page, width, height) as browser:
        style = "document.head.append(Object.assign(document.createElement('style'), {textContent: arguments[0]}))"
        browser.execute_script(style, f"{hidden} {{ display: none !important }}")
        for chart in browser.find_elements("css selector", ".chart"):
            browser.execute_script("arguments[0].scrollIntoView({behavior: 'instant'})", chart)
        wait(browser, DRAWN)
        browser.execute_script("scrollTo({top: 0, behavior: 'instant'})")
        return browser.get_screenshot_as_png()


def main() -> None:
    from PIL import Image

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/report.png"))
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=1500)
    parser.add_argument("--hide", default="#runs, #agreement", help="selectors of what is left out")
    arguments = parser.parse_args()
    png = take(arguments.page, arguments.width, arguments.height, arguments.hide)
    Image.open(io.BytesIO(png)).convert("RGB").save(arguments.out, optimize=True)
    print(f"{arguments.out}: {arguments.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
