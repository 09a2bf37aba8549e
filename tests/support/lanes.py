"""Tests that are too long for every run, each seen to pass with this variable."""

import os

import pytest

LONG = pytest.mark.skipif(os.environ.get("UNLEARNREC_TEST_LONG") != "1", reason="UNLEARNREC_TEST_LONG is not 1")
