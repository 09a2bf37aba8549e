"""The pages in a real Chromium: what axe finds, the keyboard, narrow and wide, light and dark, and how they look.

UNLEARNREC_TEST_BROWSER=1 runs these tests. With UNLEARNREC_NEW_PICTURES=1 the pictures are made anew."""

import hashlib
import io
import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi")
from desk_output import desk_output, served
from lanes import BROWSER, chromium
from small_output import user_name

pytestmark = [BROWSER, pytest.mark.slow]

TOKEN = "the-token-of-the-desk"
PICTURES = Path(__file__).parent / "pictures"
WIDTHS, SCHEMES = (1280, 390), ("light", "dark")
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
MOST_DIFFERENT = 0.02
"""The share of the cells of a picture that may differ: fonts are drawn otherwise elsewhere."""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    from unlearnrec.cluster.desk import visits
    from unlearnrec.cluster.desk.app import make_site
    from unlearnrec.cluster.http.admission import AdmissionRules
    from unlearnrec.cluster.http.tokens import SCOPES, Token

    desk = desk_output(tmp_path_factory.mktemp("desk"), encoder=True)
    token = Token("privacy-desk", hashlib.sha256(TOKEN.encode()).digest(), frozenset(SCOPES))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(visits, "SIGN_INS", 1000)  # each test signs in
        site = make_site(desk.service, AdmissionRules((token,), 1 << 20, 1e6, 10**6))
    with served(site) as url:
        yield url


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        yield opened
        opened.close()


def signed_in(browser, address, width=1280, scheme="light"):
    page = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()
    page.goto(address)
    page.fill("#token", TOKEN)
    page.click("main button")
    return page


def wrong(page, width):
    """What axe and the width of the page say."""
    from axe_playwright_python.sync_playwright import Axe

    result = Axe().run(page, options={"runOnly": RULES})
    assert len(result.response["passes"]) > 10, "axe did not look"
    found = [(one["id"], one["nodes"][0]["html"][:200]) for one in result.response["violations"]]
    wide = page.evaluate("document.documentElement.scrollWidth")
    return found + ([("too wide", str(wide))] if wide > width else [])


PAGES = ("/desk/", "/desk/?show=all", "/desk/requests/held", "/desk/requests/done", "/desk/health", "/desk/versions")
FORMS = ("/desk/new", "/docs", "/desk/nothing")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_axe_finds_nothing_and_nothing_is_too_wide(browser, address, width, scheme):
    page = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    found = {"sign in": wrong(page, width)}
    page.fill("#token", TOKEN)
    page.click("main button")
    for path in (*PAGES, *FORMS):
        page.goto(address + path)
        found[path] = wrong(page, width)
    page.goto(f"{address}/desk/new")
    page.fill("#users", f"{user_name(5)}\nnobody")
    page.click("text=Show what it would touch >> nth=0")
    found["draft"] = wrong(page, width)
    page.fill("#request_id", "a b")
    page.click("text=Send the request")
    found["draft with an error"] = wrong(page, width)
    assert {name: one for name, one in found.items() if one} == {}
    assert all(url.startswith(address) for url in asked), "something is loaded from elsewhere"
    page.context.close()


def test_the_keyboard_alone_sends_a_request_and_cancels_it(browser, address):
    page = signed_in(browser, address)
    page.goto(f"{address}/desk/new")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.keyboard.press("Tab")
    page.keyboard.type(user_name(8))
    for _ in range(6):
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.tagName") == "BUTTON"
    page.keyboard.press("Enter")
    page.wait_for_url("**/drafts/*")
    assert user_name(8) not in page.content()
    page.focus("#request_id")
    page.keyboard.type("by-keyboard")
    page.keyboard.press("Enter")
    page.wait_for_url("**/requests/by-keyboard*")
    page.focus("summary")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_url("**said=cancelled")
    assert "The request is cancelled" in page.inner_text("[role=status]")
    stored = page.evaluate("JSON.stringify([localStorage, sessionStorage]) + document.cookie + location.href")
    assert user_name(8) not in stored and "unlearnrec-session" not in stored  # HttpOnly
    page.context.close()


def test_the_policy_stops_a_script_and_a_style_that_get_into_a_page(browser, address):
    page = signed_in(browser, address)
    page.evaluate(
        "() => { const s = document.createElement('script'); s.textContent = 'window.got = 1'; document.body.append(s);"
        " document.body.setAttribute('style', 'margin-left: 77px'); }"
    )
    assert page.evaluate("window.got") is None
    assert page.evaluate("getComputedStyle(document.body).marginLeft") != "77px"
    page.context.close()


def test_evidence_is_read_in_a_sandbox(browser, address):
    page = signed_in(browser, address)
    page.goto(f"{address}/desk/requests/done")
    page.click("text=Read evidence.html")
    assert "Evidence: request done" in page.inner_text("h1")
    assert page.evaluate("self.origin") == "null"
    page.context.close()


def test_paper_has_the_story_and_no_buttons(browser, address):
    page = signed_in(browser, address)
    page.goto(f"{address}/desk/requests/held")
    page.emulate_media(media="print")
    assert not page.is_visible("header nav") and not page.is_visible("main form")
    assert page.is_visible(".timeline") and page.is_visible("h1")
    page.context.close()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(("name", "path"), [("list", "/desk/?show=all"), ("request", "/desk/requests/done")])
def test_a_page_looks_as_it_did(browser, address, name, path, width):
    from PIL import Image

    page = signed_in(browser, address, width)
    page.goto(address + path)
    # Requests of other tests are left out, and so are times, digests and texts of the machine.
    page.evaluate(
        "() => { for (const row of document.querySelectorAll('tbody tr'))"
        " if (row.innerText.includes('by-keyboard')) row.remove() }"
    )
    hidden = page.locator("time, .files small, .when")
    found = page.screenshot(mask=[hidden], mask_color="#888888")
    cells = _cells(Image.open(io.BytesIO(found)))
    kept = PICTURES / f"{name}-{width}.png"
    if os.environ.get("UNLEARNREC_NEW_PICTURES") == "1":
        kept.parent.mkdir(exist_ok=True)
        Image.fromarray(cells.astype(np.uint8)).save(kept, optimize=True)
    before = np.asarray(Image.open(kept).convert("L"), dtype=np.int16)
    assert before.shape == cells.shape, "the page has another size"
    different = np.mean(np.abs(before - cells) > 40)
    assert different <= MOST_DIFFERENT, f"{different:.1%} of the page look otherwise than in {kept.name}"
    page.context.close()


def _cells(picture):
    """The picture in grey, one value for each cell of 5 x 5 pixels [height / 5, width / 5]."""
    grey = np.asarray(picture.convert("L"), dtype=np.int16)
    height, width = (size // 5 * 5 for size in grey.shape)
    return grey[:height, :width].reshape(height // 5, 5, width // 5, 5).mean(axis=(1, 3)).astype(np.int16)
