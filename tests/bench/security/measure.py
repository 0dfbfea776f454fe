"""Runs independent tools on the hosts of a Debian release: sslyze, testssl.sh, nmap, systemd-analyze and others."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
import shlex
import socket
import ssl
import subprocess
from collections.abc import Callable
from typing import Any

from tests.bench.controller import PROJECT, BenchError
from tests.support import ports

from . import injection, load
from .hosts import NAME, Hosts

HERE = pathlib.Path(__file__).resolve().parent
# by the setting nginx_server_tls_profile, the guidelines that sslyze checks: its own copy of Mozilla's, and the newer
# version 6.0 from Mozilla
PROFILES = {
    profile: {
        f"Mozilla 5.7 {profile}": [f"--mozilla_config={profile}"],
        f"Mozilla 6.0 {profile}": [f"--custom_tls_config={HERE / f'mozilla-6.0-{profile}.json'}"],
    }
    for profile in ("intermediate", "modern")
}
# by host; `*` and `?` as in systemctl's patterns, and `1` as the instance of a template
UNITS = {
    "app1": "links.service links-bridge.service links-rehearsal@1.service links-migration@1.service "
    "links-worker@1.service links-nightly.service",
    "edge1": "nginx.service",
    "data1": "postgresql@*-main.service redis-server@links.service",
}
CLIENTS = (load.CROWD, load.ATTACKER)
CLIENT_PACKAGES = ("testssl.sh", "wrk", "slowhttptest")
PACKAGES = (
    *("systemd", "nginx", "openssl", "postgresql", "redis-server", "valkey-server", "nmap"),
    *CLIENT_PACKAGES,
)
OPENSSL = f"openssl s_client -brief -servername {NAME}"
ANSWER_SECONDS = 20.0  # after which a connection without data counts as silent


@dataclasses.dataclass(frozen=True)
class Judgement:
    """The result of sslyze for one profile; without issues, the edge is compliant."""

    profile: str
    issues: list[str]


@dataclasses.dataclass(frozen=True)
class Scan:
    """The result of nmap for a host, seen from another."""

    host: str
    seen_from: str
    protocol: str
    open: list[int]
    closed: list[int]
    filtered: int


@dataclasses.dataclass(frozen=True)
class Grade:
    """The result of testssl.sh; its findings above LOW as id, severity and text."""

    grade: str
    findings: list[list[str]]


@dataclasses.dataclass(frozen=True)
class Release:
    """The figures of one Debian release; a field is empty if its part wasn't measured."""

    name: str
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    tls_versions: dict[str, list[str]] = dataclasses.field(default_factory=dict)  # cipher suites by TLS version
    key_exchange: str = ""  # between the edge and the same release's OpenSSL
    grade: Grade | None = None
    judgements: list[Judgement] = dataclasses.field(default_factory=list)
    exposure: dict[str, float] = dataclasses.field(default_factory=dict)  # by unit
    scans: list[Scan] = dataclasses.field(default_factory=list)
    answers: dict[str, list[int]] = dataclasses.field(default_factory=dict)  # statuses by request
    http2_answers: dict[str, list[int]] = dataclasses.field(default_factory=dict)
    http2_injected: int | None = None  # requests that reached the application although only a part of another one
    overload: load.Overload | None = None
    slow: list[load.Slow] = dataclasses.field(default_factory=list)


def measure(hosts: Hosts, parts: list[str]) -> Release:
    """Measure these parts on running hosts. Raises BenchError."""
    figures: dict[str, Any] = {}
    for part in parts:
        print(f"  {part} ...", flush=True)
        figures |= PARTS[part](hosts)
    name = hosts.run("app1", ". /etc/os-release; echo Debian $(cat /etc/debian_version)").strip()
    return Release(name=name, versions=_versions(hosts), **figures)


def _versions(hosts: Hosts) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in ("data1", "app1", "edge1", *CLIENTS):
        command = "dpkg-query --show --showformat '${Package} ${Version}\\n' " + " ".join(PACKAGES)
        output = hosts.run(name, f"{command} 2> /dev/null || true")
        listed = {package: version for package, _, version in (line.partition(" ") for line in output.splitlines())}
        # the clients' own release differs
        found |= {key: value for key, value in listed.items() if name not in CLIENTS or key in CLIENT_PACKAGES}
    return {package: found[package] for package in PACKAGES if found.get(package)}


def _tls(hosts: Hosts) -> dict[str, Any]:
    exchanged = hosts.run("data1", f"{OPENSSL} -connect {hosts.address('edge1')}:443 < /dev/null 2>&1")
    return {
        "tls_versions": _cipher_suites(hosts),
        "key_exchange": key_exchange(exchanged),
        "grade": _grade(hosts),
        "judgements": _judgements(hosts),
    }


def _judgements(hosts: Hosts) -> list[Judgement]:
    """Those of the default profile, and of the others with that setting."""
    default, *others = PROFILES
    judged = [Judgement(profile, _issues(hosts, options)) for profile, options in PROFILES[default].items()]
    for setting in others:
        hosts.provision({"nginx_server_tls_profile": setting})
        judged += [Judgement(profile, _issues(hosts, options)) for profile, options in PROFILES[setting].items()]
    hosts.provision()
    return judged


def _exposures(hosts: Hosts) -> dict[str, Any]:
    return {"exposure": {unit: value for name, units in UNITS.items() for unit, value in _exposure(hosts, name, units)}}


def _scans(hosts: Hosts) -> dict[str, Any]:
    pairs = (("edge1", "data1"), ("app1", "data1"), ("data1", "edge1"))
    return {
        "scans": [_scan(hosts, target, scanner, protocol) for target, scanner in pairs for protocol in ("IPv4", "IPv6")]
    }


def _requests(hosts: Hosts) -> dict[str, Any]:
    return {"answers": {name: ask(hosts.https, hosts.authority, request) for name, request in requests().items()}}


def _injections(hosts: Hosts) -> dict[str, Any]:
    listed = injection.requests(NAME)
    answers = {name: injection.ask(hosts.https, hosts.authority, NAME, *request) for name, request in listed.items()}
    # the application logs each request that it gets
    count = f"journalctl --sync; journalctl -u links.service -o cat | grep -c /{injection.INJECTED} || true"
    return {"http2_answers": answers, "http2_injected": int(hosts.run("app1", count))}


# the parts of a release's figures, which can be measured one by one
PARTS: dict[str, Callable[[Hosts], dict[str, Any]]] = {
    "tls": _tls,
    "exposure": _exposures,
    "ports": _scans,
    "requests": _requests,
    "http2": _injections,
    "slow": lambda hosts: {"slow": load.slow_clients(hosts)},
    "overload": lambda hosts: {"overload": load.overload(hosts)},
}


def sslyze_version() -> str:
    """The version of sslyze in the lock."""
    found = re.search(r"^sslyze==(\S+)", (HERE / "requirements.txt").read_text(), re.MULTILINE)
    assert found
    return found[1]


def _sslyze(hosts: Hosts, *options: str) -> subprocess.CompletedProcess[str]:
    venv = subprocess.run(
        [PROJECT / "scripts/package-venv", HERE.relative_to(PROJECT), "requirements.txt"],
        text=True,
        capture_output=True,
        check=False,
    )
    if venv.returncode:
        raise BenchError(f"sslyze could not be installed: {venv.stderr.strip()}")
    target = f"{NAME}:{hosts.https}{{127.0.0.1}}"
    command = [f"{venv.stdout.strip()}/bin/sslyze", f"--certinfo_ca_file={hosts.authority}", *options, target]
    return subprocess.run(command, text=True, capture_output=True, check=False)


def _issues(hosts: Hosts, options: list[str]) -> list[str]:
    """The differences from the profile."""
    done = _sslyze(hosts, *options)
    verdict = done.stdout.rpartition("COMPLIANCE AGAINST TLS CONFIGURATION")[2]
    if "Compliant." not in verdict and "Not compliant." not in verdict:
        raise BenchError(f"sslyze came to no verdict: {done.stderr.strip()[-500:]} {verdict.strip()}")
    return [line.strip()[2:] for line in verdict.splitlines() if line.strip().startswith("* ")]


def _grade(hosts: Hosts) -> Grade:
    """testssl.sh on the client's host, whose release has a version that grades."""
    load.prepare(hosts, load.CROWD, "testssl.sh bsdextrautils bind9-dnsutils")
    hosts.run(load.CROWD, "cat > /root/ca.pem", hosts.authority.read_text())
    options = f"--quiet --color 0 --warnings batch --add-ca /root/ca.pem --jsonfile /root/testssl.json {NAME}:443"
    # its exit code is the number of findings
    output = hosts.run(load.CROWD, f"rm -f /root/testssl.json; timeout 1800 testssl {options} 2>&1 < /dev/null || true")
    try:
        findings: list[dict[str, str]] = json.loads(hosts.run(load.CROWD, "cat /root/testssl.json"))
        (grade,) = [one["finding"] for one in findings if one["id"] == "overall_grade"]
    except (BenchError, ValueError, KeyError):
        raise BenchError(f"testssl.sh reports no grade: {output.strip()[-500:]}") from None
    return Grade(
        grade,
        [
            [one["id"], one["severity"], one["finding"]]
            for one in findings
            if one["severity"] in ("MEDIUM", "HIGH", "CRITICAL", "FATAL")
        ],
    )


def _cipher_suites(hosts: Hosts) -> dict[str, list[str]]:
    protocols = {"SSL 2.0": "sslv2", "SSL 3.0": "sslv3"} | {f"TLS 1.{minor}": f"tlsv1_{minor}" for minor in range(4)}
    protocols["TLS 1.0"] = "tlsv1"
    done = _sslyze(hosts, "--json_out=-", *(f"--{option}" for option in protocols.values()), "--mozilla_config=disable")
    try:
        (found,) = json.loads(done.stdout)["server_scan_results"]
        results: dict[str, Any] = found["scan_result"]
        return {
            protocol: [
                suite["cipher_suite"]["name"]
                for suite in results[f"{protocol.lower().translate(str.maketrans(' .', '__'))}_cipher_suites"][
                    "result"
                ]["accepted_cipher_suites"]
            ]
            for protocol in protocols
        }
    except (ValueError, KeyError, TypeError) as error:
        raise BenchError(f"sslyze's result can't be read: {error!r} {done.stderr.strip()[-500:]}") from None


def key_exchange(output: str) -> str:
    """The key exchange group that OpenSSL's client reports; before 3.2, it only reports the key."""
    found = re.findall(r"^(?:Negotiated TLS1\.3 group|(?:Peer|Server) Temp Key): (\w+)", output, re.MULTILINE)
    if not found:
        raise BenchError(f"openssl reports no key exchange: {output.strip()}")
    return str(found[-1])


def _exposure(hosts: Hosts, name: str, units: str) -> list[tuple[str, float]]:
    """The exposure of each unit according to systemd-analyze, from 0 (best sandbox) to 10 (no sandbox)."""
    words = " ".join(shlex.quote(unit) for unit in units.split())
    # a pattern selects the loaded units
    listing = (
        f"for unit in {words}; do case $unit in *'*'*) systemctl list-units --plain --no-legend $unit | cut -d' ' -f1"
    )
    script = (
        f"{listing};; *) echo $unit;; esac; done | while read unit; do systemd-analyze security --no-pager $unit; done"
    )
    found = re.findall(r"Overall exposure level for (\S+): ([0-9.]+)", hosts.run(name, f"set -f; {script}"))
    if len(found) < len(units.split()):
        raise BenchError(f"systemd-analyze reports not all units of {name}, only {dict(found)}")
    return [(re.sub(r"@[^.]+", "@", unit), float(value)) for unit, value in found]


def _scan(hosts: Hosts, target: str, scanner: str, protocol: str) -> Scan:
    hosts.run(scanner, ports.INSTALL)
    address = hosts.address(target)
    if protocol == "IPv6":
        for name in (target, scanner):
            hosts.run(name, ports.ENABLE_IPV6)
        address = hosts.run(target, ports.LINK_LOCAL).strip() + "%eth0"
    found = ports.read(hosts.run(scanner, ports.scan(address)))
    return Scan(target, scanner, protocol, found.open, found.closed, found.filtered)


def requests() -> dict[str, bytes]:
    """The requests by name, with the site's name as host."""
    listed: dict[str, str] = _invalid_requests()["requests"]
    return {name: for_site(text.encode("latin-1")) for name, text in listed.items()}


def requests_source() -> str:
    """The source of the requests."""
    document = _invalid_requests()
    return f"{document['source']}, at {document['commit'][:12]}"


def _invalid_requests() -> dict[str, Any]:
    return dict(json.loads((HERE / "invalid_requests.json").read_text()))


def for_site(request: bytes) -> bytes:
    """Replace the host by the site's name, because nginx would reject the request for another name."""
    named, count = re.subn(rb"(?m)^Host: [a-z.:0-9]+(?=\r\n)", b"Host: " + NAME.encode(), request, count=1)
    return named if count else request.replace(b"\r\n", b"\r\nHost: " + NAME.encode() + b"\r\n", 1)


def ask(port: int, authority: pathlib.Path, request: bytes) -> list[int]:
    """The statuses of all answers on one connection, until it ends or no more data arrives."""
    context = ssl.create_default_context(cafile=authority)
    received = b""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname=NAME) as connection,
    ):
        connection.sendall(request)
        connection.settimeout(ANSWER_SECONDS)
        try:
            while block := connection.recv(65536):
                received += block
        except (TimeoutError, ConnectionError, ssl.SSLError):
            pass
    return statuses(received)


def statuses(received: bytes) -> list[int]:
    """The statuses in the data of a connection. No body of nginx's own answers contains a status line."""
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3}) ", received)]
