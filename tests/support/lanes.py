"""Tests that are too long for every run, each seen to pass with this variable."""

import importlib.util
import os
import shutil

import pytest

LONG = pytest.mark.skipif(os.environ.get("UNLEARNREC_TEST_LONG") != "1", reason="UNLEARNREC_TEST_LONG is not 1")


def chromium() -> str | None:
    """The Chromium of this machine: UNLEARNREC_CHROMIUM, or the first that the PATH has; None where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return os.environ.get("UNLEARNREC_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


def _no_browser() -> str:
    """Why no test can run in a browser; "" where one can."""
    if os.environ.get("UNLEARNREC_TEST_BROWSER") != "1":
        return "UNLEARNREC_TEST_BROWSER is not 1"
    if chromium() is None:
        return "there is no Chromium: install one, or name it in UNLEARNREC_CHROMIUM"
    missing = [name for name in ("playwright", "axe_playwright_python") if importlib.util.find_spec(name) is None]
    return f"{missing[0]} is not installed" if missing else ""


BROWSER = pytest.mark.skipif(bool(_no_browser()), reason=_no_browser() or "there is a browser")
