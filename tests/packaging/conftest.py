"""The wheel that the tests of this folder install."""

from environments import wheel  # noqa: F401
