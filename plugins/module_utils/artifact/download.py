"""Fetch files of a package index: several at once, verified by hash, cached by content."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import netrc
import os
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from ..host import disk, untrusted
from ..host.command import BatonError, without_credentials
from .toolchain import Tools

_THREADS = 8
_TRIES = 3
_CHUNK = 1 << 20
_LONGEST_NAME = 200  # bytes; file systems allow 255, and the temporary name is longer
# limits of a file in bytes and seconds; the largest wheels have a few GiB
_LARGEST, _TIMEOUT = 2**34, 3600.0


@dataclass(frozen=True)
class Remote:
    """A file at a URL, with its expected hash ('' if unknown)."""

    url: str
    sha256: str = ""

    @property
    def filename(self) -> str:
        """The name of the file. Raises BatonError for a name that is unsafe as a file in a folder."""
        try:
            name = unquote(urlsplit(self.url).path.rsplit("/", 1)[-1])
        except ValueError:
            name = ""
        too_long = len(name.encode(errors="replace")) > _LONGEST_NAME
        if name in ("", ".", "..") or "/" in name or "\n" in name or too_long or untrusted.printable(name) != name:
            shown = without_credentials(self.url[:200])
            raise BatonError(f"The URL {shown!r} doesn't end with a valid file name.", "Correct it in the lock.")
        return name


def fetch_all(remotes: Iterable[Remote], tools: Tools) -> dict[Remote, Path]:
    """Fetch the files that the cache lacks. Returns the path of each. Raises BatonError."""
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
    """Return the SHA-256 of a file in hex."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _place(remote: Remote, tools: Tools) -> Path:
    key = remote.sha256 or hashlib.sha256(without_credentials(remote.url).encode()).hexdigest()
    return tools.cache / "files" / key / remote.filename


def _tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    # the variables that other tools read for a company's own authority
    for name in ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE"):
        if os.path.isfile(os.environ.get(name, "")):
            context.load_verify_locations(os.environ[name])
    return context


def _credentials(url: str, tools: Tools) -> tuple[str, str]:
    """Return the URL without credentials, and the Authorization header from the URL, index settings or ~/.netrc."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    bare = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    known = [tools.index_url, *tools.extra_index_urls]
    for variable in (
        "UV_DEFAULT_INDEX",
        "UV_INDEX",
        "UV_INDEX_URL",
        "UV_EXTRA_INDEX_URL",
        "PIP_INDEX_URL",
        "PIP_EXTRA_INDEX_URL",
    ):
        known += [word.partition("=")[2] if "=http" in word else word for word in os.environ.get(variable, "").split()]
    for candidate in (url, *known):
        other = urlsplit(candidate)
        # only for an index's own scheme, host and port: a lock can name another port, or plain HTTP
        if _server(other) == _server(parts) and other.username:
            return bare, _basic(unquote(other.username), unquote(other.password or ""))
    # a lock can name plain HTTP, over which credentials could be read on the network
    trusted = parts.scheme == "https" or any(_server(urlsplit(one)) == _server(parts) for one in known)
    try:
        entry = netrc.netrc().authenticators(host) if host and trusted else None
    except (OSError, netrc.NetrcParseError):
        entry = None
    return bare, _basic(entry[0], entry[2] or "") if entry else ""


def _server(parts: SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme, parts.hostname, parts.port or {"https": 443, "http": 80}.get(parts.scheme)


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def _host_of(url: str) -> str:
    with contextlib.suppress(ValueError):
        return urlsplit(url).hostname or url
    return url


def _copy(url: str, part: Path, tools: Tools, context: ssl.SSLContext) -> None:
    """Fetch a file to `part`. Raises OSError, HTTPException, ValueError."""
    url, authorization = _credentials(url, tools)
    if url.startswith("file:"):
        shutil.copyfile(unquote(urlsplit(url).path), part)
        return
    request = urllib.request.Request(url, headers={"User-Agent": "baton", "Accept-Encoding": "identity"})
    if authorization:
        request.add_unredirected_header("Authorization", authorization)
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context))
    deadline, left = time.monotonic() + _TIMEOUT, min(_LARGEST, disk.room(part.parent))
    with opener.open(request, timeout=60) as answer, part.open("wb") as file:
        # `copyfileobj` would wait for a whole chunk, without a limit in time
        while chunk := answer.read1(_CHUNK):
            file.write(chunk)
            left -= len(chunk)
            if left < 0 or time.monotonic() > deadline:
                raise OSError(
                    f"it is larger than {_LARGEST >> 30} GiB or than the room on the disk of {part.parent}, or takes "
                    f"longer than {_TIMEOUT / 60:.0f} min"
                )


def _fetch(remote: Remote, tools: Tools, context: ssl.SSLContext) -> Path:
    place = _place(remote, tools)
    tools.folder("files", place.parent.name)
    part = place.with_name(f".{place.name}.{os.getpid()}")
    for attempt in range(1, _TRIES + 1):
        try:
            _copy(remote.url, part, tools, context)
            break
        # the URL may be invalid, and the response anything
        except (OSError, http.client.HTTPException, ValueError) as error:
            part.unlink(missing_ok=True)
            final = isinstance(error, urllib.error.HTTPError) and error.code < 500 and error.code != 429
            if final or attempt == _TRIES:
                why = str(error)[:200] or type(error).__name__
                raise BatonError(
                    f"{remote.filename} can't be fetched from {_host_of(remote.url)} ({why}).",
                    "Check the controller's network and index settings (app_release_index_url, UV_*, ~/.netrc).",
                ) from None
    found = sha256_of(part)
    if remote.sha256 and found != remote.sha256:
        part.unlink()
        raise BatonError(
            f"{remote.filename} has the hash {found}, but the index lists {remote.sha256}.",
            "Run this again; if the error remains, the index or a proxy changes files.",
        )
    part.replace(place)
    return place
