"""A report in a real browser: it opens offline without an error, sorts by click and key, and shows what is pointed at.

Debian's Chromium and its driver are needed: ``apt-get install chromium chromium-driver``.
"""

import shutil

import pytest
import report_runs
from report_runs import SPACE

from eproxy_jax import report
from eproxy_jax.runs import truth as truth_lib

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
)  # fmt: skip
ROWS = "#agreement tbody tr"
pytestmark = [
    pytest.mark.slow,  # quick: tests/report looks at the text of the page
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no Chromium: apt-get install chromium chromium-driver"),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    folders, truth = report_runs.make_all(folder)
    values = truth_lib.read_truth(truth, SPACE)
    evil = dict(values)
    return report.write(
        folders, folder / "report.html", {"accuracy": values, "<img src=x onerror=x>": evil}, draws=1
    ).path


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.set_script_timeout(60)
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser, page):
    """Opens the page at a width, in light or dark, once its data are there."""

    def open_at(width, scheme="light"):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        preferences = {
            "prefers-color-scheme": scheme,
            "prefers-reduced-motion": "reduce",
        }  # or a click meets a scrolling page
        media = [{"name": name, "value": value} for name, value in preferences.items()]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
        browser.get(page.as_uri())
        wait(browser, "return document.documentElement.dataset.ready === 'true'")
        return browser

    yield open_at
    errors = [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    assert not errors


def wait(browser, script, *arguments):
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, 60).until(lambda one: one.execute_script(script, *arguments))


def drawn(browser, name):
    """The chart of a figure, in the middle of the window."""
    chart = browser.find_element("css selector", f'[data-figure="{name}"]')
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", chart)
    wait(browser, "return arguments[0].dataset.drawn === 'true'", chart)
    return chart


def column(browser, place, rows=ROWS):
    table = browser.find_element("css selector", "#agreement table")
    return browser.execute_script(
        "return [...arguments[0].tBodies[0].rows].map((row) => row.cells[arguments[1]].textContent)", table, place
    )


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark"), (390, "light"), (1280, "dark")])
def test_every_figure_is_drawn_and_nothing_is_wider_than_the_window(opened, width, scheme):
    browser = opened(width, scheme)
    for chart in browser.find_elements("css selector", ".chart"):
        assert drawn(browser, chart.get_attribute("data-figure")).find_elements("css selector", "canvas")
    assert browser.execute_script("return document.documentElement.scrollWidth") == width
    background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(21, 23, 27)")
    assert not browser.find_elements("css selector", "img")  # a name of a task that looks like markup


def test_nothing_is_asked_of_a_network(opened):
    import json

    browser = opened(1280)
    browser.get_log("performance")
    browser.refresh()
    wait(browser, "return document.documentElement.dataset.ready === 'true'")
    drawn(browser, "scatter")
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
    assert asked
    assert all(url.startswith(("file:", "data:", "blob:")) for url in asked)


def test_table_is_sorted_by_click_and_by_key(opened):
    from selenium.webdriver.common.keys import Keys

    browser = opened(1280)
    first = column(browser, 0)
    heading = browser.find_element("css selector", "#agreement thead th:nth-child(2)")
    button = heading.find_element("css selector", "button")
    button.click()
    assert heading.get_attribute("aria-sort") == "descending"
    numbers = [float(text) for text in column(browser, 1) if text != "-"]
    assert numbers == sorted(numbers, reverse=True)
    button.send_keys(Keys.ENTER)
    assert heading.get_attribute("aria-sort") == "ascending"
    assert [float(text) for text in column(browser, 1) if text != "-"] == sorted(numbers)
    names = browser.find_element("css selector", "#agreement thead th:nth-child(1)")
    names.find_element("css selector", "button").send_keys(Keys.SPACE)
    assert names.get_attribute("aria-sort") == "ascending"
    assert heading.get_attribute("aria-sort") is None
    assert sorted(column(browser, 0)) == sorted(first)


def test_pointing_at_a_network_shows_its_name(opened):
    from selenium.webdriver.common.action_chains import ActionChains

    browser = opened(1280)
    chart = drawn(browser, "scatter")
    # Where the first mark is, as Vega's own scene says.
    place = browser.execute_script(
        """
        const view = arguments[0].view.view, canvas = arguments[0].querySelector("canvas").getBoundingClientRect();
        const find = (item) => item.marktype === "symbol" && item.name === "marks" ? item.items[0]
          : (item.items || []).map(find).find(Boolean);
        const mark = find(view.scenegraph().root), [x, y] = view.origin(), edge = view.padding();
        return [canvas.left + x + edge.left + mark.x, canvas.top + y + edge.top + mark.y];
        """,
        chart,
    )
    x, y = map(round, place)
    actions = ActionChains(browser, duration=50)
    actions.w3c_actions.pointer_action.move_to_location(x - 30, y)
    actions.w3c_actions.pointer_action.move_to_location(x, y)
    actions.perform()
    shown = "return document.querySelector('#vg-tooltip-element.visible')?.textContent"
    text = wait(browser, shown)
    archs = {SPACE.format(arch) for arch in report_runs.drawn()[0]}
    assert any(arch in text for arch in archs)  # another point may lie upon it
    assert all(name in text for name in ("architecture", "accuracy", "MACs (M)"))


def test_other_columns_can_be_chosen(opened):
    from selenium.webdriver.support.ui import Select

    browser = opened(390)
    chart = drawn(browser, "scatter")
    Select(browser.find_element("css selector", '#scatter [data-axis="y"]')).select_by_visible_text("jacov")
    browser.find_element("css selector", '#scatter [data-axis="ranks"]').click()
    title = "return arguments[0].view?.vgSpec?.axes?.map((axis) => axis.title)?.includes('jacov (rank)')"
    assert wait(browser, title, chart)


def test_all_architectures_are_listed_a_part_at_a_time_found_and_sorted(opened):
    browser = opened(1280)
    box = browser.find_element("css selector", "#all-archs")
    assert len(box.find_elements("css selector", "tbody tr")) == 20
    box.find_element("css selector", '[data-more="1000"]').click()
    assert len(box.find_elements("css selector", "tbody tr")) == 40
    assert box.find_element("css selector", "[role=status]").text == "40 of 40 shown"
    button = box.find_element("css selector", '[data-column="jacov"]')
    button.click()
    assert button.find_element("xpath", "..").get_attribute("aria-sort") == "descending"
    name = box.find_element("css selector", "tbody code").text
    box.find_element("css selector", "input").send_keys(name)
    assert [one.text for one in box.find_elements("css selector", "tbody code")] == [name]


def test_the_benchmark_of_scrolling_reaches_the_bottom(page):
    import report_speed

    seconds, frames, height = report_speed.scrolled(page, 1280, 1)
    assert seconds > 0
    assert height > 0
    assert 5 < len(frames) < 2000


def test_keyboard_reaches_the_content_first(opened):
    from selenium.webdriver.common.keys import Keys

    browser = opened(1280)
    browser.find_element("css selector", "body").send_keys(Keys.TAB)
    assert browser.execute_script("return document.activeElement.className") == "skip"
    assert browser.execute_script("return document.activeElement.getBoundingClientRect().left >= 0")
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    assert browser.execute_script("return document.activeElement.id") == "content"
