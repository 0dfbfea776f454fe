"""What a Retry-After says, whatever is in it."""

from __future__ import annotations

import email.utils
import time

import pytest
from ansible_collections.baton.web.plugins.module_utils.app import retry_after


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("12", 12),
        (" 3 ", 3),
        (None, 0),
        ("", 0),
        ("-5", 0),
        ("soon", 0),
        ("\u00b2", 0),
        ("Fri, 99 Foo 2026 99:99:99 GMT", 0),
    ],
)
def test_seconds_are_read_and_nonsense_is_none(header: str | None, seconds: float) -> None:
    assert retry_after.seconds(header) == seconds


def test_a_date_is_read_and_one_that_has_passed_is_none() -> None:
    later, earlier = (email.utils.formatdate(time.time() + ahead, usegmt=True) for ahead in (100, -100))
    assert retry_after.seconds(later) == pytest.approx(100, abs=5)
    assert retry_after.seconds(earlier) == 0
