"""A plugin of pytest: with `FGVC_REQUIRE_LIBRARIES=1`, a test that is skipped because something is not installed fails instead.

The extra `dev` installs all that tests need. Where it does not, a green run would say less than it seems to.
"""

import os

import pytest


def checked(report):
    """The report, failed if it tells of a skip for want of a library, whose reason ends in "is not installed"."""
    if report.skipped and os.environ.get("FGVC_REQUIRE_LIBRARIES") and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if reason.endswith("is not installed"):
            report.outcome, report.longrepr = "failed", f"{reason}, and FGVC_REQUIRE_LIBRARIES is set"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    return checked((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report():
    return checked((yield))
