"""What holds for every test."""

import faulthandler

import pytest
from hypothesis import settings

EXIT_S = 60.0
"""Most seconds from the last test to the end of the process."""

# No limit of time for one example: the machine is shared, and a slow moment is not a defect.
settings.register_profile("suite", deadline=None, print_blob=True)
settings.load_profile("suite")


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """A thread that somebody left behind must not hold up the exit without a word: show where it is, and fail."""
    faulthandler.dump_traceback_later(EXIT_S, exit=True)
