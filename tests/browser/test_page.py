"""The page in a real Chromium without network: accessibility, layout, use by keyboard, print.

Needs Chromium (apt-get install chromium) and axe-core (npm install --no-save axe-core, or --axe
FILE); `pytest tests/browser --screenshots DIR` also saves screenshots.
"""

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from hamjepa_audit.reporting.page import write_page
from tests.browser.chromium import Chromium, chromium
from tests.unit.audited import content

pytestmark = pytest.mark.browser

PHONE, DESKTOP = 390, 1280
VISIBLE = "[...document.querySelectorAll('.claim')].filter(c => c.checkVisibility()).length"
ALL = "document.querySelectorAll('.claim').length"
OPEN_ALL = "document.querySelectorAll('details').forEach(d => { d.open = true })"
VIOLATIONS = """
axe.run(document, {resultTypes: ['violations']}).then(found => found.violations.map(
    rule => `${rule.id}: ${rule.nodes.map(node => node.html.slice(0, 200)).join(' | ')}`))
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("no chromium on the PATH; install it: apt-get install chromium")
    with chromium(program, tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="module")
def axe(request: pytest.FixtureRequest) -> str:
    path: Path = request.config.getoption("--axe")
    if not path.is_file():
        pytest.skip(f"no axe-core at {path}; npm install --no-save axe-core, or name it by --axe")
    return path.read_text()


@pytest.fixture(
    scope="module",
    params=["digits", pytest.param("cifar100 imagenet100", marks=pytest.mark.slow)],
)
def page(
    request: pytest.FixtureRequest, params_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("page")
    studies = request.param.split()
    audited = content(params_folder, folder, *studies, figures=len(studies) == 1)
    return write_page(audited, folder / f"{studies[0]}.html")


@pytest.fixture
def opened(browser: Chromium, page: Path) -> Chromium:
    browser.show(DESKTOP)
    browser.open(page)
    return browser


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_axe_finds_nothing(
    request: pytest.FixtureRequest, browser: Chromium, page: Path, axe: str, width: int, scheme: str
) -> None:
    browser.show(width, scheme)
    browser.open(page)
    folder = request.config.getoption("--screenshots")
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        browser.screenshot(folder / f"{page.stem}_{width}_{scheme}.png", height=4000)
    browser.evaluate(OPEN_ALL)
    browser.evaluate(axe)
    assert browser.evaluate(VIOLATIONS) == []


def test_nothing_is_fetched_and_nothing_fails(opened: Chromium, page: Path) -> None:
    fetched = [url for url in opened.requests if not url.startswith("data:")]
    assert fetched == [page.resolve().as_uri()]
    assert opened.problems == []
    broken = "[...document.images].filter(image => !image.naturalWidth).length"
    assert opened.evaluate(broken) == 0


def test_a_phone_scrolls_tables_and_not_the_page(browser: Chromium, page: Path) -> None:
    browser.show(PHONE)
    browser.open(page)
    browser.evaluate(OPEN_ALL)
    assert browser.evaluate("document.documentElement.scrollWidth") == PHONE
    # The verdicts come first and fit without scrolling.
    cut = "[...document.querySelectorAll('.counts')].map(t => t.parentElement)"
    cut += ".filter(box => box.scrollWidth > box.clientWidth).length"
    assert browser.evaluate(cut) == 0


def test_a_desktop_shows_the_tables_of_studies_whole(opened: Chromium) -> None:
    cut = "[...document.querySelectorAll('.wide')].map(t => t.parentElement)"
    cut += ".filter(box => box.scrollWidth > box.clientWidth).map(box => box.ariaLabel)"
    assert opened.evaluate(cut) == []


def test_the_filter_works_by_keyboard(opened: Chromium) -> None:
    every = opened.evaluate(ALL)
    opened.evaluate("document.querySelector('select[name=study]').focus()")
    for name in ("study", "arm", "verdict"):
        assert opened.evaluate("document.activeElement.name") == name
        opened.press("ArrowDown", 40)
        if name != "verdict":
            opened.press("Tab", 9)
    chosen = opened.evaluate(
        "['study', 'arm', 'verdict'].map(n => document.querySelector(`select[name=${n}]`).value)"
    )
    assert all(chosen)
    told = opened.evaluate("document.getElementById('shown').value")
    fitting = (
        f"document.querySelectorAll('.claim[data-study={chosen[0]}][data-arms~={chosen[1]}]"
        f"[data-verdict={chosen[2]}]').length"
    )
    count = opened.evaluate(fitting)
    assert opened.evaluate(VISIBLE) == count < every
    assert told == f"{count} of {every} claims"
    opened.evaluate("document.querySelector('button[type=reset]').click()")
    opened.evaluate("new Promise(done => setTimeout(done, 50))")
    assert opened.evaluate("document.getElementById('shown').value") == f"{every} of {every} claims"


def test_a_claim_opens_by_keyboard_and_by_a_link(opened: Chromium) -> None:
    opened.evaluate("document.querySelector('.group').open = true")
    opened.evaluate("document.querySelector('.claim summary').focus()")
    opened.press("Enter", 13, "\r")
    assert opened.evaluate("document.querySelector('.claim').open")
    opened.evaluate("location.hash = document.querySelector('#runs details').id")
    opened.evaluate("new Promise(done => setTimeout(done, 100))")
    assert opened.evaluate("document.querySelector('#runs details').open")


def test_without_javascript_nothing_is_missing(browser: Chromium, page: Path) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(page)
        assert browser.evaluate("document.getElementById('filter').checkVisibility()") is False
        browser.evaluate(OPEN_ALL)
        assert browser.evaluate(VISIBLE) == browser.evaluate(ALL) > 100
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)


def test_the_printed_verdicts_can_be_read(opened: Chromium, tmp_path: Path) -> None:
    """The text of the PDF has every claim with its verdict and its details."""
    reader = shutil.which("pdftotext")
    if reader is None:
        pytest.skip(
            "no pdftotext on the PATH to read the PDF; install it: apt-get install poppler-utils"
        )
    opened.pdf(tmp_path / "page.pdf")
    done = subprocess.run([reader, tmp_path / "page.pdf", "-"], capture_output=True, check=True)
    words = " ".join(done.stdout.decode().split())
    claims = opened.evaluate(
        "[...document.querySelectorAll('.claim')].map(c => [c.dataset.verdict,"
        " c.querySelector('.body strong').textContent, c.querySelector('.body p').textContent])"
    )
    assert len(claims) > 100
    for slug, verdict, told in claims:
        assert slug == re.sub(r"[^a-z]+", "-", verdict.lower())
        reason = told.split(":", 1)[1].split(".")[0].strip()
        assert re.sub(r"\s", "", reason) in re.sub(r"\s", "", words), reason
    counts = Counter(verdict for _, verdict, _ in claims)
    for verdict, count in counts.items():  # before each reason; badges are not counted
        assert len(re.findall(rf"{verdict}:", words)) >= count


def test_print_has_everything_open(
    request: pytest.FixtureRequest, opened: Chromium, tmp_path: Path, page: Path
) -> None:
    opened.pdf(tmp_path / "page.pdf")
    printed = (tmp_path / "page.pdf").read_bytes()
    assert printed.startswith(b"%PDF") and len(re.findall(rb"/Type\s*/Page\b", printed)) > 5
    opened.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert opened.evaluate("document.querySelectorAll('details:not([open])').length") == 0
    opened.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert opened.evaluate("document.querySelectorAll('details:not([open])').length") > 0
    folder = request.config.getoption("--screenshots")
    if folder:
        shutil.copy(tmp_path / "page.pdf", folder / f"{page.stem}.pdf")
