"""What the ACME program does on its host besides certificates: modes, its lock, its alarm, and no proxy."""

from __future__ import annotations

import os
import pathlib
import signal
from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.roles.test_acme_certificate import (  # noqa: F401
    FIRST,
    SECOND,
    Host,
    acme,
    alone,
    serve_bundle,
    signed,
)


def mode(path: pathlib.Path) -> str:
    return oct(path.stat().st_mode & 0o777)


def test_modes_do_not_depend_on_the_umask(alone: Host) -> None:  # noqa: F811
    alone.certbot_obtains(signed())
    before = os.umask(0o077)
    try:
        alone.run()
    finally:
        os.umask(before)
    folder = (alone.root / "ssl/links").resolve()
    # the web server's workers read the certificate
    assert (mode(folder), mode(folder / "fullchain.pem"), mode(folder / "privkey.pem")) == ("0o755", "0o644", "0o600")
    assert mode(alone.root / "state/status.json") == "0o644"
    # certbot's, with the account's key
    assert mode(alone.root / "state/certbot") == "0o700"


def test_only_one_run_at_a_time_asks_the_authority(alone: Host) -> None:  # noqa: F811
    free = alone.root / "free"
    alone.program("certbot", f"flock --nonblock {alone.root}/state/lock touch {free}; echo asked; exit 1")
    assert "asked" in alone.run()["trouble"]
    assert not free.exists()


def test_alarm_of_an_answer_ends_with_it() -> None:
    with acme.at_most(60):
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    with pytest.raises(TimeoutError), acme.at_most(0.01):
        signal.pause()


def test_other_edges_are_not_asked_through_a_proxy(
    tmp_path: pathlib.Path,
    serve_bundle: Callable[..., int],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A proxy would see the certificates' keys, and can't reach the private network."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    first = Host(tmp_path / "first", FIRST, (FIRST, SECOND), 0)
    port = serve_bundle(FIRST, first.root / "state/bundle", 0)
    (first.root / "state/bundle").write_text("the bundle")
    settings = Host(tmp_path / "second", SECOND, (FIRST, SECOND), port).settings
    assert acme.ask(settings, FIRST) == b"the bundle"


def test_expired_certificate_of_certbot_is_not_offered(alone: Host) -> None:  # noqa: F811
    """A run that the web server's failure interrupted may have left it long ago."""
    offered: list[Any] = []
    lineage = alone.settings.lineage
    lineage.mkdir(parents=True)
    for days in (-1, 30):
        chain, key = signed(start=-60, end=days)
        (lineage / "fullchain.pem").write_text(chain)
        (lineage / "privkey.pem").write_text(key)
        alone.run()
        offered.append(alone.serves == chain if (alone.root / "ssl/links/fullchain.pem").exists() else False)
    assert offered == [False, True]
