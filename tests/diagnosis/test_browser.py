"""A report as a browser shows it, offline, on a laptop and on a phone."""

import base64
import shutil

import pytest
from torch import nn

from flossing.diagnosis.chapters import CHAPTERS, analyse
from flossing.report import render

pytestmark = pytest.mark.browser

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
LAPTOP = {"width": 1366, "height": 768, "deviceScaleFactor": 1, "mobile": False}
HEADINGS = [chapter.heading for chapter in CHAPTERS]
PHONE = {"width": 375, "height": 812, "deviceScaleFactor": 1, "mobile": True}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if not (BROWSER and DRIVER):
        pytest.skip("Chromium or chromedriver is not on this machine")
    webdriver = pytest.importorskip("selenium.webdriver", reason="Selenium is not installed")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.execute_cdp_cmd("Network.enable", {})
    offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    driver.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def address(tmp_path_factory, stock_subject):
    path = tmp_path_factory.mktemp("report") / "report.html"
    report = analyse(stock_subject(nn.LSTM(2, 20, num_layers=2), horizon=100))
    path.write_text(render(report), encoding="utf-8")
    return path.as_uri()


@pytest.fixture(params=[LAPTOP, PHONE], ids=["laptop", "phone"])
def page(request, browser, address):
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", request.param)
    browser.get(address)
    assert browser.execute_script("return window.innerWidth") == request.param["width"]
    return browser


def texts(page, selector):
    script = "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent.trim())"
    return page.execute_script(script, selector)


def test_the_content_is_there(page):
    assert page.title == "Lyapunov analysis of weights.pt"
    assert texts(page, "h1") == ["Lyapunov analysis of weights.pt"]
    assert texts(page, "h2") == HEADINGS
    assert texts(page, "nav a") == HEADINGS
    captions = texts(page, "caption")
    assert len(captions) == 9
    assert "over 100 steps" in captions[0]
    assert len(texts(page, "tbody tr")) > 10
    assert all(texts(page, f"section:nth-of-type({n}) .meaning") for n in range(1, 8))
    to_floss, of_a_loss = texts(page, "pre")
    assert "flossing.gradient_horizon" in of_a_loss
    assert "flossing.Flosser" in to_floss


def test_pictures_are_decoded(page):
    script = """
        const images = [...document.images];
        return Promise.all(images.map(image => image.decode())).then(
            () => images.map(image => [image.naturalWidth, image.naturalHeight, image.width]))
    """
    sizes = page.execute_script(script)
    # One a section and another of the directions; one of the weights of each layer.
    assert len(sizes) == 8
    captions = texts(page, "figcaption")
    assert len(set(captions)) == 8
    for natural_width, natural_height, width in sizes:
        assert natural_width > 100
        assert natural_height > 100
        assert 300 < width <= 544


def test_nothing_is_wider_than_the_window(page):
    width, inner = page.execute_script(
        "return [document.documentElement.scrollWidth, window.innerWidth]"
    )
    assert width <= inner
    wide = page.execute_script("""
        return [...document.querySelectorAll('body *')].filter(element =>
            !element.closest('.scroll') &&
            element.getBoundingClientRect().right > window.innerWidth).map(e => e.outerHTML)
    """)
    assert wide == []


def test_wide_code_scrolls_within_its_own_box(page):
    scrolling, overflow = page.execute_script("""
        const box = document.querySelector('pre');
        return [box.scrollWidth > box.clientWidth, getComputedStyle(box).overflowX]
    """)
    assert overflow == "auto"
    assert scrolling == (page.execute_script("return window.innerWidth") == PHONE["width"])


def test_nothing_is_asked_for_and_nothing_goes_wrong(page):
    assert page.get_log("browser") == []
    assert page.execute_script("return performance.getEntriesByType('resource').length") <= 1
    assert page.execute_script("return document.scripts.length") == 0


CONTRAST = """
    const light = color => {
        const parts = color.match(/[0-9.]+/g).slice(0, 3).map(part => part / 255);
        const linear = parts.map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
    };
    const paper = element => {
        const color = getComputedStyle(element).backgroundColor;
        return color === 'rgba(0, 0, 0, 0)' && element.parentElement
            ? paper(element.parentElement) : color;
    };
    return [...document.querySelectorAll('p, dt, dd, a, h1, h2, caption, figcaption, td, th, code')]
        .map(element => {
            const [dark, bright] = [light(getComputedStyle(element).color), light(paper(element))]
                .sort((a, b) => a - b);
            return (bright + 0.05) / (dark + 0.05);
        });
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_in_both_schemes(page, scheme):
    feature = {"name": "prefers-color-scheme", "value": scheme}
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    brightness = page.execute_script(
        "return getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number)"
    )
    assert (max(brightness[:3]) < 60) == (scheme == "dark")
    # 4.5 is what the Web Content Accessibility Guidelines ask for.
    assert min(page.execute_script(CONTRAST)) >= 4.5


def test_what_is_seen_is_not_blank(page):
    picture = page.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
    assert len(base64.b64decode(picture["data"])) > 10_000
