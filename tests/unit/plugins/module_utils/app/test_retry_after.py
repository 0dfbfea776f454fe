"""The header Retry-After, whatever it contains."""

from __future__ import annotations

import email.utils
import threading
import time

import pytest
from ansible_collections.baton.web.plugins.module_utils.app import retry_after
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("12", 12),
        ("99999999999", retry_after.LONGEST),
        ("9" * 400, retry_after.LONGEST),
        ("Fri, 31 Dec 9999 23:59:59 GMT", retry_after.LONGEST),
        (" 3 ", 3),
        (None, 0),
        ("", 0),
        ("-5", 0),
        ("soon", 0),
        ("\u00b2", 0),
        ("Fri, 99 Foo 2026 99:99:99 GMT", 0),
    ],
)
def test_seconds_are_read_and_invalid_values_are_zero(header: str | None, seconds: float) -> None:
    assert retry_after.seconds(header) == seconds


def test_date_is_read_and_a_past_one_is_zero() -> None:
    later, earlier = (email.utils.formatdate(time.time() + ahead, usegmt=True) for ahead in (100, -100))
    assert retry_after.seconds(later) == pytest.approx(100, abs=5)
    assert retry_after.seconds(earlier) == 0


@given(
    st.text(max_size=60) | st.from_regex(r"(Fri, )?[0-9]{1,3} [A-Z][a-z]{2} [0-9]{1,5} [0-9:]{1,9}( [-+A-Z0-9]{1,6})?")
)
def test_any_header_gives_a_valid_wait(header: str) -> None:
    assert 0 <= retry_after.seconds(header) <= retry_after.LONGEST < threading.TIMEOUT_MAX
