"""What every test leaves as it found it."""

import sys

import pytest


@pytest.fixture(autouse=True)
def no_figures_left_open():
    """Close what a test drew: the next one may count the open figures."""
    yield
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close("all")
