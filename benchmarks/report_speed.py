"""This benchmark builds a report of all 15,625 strings of NAS-Bench-201, opens it in Chromium, and scrolls through it.

  python benchmarks/report_speed.py

Columns are the sizes and counts of all strings, with the three published tables beside them. Selenium is in the extra
``test``; ``apt-get install chromium chromium-driver`` brings the browser, which draws without a GPU here. Scrolling
moves by 120 px a frame or more, from the top of the page to its bottom, once all figures are drawn.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import report_screenshot
from common import DATA, POOLS, header, markdown_table, write_page

# Calls back with the milliseconds of each frame.
SCROLL = """
const done = arguments[arguments.length - 1], frames = [];
let last = performance.now();
scrollTo({top: 0, behavior: "instant"});
const bottom = document.documentElement.scrollHeight - innerHeight, step = Math.max(120, bottom / 150);
function frame(now) {
  frames.push(now - last);
  last = now;
  if (scrollY >= bottom - 2 || frames.length > 2000) return done([frames.slice(1), bottom]);
  scrollBy({top: step, behavior: "instant"});
  requestAnimationFrame(frame);
}
requestAnimationFrame(frame);
"""


def scrolled(page: Path, width: int, thousands: int) -> tuple[float, np.ndarray, int]:
    """Open a page and scroll it, with so many thousand rows more.

    Returns:
      Seconds until its data are there, the browser's start included, milliseconds of each frame, and pixels to scroll.
    """
    begin = time.perf_counter()
    with report_screenshot.opened(page, width, 900) as browser:
        seconds = time.perf_counter() - begin
        browser.set_script_timeout(110)
        button = browser.find_element("css selector", '[data-more="1000"]')
        for _ in range(thousands):
            browser.execute_script("arguments[0].click()", button)
        browser.execute_async_script(SCROLL)  # figures are drawn when they are first seen
        frames, height = browser.execute_async_script(SCROLL)
        return seconds, np.asarray(frames), int(height)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    eproxy = [sys.executable, "-m", "eproxy_jax"]
    with tempfile.TemporaryDirectory() as folder:
        run, page = Path(folder) / "run", Path(folder) / "report.html"
        names = "params,macs,graph_counts"
        score = ["score", "--space", "nasbench201", "--all", "--proxy", names, "--workdir", str(run), "--no-plot"]
        subprocess.run([*eproxy, *score], check=True)
        begin = time.perf_counter()
        truth = [str(DATA / file) for file in POOLS["nasbench201"][0]]
        subprocess.run([*eproxy, "report", str(run), "--truth", *truth, "--out", str(page)], check=True)
        built, size = time.perf_counter() - begin, page.stat().st_size / 1e6
        table = []
        for width, thousands in ((1280, 0), (390, 0), (1280, 2)):
            seconds, frames, height = scrolled(page, width, thousands)
            table.append(
                {
                    "width, px": width,
                    "rows of the table": f"{20 + 1000 * thousands:,}",
                    "height, px": f"{height:,}",
                    "opened, s": f"{seconds:.1f}",
                    "frames": len(frames),
                    "median frame, ms": f"{np.median(frames):.1f}",
                    "95 % of frames within, ms": f"{np.quantile(frames, 0.95):.1f}",
                    "longest frame, ms": f"{frames.max():.0f}",
                }
            )
    text = header("Report of all 15,625 strings of NAS-Bench-201: building, opening and scrolling")
    text += markdown_table(table) + f"\nBuilt in {built:.1f} s, {size:.2f} MB.\n\n"
    text += f"{(__doc__ or '').split('report_speed.py')[1].strip()}\n"
    write_page("report_speed_nasbench201", text, table)


if __name__ == "__main__":
    main()
