"""Fetching files of a package index: several at once, verified, kept by content."""

from __future__ import annotations

import base64
import hashlib
import netrc
import os
import shutil
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from ..host.command import BatonError, without_credentials
from .toolchain import Tools

_THREADS = 8
_TRIES = 3
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Remote:
    """A file somewhere, with the hash it must have ('' when nobody says)."""

    url: str
    sha256: str = ""

    @property
    def filename(self) -> str:
        return unquote(urlsplit(self.url).path.rsplit("/", 1)[-1])


def fetch_all(remotes: Iterable[Remote], tools: Tools) -> dict[Remote, Path]:
    """Bring files into the cache."""
    wanted = list(dict.fromkeys(remotes))
    found: dict[Remote, Path] = {}
    missing = []
    for remote in wanted:
        path = _place(remote, tools)
        if path.is_file():
            found[remote] = path
        else:
            missing.append(remote)
    if missing:
        context = _tls()
        with ThreadPoolExecutor(_THREADS) as threads:
            paths = list(threads.map(lambda one: _fetch(one, tools, context), missing))
        found.update(zip(missing, paths, strict=True))
    return found


def sha256_of(path: Path) -> str:
    """The hash of a file."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _place(remote: Remote, tools: Tools) -> Path:
    key = remote.sha256 or hashlib.sha256(without_credentials(remote.url).encode()).hexdigest()
    return tools.cache / "files" / key / remote.filename


def _tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    # the names other tools know for a company's own authority
    for name in ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE"):
        if os.path.isfile(os.environ.get(name, "")):
            context.load_verify_locations(os.environ[name])
    return context


def _credentials(url: str, tools: Tools) -> tuple[str, str]:
    """(url without credentials, Authorization header), from the URL, the index settings or ~/.netrc."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    bare = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    known = [url, tools.index_url, *tools.extra_index_urls]
    for variable in (
        "UV_DEFAULT_INDEX",
        "UV_INDEX",
        "UV_INDEX_URL",
        "UV_EXTRA_INDEX_URL",
        "PIP_INDEX_URL",
        "PIP_EXTRA_INDEX_URL",
    ):
        known += [word.partition("=")[2] if "=http" in word else word for word in os.environ.get(variable, "").split()]
    for candidate in known:
        other = urlsplit(candidate)
        if other.hostname == host and other.username:
            return bare, _basic(unquote(other.username), unquote(other.password or ""))
    try:
        entry = netrc.netrc().authenticators(host) if host else None
    except (OSError, netrc.NetrcParseError):
        entry = None
    return bare, _basic(entry[0], entry[2] or "") if entry else ""


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def _fetch(remote: Remote, tools: Tools, context: ssl.SSLContext) -> Path:
    url, authorization = _credentials(remote.url, tools)
    request = urllib.request.Request(url, headers={"User-Agent": "baton", "Accept-Encoding": "identity"})
    if authorization:
        request.add_unredirected_header("Authorization", authorization)
    place = _place(remote, tools)
    tools.folder("files", place.parent.name)
    part = place.with_name(f".{place.name}.{os.getpid()}")
    for attempt in range(1, _TRIES + 1):
        try:
            if url.startswith("file:"):
                shutil.copyfile(unquote(urlsplit(url).path), part)
            else:
                opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context))
                with opener.open(request, timeout=60) as answer, part.open("wb") as file:
                    shutil.copyfileobj(answer, file, _CHUNK)
            break
        except (OSError, urllib.error.URLError) as error:
            part.unlink(missing_ok=True)
            final = isinstance(error, urllib.error.HTTPError) and error.code < 500 and error.code != 429
            if final or attempt == _TRIES:
                raise BatonError(
                    f"{remote.filename} can't be fetched from {urlsplit(url).hostname or url} ({error}).",
                    "Check the controller's network and index settings (app_release_index_url, UV_*, ~/.netrc).",
                ) from None
    found = sha256_of(part)
    if remote.sha256 and found != remote.sha256:
        part.unlink()
        raise BatonError(
            f"{remote.filename} has the hash {found}, not {remote.sha256} as the index says.",
            "Fetch again; if it stays so, the index or a proxy changes files.",
        )
    part.replace(place)
    return place
