"""What a unit logged last, in words that help."""

from __future__ import annotations

import json
import subprocess

import pytest
from ansible.module_utils.baton import systemd

ACCESS = {
    "json": json.dumps({"time": "2026-11-28T06:42:19.123Z", "level": "info", "logger": "access", "path": "/readyz"}),
    "text": "2026-11-28T06:42:19.123Z [77] [info] 127.0.0.1 GET /readyz HTTP/1.1 503 21B 0.4ms -",
}
LAST = [json.dumps({"level": "error", "logger": "app", "message": "no ledger", "exception": "KeyError: 'x'"}), "boom"]


@pytest.mark.parametrize("form", ACCESS)
@pytest.mark.parametrize("teller", ["tail", "ending"])
def test_an_application_s_last_words_are_not_the_requests_that_it_was_asked(
    monkeypatch: pytest.MonkeyPatch, form: str, teller: str
) -> None:
    lines = [*LAST, "", *[ACCESS[form]] * 60]
    if teller == "ending":
        lines = [json.dumps({"MESSAGE": line, "_PID": "77"}) for line in lines]

    def run(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess("", 0, "\n".join(lines), "")

    monkeypatch.setattr(subprocess, "run", run)
    said = systemd.tail("x.service", 0) if teller == "tail" else systemd.ending("x.service", 0).log
    assert said == "no ledger\nKeyError: 'x'\nboom"
