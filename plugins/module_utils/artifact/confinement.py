"""Run code of a source or a package on the controller, confined if possible.

A build backend, a build command, or a tool that starts one, always gets a clean environment and its own empty home. If
bubblewrap works, it also sees only the system's programs and the folders that it is given: no home, no agent's socket,
no other process.
"""

from __future__ import annotations

import contextlib
import netrc
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit

from ..host.command import BatonError, CommandError, run

AUTO, REQUIRED, OFF = "auto", "required", "off"
# The only variables that are passed on from the operator's environment: programs, locale, network access.
_KEPT = (
    *("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TERM", "TZ"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT", "NODE_EXTRA_CA_CERTS"),
)
# Variables with uv's index settings, passed on only to uv
_INDEX = re.compile(
    r"UV_(DEFAULT_INDEX|INDEX|INDEX_URL|EXTRA_INDEX_URL|FIND_LINKS|NO_INDEX|INDEX_STRATEGY|INSECURE_HOST|NATIVE_TLS"
    r"|SYSTEM_CERTS|HTTP_TIMEOUT|INDEX_\w+_(USERNAME|PASSWORD))"
)
_SYSTEM = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/opt", "/nix", "/snap"),
    *("/etc/alternatives", "/etc/ca-certificates", "/etc/fonts", "/etc/group", "/etc/host.conf", "/etc/hosts"),
    *("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime", "/etc/mime.types"),
    *("/etc/nsswitch.conf", "/etc/passwd", "/etc/pki", "/etc/protocols", "/etc/resolv.conf", "/etc/services"),
    *("/etc/ssl",),
)


@dataclass
class Confinement:
    """How untrusted code runs on this controller, and what has run."""

    setting: str = AUTO
    ran: list[str] = field(default_factory=list)

    @cached_property
    def obstacle(self) -> str:
        """Return why bubblewrap can't be used here; '' if it can."""
        if self.setting == OFF:
            return "app_release_build_confinement is off"
        program = shutil.which("bwrap")
        if program is None:
            return "bubblewrap is not installed"
        with tempfile.TemporaryDirectory(prefix="baton-home-") as home:
            try:
                run([*_bubblewrap(program, Path(home), Path(home), [], [], network=False), "true"], timeout=30)
            except CommandError as error:
                return f"bubblewrap doesn't work here: {error.last_lines(1)}"
        return ""

    @property
    def works(self) -> bool:
        """Whether code runs confined."""
        return not self.obstacle

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        what: str,
        cwd: Path,
        environment: Mapping[str, str],
        writable: Sequence[Path],
        readable: Sequence[Path] = (),
        index: bool = False,
        network: bool = False,
        timeout: float = 900,
    ) -> str:
        """Run a command and return its output. `what`: a description for messages; '' for Baton's own code.

        `index`: give it what uv needs to find packages, which is the controller's settings and the lines of ~/.netrc
        for those indexes. Raises BatonError and CommandError.
        """
        if self.setting == REQUIRED and self.obstacle:
            raise BatonError(
                f"{what or 'A build'} would run on the controller unconfined, because {self.obstacle}.",
                "Install bubblewrap, set app_release_build to host or builder for packages that hosts can build, or "
                "set app_release_build_confinement to auto.",
            )
        if what and what not in self.ran:
            self.ran.append(what)
        with tempfile.TemporaryDirectory(prefix="baton-home-") as folder:
            home = Path(folder)
            given = clean_environment(home)
            if index:
                found, places = _index_settings(home, environment)
                given |= found
                readable = [*readable, *places]
            given |= environment
            before: list[str] = []
            if self.works:
                program = shutil.which("bwrap") or "bwrap"
                before = _bubblewrap(program, home, cwd, writable, readable, network=network)
            return run([*before, *argv], cwd=cwd, env={**dict.fromkeys(os.environ), **given}, timeout=timeout)

    def report(self) -> str:
        """Return a sentence on what ran and whether it was confined; '' if nothing ran."""
        if not self.ran:
            return ""
        how, then = "confined by bubblewrap", ""
        if not self.works:
            how = f"with an empty home, but unconfined, because {self.obstacle}"
            then = "" if self.setting == OFF else " Install bubblewrap on the controller to confine it."
        return f"Code of the source or of its packages ran on the controller, {how}: {', '.join(self.ran)}.{then}"


def clean_environment(home: Path) -> dict[str, str]:
    """Return an environment with few variables of the operator's, and with folders below `home`."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    folders = {"HOME": home, "TMPDIR": home / "tmp", "XDG_CACHE_HOME": home / "cache"}
    (home / "tmp").mkdir(exist_ok=True)
    return {"PATH": os.defpath, **kept, **{name: str(path) for name, path in folders.items()}}


def _bubblewrap(
    program: str, home: Path, cwd: Path, writable: Sequence[Path], readable: Sequence[Path], *, network: bool
) -> list[str]:
    """Return the words to put before a command. They contain no variables: other users can read command lines."""
    words = [program, "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    if network:
        words.append("--share-net")
    for place in _SYSTEM:
        words += ["--ro-bind-try", place, place]
    words += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
    certificates = [Path(os.environ[name]) for name in _KEPT if "CERT" in name or "CA_" in name if os.environ.get(name)]
    for path in [*_own_programs(), *certificates, *readable]:
        words += ["--ro-bind-try", str(path), str(path)]
    for path in [home, *writable]:
        words += ["--bind", str(path), str(path)]
    return [*words, "--chdir", str(cwd), "--"]


def _own_programs() -> list[Path]:
    """Return the paths of this Python and of uv, which are usually below a home."""
    folders = [Path(sys.prefix), Path(sys.base_prefix)]
    uv = shutil.which("uv")
    paths = [*folders, *((Path(uv), Path(os.path.realpath(uv))) if uv else ())]
    home = Path.home().resolve()
    # never a whole home, even if it is Python's prefix
    return [path for path in paths if path.resolve() != home and path.resolve() not in home.parents]


def _index_settings(home: Path, environment: Mapping[str, str]) -> tuple[dict[str, str], list[Path]]:
    """Return the variables with uv's index settings, and the files and folders that they name."""
    given = {name: value for name, value in os.environ.items() if _INDEX.fullmatch(name)}
    places: list[Path] = []
    folders = [Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser(), Path("/etc")]
    files = [Path(os.environ["UV_CONFIG_FILE"])] if os.environ.get("UV_CONFIG_FILE") else []
    configuration = next((path for path in (*files, *(one / "uv/uv.toml" for one in folders)) if path.is_file()), None)
    values = [*given.values(), *(environment.get(name, "") for name in ("UV_DEFAULT_INDEX", "UV_INDEX"))]
    if configuration is not None:
        own = home / "uv.toml"
        shutil.copyfile(configuration, own)
        given["UV_CONFIG_FILE"] = str(own)
        values.append(own.read_text(encoding="utf-8", errors="replace"))
    hosts = set()
    for address in re.findall(r"(?:https?|file)://[^\s\"',\]]+", " ".join(values)):
        with contextlib.suppress(ValueError):
            parts = urlsplit(address)
            if parts.scheme == "file":
                places.append(Path(parts.path))
            hosts.add(parts.hostname or "")
    places += [Path(value) for value in given.get("UV_FIND_LINKS", "").replace(",", " ").split() if value[0] == "/"]
    lines = list(_netrc_lines(hosts))
    if lines:
        own = home / ".netrc"
        own.touch(mode=0o600)
        own.write_text("".join(f"{line}\n" for line in lines))
    return given, places


def _netrc_lines(hosts: set[str]) -> Iterator[str]:
    try:
        known = netrc.netrc(os.environ.get("NETRC"))
    except (OSError, netrc.NetrcParseError):
        return
    for host in sorted(hosts & set(known.hosts)):
        login, _, password = known.hosts[host]
        yield f"machine {host} login {login} password {password or ''}"
