"""Which certificates the role accepts, and what it refuses before anything changes."""

from __future__ import annotations

import base64
import ipaddress
import itertools
import json
import os
import pathlib
import shutil
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.support.certificate import issue
from tests.support.playbooks import Done, Playbooks, plugin
from tests.support.program import load, write_script

ROLE = pathlib.Path(__file__).resolve().parents[3] / "roles/tls_certificate"
PEM = serialization.Encoding.PEM
Issue = Callable[..., tuple[str, str]]


def preflight(folder: pathlib.Path) -> tuple[Playbooks, str]:
    """A playbook that runs the role's preflight on one host."""
    task = {"ansible.builtin.include_role": {"name": "baton.web.tls_certificate", "tasks_from": "preflight"}}
    return Playbooks.written(folder, {"tasks": [task]})


@pytest.fixture
def provided(load_role: Callable[[str], Any]) -> Callable[..., list[str]]:
    def check(certificate: str, key: str, *names: str, **given: Any) -> list[str]:
        variables = {
            "tls_certificate_name": "links",
            "tls_certificate_names": list(names) or ["links.example.org"],
            "tls_certificate_method": "provided",
            "tls_certificate_certificate_content": certificate,
            "tls_certificate_private_key_content": key,
            **given,
        }
        messages: list[str] = load_role("tls_certificate").refusals("tasks/preflight_provided.yml", **variables)
        return messages

    return check


@pytest.mark.parametrize(
    ("covered", "names", "missing"),
    [
        (["links.example.org"], ["links.example.org"], ""),
        (["links.example.org"], ["Links.Example.Org"], ""),
        (["*.example.org"], ["links.example.org", "www.example.org"], ""),
        (["*.example.org"], ["*.example.org"], ""),
        (["links.example.org", "10.0.0.1"], ["10.0.0.1"], ""),
        (["*.example.org"], ["example.org"], "DNS:example.org"),
        (["*.example.org"], ["a.b.example.org"], "DNS:a.b.example.org"),
        (["links.example.org"], ["linksXexample.org"], "DNS:linksxexample.org"),
        (["links.example.org"], ["10.0.0.1"], "IP:10.0.0.1"),
        (["links.example.org"], ["links.example.org", "www.example.org"], "DNS:www.example.org"),
    ],
    ids=str,
)
def test_provided_certificate_must_cover_the_names(
    provided: Callable[..., list[str]], covered: list[str], names: list[str], missing: str
) -> None:
    messages = provided(*issue(*covered), *names)
    if missing:
        assert len(messages) == 1
        assert f"but not {missing}." in messages[0]
    else:
        assert messages == []


@pytest.mark.parametrize(("start", "end"), [(-90, -1), (1, 90)], ids=["ended", "not begun"])
def test_provided_certificate_must_be_valid_now(provided: Callable[..., list[str]], start: int, end: int) -> None:
    messages = provided(*issue("links.example.org", start=start, end=end))
    assert len(messages) == 1
    assert "Provide one that is valid" in messages[0]


def test_provided_key_must_belong_to_its_certificate(provided: Callable[..., list[str]]) -> None:
    certificate, _ = issue("links.example.org")
    _, other_key = issue("links.example.org")
    messages = provided(certificate, other_key)
    assert len(messages) == 1
    assert "doesn't belong to its certificate" in messages[0]
    assert "PRIVATE KEY" not in messages[0]


def test_first_certificate_of_a_chain_is_the_servers(provided: Callable[..., list[str]]) -> None:
    certificate, key = issue("links.example.org")
    intermediate, _ = issue("ca.example.org")
    assert provided(certificate + intermediate, key) == []
    assert provided(intermediate + certificate, key) != []


def test_missing_files_are_refused(load_role: Callable[[str], Any], tmp_path: pathlib.Path) -> None:
    role = load_role("tls_certificate")
    task = next(task for task in role.load("tasks/preflight_provided.yml") if "files exist" in task["name"])
    missing = {
        "tls_certificate_name": "links",
        "tls_certificate_certificate_source": str(tmp_path / "chain.pem"),
        "tls_certificate_private_key_source": str(tmp_path / "key.pem"),
    }
    conditions = task["ansible.builtin.assert"]["that"]
    assert [role.value(condition, **missing) for condition in conditions] == [False, False]
    for file in ("chain.pem", "key.pem"):
        (tmp_path / file).write_text("x")
    assert [role.value(condition, **missing) for condition in conditions] == [True, True]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["www.example.org", "Links.example.org"], ["DNS:links.example.org", "DNS:www.example.org"]),
        (["links.example.org", "10.0.0.1", "fd00::1"], ["DNS:links.example.org", "IP:10.0.0.1", "IP:fd00::1"]),
        (["*.example.org", "*.example.org"], ["DNS:*.example.org"]),
        (["FD00:0::0001", "a::b.example.org"], ["DNS:a::b.example.org", "IP:fd00::1"]),
    ],
    ids=str,
)
def test_names_are_normalised_like_those_of_a_certificate(
    load_role: Callable[[str], Any], names: list[str], expected: list[str]
) -> None:
    role = load_role("tls_certificate")
    assert role.value("__tls_certificate_wanted_names", tls_certificate_names=names) == expected


@pytest.mark.parametrize(
    ("changed", "good"),
    [
        ({}, True),
        ({"tls_certificate_renew_days": 61}, False),
        ({"tls_certificate_names": ["links.example.org", "www.example.org"]}, False),
        ({"__tls_certificate_key": {"fingerprint": {"sha256": "another"}}}, False),
        ({"__tls_certificate_ca": {"subject_key_identifier": "another"}}, False),
    ],
    ids=["as it should be", "ends soon", "other names", "another key", "another authority"],
)
def test_signed_certificate_is_replaced_when_necessary(
    load_role: Callable[[str], Any], changed: dict[str, Any], good: bool
) -> None:
    role = load_role("tls_certificate")
    certificate, _ = issue("links.example.org")
    # a self-signed certificate, so it is its own authority
    present = role.value("text | community.crypto.x509_certificate_info", text=certificate)
    variables = {
        "tls_certificate_name": "links",
        "tls_certificate_names": ["links.example.org"],
        "__tls_certificate_present": present,
        "__tls_certificate_key": {"fingerprint": present["public_key_fingerprints"]},
        "__tls_certificate_ca": {"subject_key_identifier": present["subject_key_identifier"]},
        **changed,
    }
    assert role.value("__tls_certificate_good", **variables) is good


NAMES = x509.SubjectAlternativeName(
    [x509.DNSName("links.example.org"), x509.IPAddress(ipaddress.ip_address("fd00::1"))]
)
# what the role itself requests, in the settings' names
REQUEST: dict[str, list[tuple[Any, bool]]] = {
    "names": [(NAMES, False)],
    "constraints": [(x509.BasicConstraints(ca=False, path_length=None), True)],
    "key": [(x509.KeyUsage(True, *[False] * 8), True)],
    "usage": [(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)],
}


SIGNING = "Sign the certificate on the controller"


def signing_request(name: str = "Links.example.org", **changed: list[tuple[Any, bool]]) -> str:
    """A request for a certificate, whose parts are those of REQUEST unless they are given."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    )
    for extension, critical in itertools.chain(*(REQUEST | changed).values()):
        builder = builder.add_extension(extension, critical)
    return builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(PEM).decode()


def sign(folder: pathlib.Path, **given: Any) -> Done:
    """Have the role sign a certificate for app1, in `folder`/ssl, with an authority in `folder`/tls."""
    task = {"ansible.builtin.include_role": {"name": "baton.web.tls_certificate", "tasks_from": "sign"}}
    runner, playbook = Playbooks.written(folder, {"tasks": [task]}, **given)
    (folder / "ssl/.links-self-signed").mkdir(parents=True)
    key = ec.generate_private_key(ec.SECP256R1())
    text = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "ssl/.links-self-signed/privkey.pem").write_bytes(text)
    (folder / "tls").mkdir()
    for name, part in zip(("ca.pem", "ca.key"), issue("ca", end=3650), strict=True):
        (folder / "tls" / name).write_text(part)
    return runner.play(
        playbook,
        tls_certificate_name="links",
        tls_certificate_names=["Links.example.org", "FD00:0::1"],
        tls_certificate_directory=str(folder / "ssl"),
        tls_certificate_ca_directory=str(folder / "tls"),
    )


def test_authority_signs_what_the_settings_name(tmp_path: pathlib.Path) -> None:
    assert SIGNING in sign(tmp_path).check_status().output
    certificate = x509.load_pem_x509_certificate((tmp_path / "ssl/.links-self-signed/fullchain.pem").read_bytes())
    assert certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value == NAMES


@pytest.mark.parametrize(
    ("request_", "refused"),
    [
        (signing_request(), False),
        (signing_request("edges.example.org"), True),
        (signing_request(names=[(x509.SubjectAlternativeName([*NAMES, x509.DNSName("db.example.org")]), False)]), True),
        (signing_request(names=[]), True),
        (signing_request(constraints=[(x509.BasicConstraints(ca=True, path_length=None), True)]), True),
        (signing_request(usage=[(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False)]), True),
        (signing_request(key=[(x509.KeyUsage(*[True] * 9), True)]), True),
        (signing_request(more=[(x509.OCSPNoCheck(), False)]), True),
        ("{{ 7 * 7 }}", True),
        (["a", "list"], True),
    ],
    ids=[
        *("the role's own", "another name", "a further name", "no name", "an authority", "a client"),
        *("another key usage", "a further extension", "text", "a list"),
    ],
)
def test_authority_signs_nothing_else_for_a_host_that_was_taken_over(
    tmp_path: pathlib.Path, request_: Any, refused: bool
) -> None:
    (tmp_path / "answer").write_text(json.dumps({"changed": False, "csr": request_}))
    python = write_script(tmp_path / "python", f"cat > /dev/null\ncat {tmp_path}/answer")
    host = f"ansible_connection=local ansible_python_interpreter={python}"
    done = sign(tmp_path, host=host)
    assert (SIGNING not in done.output) is refused
    words = "failed: [app1] app1: the host's signing request for links isn't for Links.example.org, FD00:0::1 alone"
    assert (words in done.words) is refused


def test_authority_without_its_key_is_refused(load_role: Callable[[str], Any], tmp_path: pathlib.Path) -> None:
    role = load_role("tls_certificate")
    (tmp_path / "ca.pem").write_text(issue("ca", end=3650)[0])
    messages = role.refusals(
        "tasks/preflight_self_signed.yml", tls_certificate_name="links", tls_certificate_ca_directory=str(tmp_path)
    )
    assert len(messages) == 1
    assert str(tmp_path / "ca.key") in messages[0]


def test_interrupted_creation_of_an_authority_is_completed(
    load_role: Callable[[str], Any], tmp_path: pathlib.Path
) -> None:
    (tmp_path / "ca.key").write_text("x")
    role = load_role("tls_certificate")
    assert role.refusals("tasks/preflight_self_signed.yml", tls_certificate_ca_directory=str(tmp_path)) == []


@pytest.mark.parametrize(
    ("installed", "kept", "options", "refused"),
    [
        (False, "", (), False),
        (True, "", (), True),
        (True, "", ("--check",), True),
        # a half-created authority with the key that clients trust
        (True, "ca.key", (), False),
    ],
    ids=["a bare host", "a host with a certificate", "in check mode", "with the authority's key"],
)
def test_no_new_authority_is_created_if_hosts_have_certificates(
    tmp_path: pathlib.Path, installed: bool, kept: str, options: tuple[str, ...], refused: bool
) -> None:
    certificates, authority = tmp_path / "ssl", tmp_path / "tls"
    if installed:
        (certificates / ".links-self-signed").mkdir(parents=True)
        (certificates / ".links-self-signed/fullchain.pem").touch()
    authority.mkdir()
    if kept:
        (authority / kept).touch()
    runner, playbook = preflight(tmp_path)
    done = runner.play(
        playbook,
        *options,
        tls_certificate_name="links",
        tls_certificate_names=["links.example.org"],
        tls_certificate_directory=str(certificates),
        tls_certificate_ca_directory=str(authority),
    )
    assert (done.status != 0) is refused, done.output
    parts = ("app1:", f"{certificates}/.links-self-signed", f"{authority}", "ca.key, ca.pem", "a new authority")
    assert all(words in done.words for words in parts) is refused
    assert not (authority / "ca.pem").exists()


@pytest.mark.parametrize(
    ("keep", "another", "refused"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_certificate_of_another_authority_is_kept_if_required(
    tmp_path: pathlib.Path, keep: bool, another: bool, refused: bool
) -> None:
    certificates, authority = tmp_path / "ssl", tmp_path / "tls"
    (certificates / ".links-self-signed").mkdir(parents=True)
    authority.mkdir()
    certificate, key = issue("ca", end=3650)
    (authority / "ca.pem").write_text(certificate)
    (authority / "ca.key").write_text(key)
    (certificates / ".links-self-signed/fullchain.pem").write_text(issue("data1")[0] if another else certificate)
    runner, playbook = preflight(tmp_path)
    done = runner.play(
        playbook,
        tls_certificate_name="links",
        tls_certificate_names=["data1"],
        tls_certificate_directory=str(certificates),
        tls_certificate_ca_directory=str(authority),
        tls_certificate_keep_authority=keep,
    )
    assert (done.status != 0) is refused, done.output
    assert all(words in done.words for words in ("app1:", "another authority", str(authority))) is refused


@pytest.mark.parametrize(("days", "refused"), [(90, True), (30, False)])
def test_authority_that_expires_too_soon_is_refused(
    load_role: Callable[[str], Any], tmp_path: pathlib.Path, days: int, refused: bool
) -> None:
    certificate, key = issue("ca", end=60)
    (tmp_path / "ca.pem").write_text(certificate)
    (tmp_path / "ca.key").write_text(key)
    messages = load_role("tls_certificate").refusals(
        "tasks/preflight_self_signed.yml",
        tls_certificate_name="links",
        tls_certificate_ca_directory=str(tmp_path),
        tls_certificate_days=days,
    )
    assert bool(messages) is refused


@pytest.mark.parametrize(
    "changed",
    [
        {"tls_certificate_name": "../links"},
        {"tls_certificate_names": []},
        {"tls_certificate_names": ["links example.org"]},
        {"tls_certificate_days": 30},
    ],
    ids=str,
)
def test_preflight_refuses(load_role: Callable[[str], Any], changed: dict[str, Any]) -> None:
    valid = {"tls_certificate_name": "links", "tls_certificate_names": ["links.example.org"]}
    role = load_role("tls_certificate")
    assert role.refusals(**valid) == []
    messages = role.refusals(**{**valid, **changed})
    assert len(messages) == 1
    assert next(iter(changed)) in messages[0]


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("a" * 64 + ".example.org", "has a part of 64 characters"),
        (".".join(["a" * 63] * 4), "has 255 characters, more than 253"),
        ("10.0.0.300", "has only numbers"),
        ("12345", "has only numbers"),
        ("10.0.0.1:443", "is neither a host name nor an address"),
        ("links..example.org", "has an empty part"),
        ("*.", "has an empty part"),
        ("a" * 63 + ".example.org", ""),
        ("*.example.org", ""),
        ("db_1", ""),
        ("1.example.org", ""),
        ("10.0.0.1", ""),
        ("fd00::1", ""),
    ],
)
@pytest.mark.parametrize("method", ["self_signed", "provided"])
def test_names_that_clients_cannot_use_are_refused(
    load_role: Callable[[str], Any], method: str, name: str, cause: str
) -> None:
    given = {"tls_certificate_names": ["links.example.org", name], "tls_certificate_method": method}
    messages = load_role("tls_certificate").refusals(tls_certificate_name="links", **given)
    if cause:
        assert any(
            message.startswith("edge1: tls_certificate_names has names") and f"{name[:80]} {cause}" in message
            for message in messages
        )
    else:
        assert messages == []


ACME = {
    "tls_certificate_name": "links",
    "tls_certificate_names": ["links.example.org"],
    "tls_certificate_method": "acme",
}
DNS = {"tls_certificate_acme_challenge": "dns-01"}
RFC2136 = {"server": "10.0.0.9", "name": "key.", "secret": "c2VjcmV0"}


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"tls_certificate_acme_directory": "staging"},
        {"tls_certificate_acme_directory": "https://10.0.0.1:14000/dir"},
        {"tls_certificate_acme_directory": "https://[fd00::1]/acme/directory"},
        {"tls_certificate_acme_eab_key_id": "kid-1", "tls_certificate_acme_eab_hmac_key": "zWND_-a"},
        {"tls_certificate_names": ["xn--bcher-kva.example", "a.b.c.example.org"]},
        {
            **DNS,
            "tls_certificate_names": ["*.example.org", "example.org"],
            "tls_certificate_acme_dns_provider": "rfc2136",
            "tls_certificate_acme_dns_credentials": {
                **RFC2136,
                "algorithm": "HMAC-SHA256",
                "port": 5353,
                "sign_query": False,
            },
            "tls_certificate_acme_dns_propagation_seconds": 1200,
        },
        {"tls_certificate_acme_port": 8080, "tls_certificate_acme_public_addresses": ["203.0.113.10", "2001:DB8::1"]},
        {**DNS, "tls_certificate_acme_port": 8080, "tls_certificate_acme_dns_provider": "route53"},
        {**DNS, "tls_certificate_acme_dns_provider": "route53"},
        {
            **DNS,
            "tls_certificate_acme_dns_provider": "hetzner",
            "tls_certificate_acme_dns_credentials": {"HETZNER_API_KEY": "x"},
        },
    ],
    ids=str,
)
def test_valid_acme_settings_are_accepted(load_role: Callable[[str], Any], given: dict[str, Any]) -> None:
    assert load_role("tls_certificate").refusals("tasks/preflight_acme.yml", **{**ACME, **given}) == []


@pytest.mark.parametrize(
    ("given", "words"),
    [
        *(
            ({"tls_certificate_names": [name]}, ["tls_certificate_names", name, "another tls_certificate_method"])
            for name in ("10.0.0.1", "fd00::1", "localhost", "my_host.example.org", "-a.example.org", "a..example.org")
        ),
        ({"tls_certificate_names": ["a." * 127 + "example"]}, ["tls_certificate_names"]),
        ({"tls_certificate_names": ["b\u00fccher.example"]}, ["b\u00fccher.example", "xn--"]),
        ({"tls_certificate_names": ["links.example.org", "*.example.org"]}, ["*.example.org", "dns-01"]),
        *(
            ({"tls_certificate_acme_directory": url}, [f'"{url}"', "such as https://"])
            for url in ("letsencrypt", "http://ca.example/dir", "https://ca.example", "https://ca example/dir", "")
        ),
        (
            {"tls_certificate_acme_directory_roots_source": "/nowhere.pem"},
            ["/nowhere.pem", "no file on the controller"],
        ),
        ({"tls_certificate_roots_source": "/nowhere.pem"}, ["/nowhere.pem", "tls_certificate_roots_source", "no file"]),
        ({"tls_certificate_acme_email": "a@b,c@d"}, ["a@b,c@d"]),
        ({"tls_certificate_acme_eab_key_id": "kid"}, ["tls_certificate_acme_eab_hmac_key", "missing"]),
        (DNS, ["tls_certificate_acme_dns_provider"]),
        ({**DNS, "tls_certificate_acme_dns_provider": "rfc2136"}, ["server, name, secret"]),
        (
            {**DNS, "tls_certificate_acme_dns_provider": "cloudflare"},
            ["_dns_credentials lacks api_token"],
        ),
        ({**DNS, "tls_certificate_acme_dns_provider": "hetzner"}, ["the variables that lego reads"]),
        (
            {
                **DNS,
                "tls_certificate_acme_dns_provider": "hetzner",
                "tls_certificate_acme_dns_credentials": {"HETZNER_API_KEY": 'hid"den'},
            },
            ["HETZNER_API_KEY", "a quote"],
        ),
        (
            {
                **DNS,
                "tls_certificate_acme_dns_provider": "hetzner",
                "tls_certificate_acme_dns_credentials": {"HETZNER_API_KEY": "hidden\x1b"},
            },
            ["HETZNER_API_KEY", "another control"],
        ),
        ({"tls_certificate_acme_hosts": ["10.0.0.1"]}, ["tls_certificate_acme_own_address"]),
        (
            {**DNS, "tls_certificate_names": ["example.org", "*.Example.org", "WWW.example.org"]},
            ["tls_certificate_names has WWW.example.org beside a wildcard"],
        ),
        ({"tls_certificate_acme_port": 8080}, ["tls_certificate_acme_port is 8080", "port 80", "dns-01"]),
        *(
            ({"tls_certificate_acme_public_addresses": ["10.0.0.1", one]}, [f"public_addresses has {one}, which"])
            for one in ("10.0.0.0/24", "10.0.0.1:80", "edge.example.org", "10.0.0.300", "")
        ),
        *(
            (
                {
                    **DNS,
                    "tls_certificate_acme_dns_provider": "cloudflare",
                    "tls_certificate_acme_dns_credentials": {"api_token": "hidden"},
                    "tls_certificate_acme_dns_propagation_seconds": seconds,
                },
                [f"tls_certificate_acme_dns_propagation_seconds is {seconds}", "Give 0 to 1200"],
            )
            for seconds in (-1, 1201, 86400)
        ),
        (
            {
                **DNS,
                "tls_certificate_acme_dns_provider": "route53",
                "tls_certificate_acme_dns_propagation_seconds": 60,
            },
            [
                "tls_certificate_acme_dns_propagation_seconds is 60",
                "route53",
                "Remove tls_certificate_acme_dns_propagation_seconds.",
            ],
        ),
        (
            {
                **DNS,
                "tls_certificate_acme_dns_provider": "route53",
                "tls_certificate_acme_dns_credentials": {"access_key_id": "hidden"},
            },
            ["_dns_credentials lacks secret_access_key"],
        ),
        *(
            (
                {
                    **DNS,
                    "tls_certificate_acme_dns_provider": provider,
                    "tls_certificate_acme_dns_credentials": {**RFC2136, **given} if provider == "rfc2136" else given,
                },
                ["tls_certificate_acme_dns_credentials", provider, words],
            )
            for provider, given, words in (
                ("cloudflare", {"api_token": " "}, "api_token is empty"),
                ("hetzner", {"HETZNER_API_KEY": None}, "HETZNER_API_KEY is empty"),
                ("rfc2136", {"server": ""}, "server is empty"),
                ("rfc2136", {"server": "ns1.hidden.example"}, "server isn't an IPv4 or IPv6 address"),
                ("rfc2136", {"server": "10.0.0.9:53"}, "server isn't an IPv4 or IPv6 address"),
                ("rfc2136", {"algorithm": "hidden"}, "algorithm isn't one of HMAC-MD5, "),
                ("rfc2136", {"algorithm": "hmac-sha256"}, "algorithm isn't one of HMAC-MD5, "),
                ("rfc2136", {"port": "hidden"}, "port isn't a port"),
                ("rfc2136", {"port": 65536}, "port isn't a port"),
                ("rfc2136", {"secret": "hidden"}, "secret isn't base64"),
            )
        ),
    ],
    ids=str,
)
def test_invalid_acme_settings_are_refused(
    load_role: Callable[[str], Any], given: dict[str, Any], words: list[str]
) -> None:
    messages = load_role("tls_certificate").refusals("tasks/preflight_acme.yml", **{**ACME, **given})
    assert len(messages) >= 1
    for word in words:
        assert word in messages[0]
    assert "hidden" not in messages[0]
    assert messages[0].startswith("edge1: ")


def astray(load_role: Callable[[str], Any], found: dict[str, list[str]], **given: Any) -> dict[str, list[str]]:
    """The names that lead elsewhere, with their addresses, if the controller's resolver finds these."""
    answer = {"__tls_certificate_acme_resolved": {"stdout": json.dumps(found)}}
    listed = load_role("tls_certificate").value("__tls_certificate_acme_astray", **{**ACME, **given, **answer})
    return {one["key"]: one["value"] for one in listed}


def test_names_that_lead_elsewhere_are_found(load_role: Callable[[str], Any]) -> None:
    found = {
        "links.example.org": ["192.0.2.4", "2001:db8::4"],
        # what an edge is reached at
        "192.0.2.4": ["192.0.2.4"],
        "2001:db8::4": ["2001:db8::4"],
        "edge.example.org": ["192.0.2.5"],
    }
    reached = ["192.0.2.4", "2001:db8::4", "edge.example.org"]

    def wrong(of_site: list[str], **given: Any) -> list[list[str]]:
        changed = {**found, "links.example.org": of_site}
        return [*astray(load_role, changed, tls_certificate_acme_reached_at=reached, **given).values()]

    assert wrong(["192.0.2.4", "2001:db8::4"]) == []
    assert wrong(["192.0.2.5"]) == []
    assert wrong([]) == [[]]
    assert wrong(["192.0.2.9"]) == [["192.0.2.9"]]
    # of several addresses, the authority may use any
    assert wrong(["192.0.2.4", "2001:db8::9"]) == [["192.0.2.4", "2001:db8::9"]]
    assert wrong(["2001:db8::9"], tls_certificate_acme_public_addresses=["2001:DB8:0::9"]) == []
    assert wrong(["10.0.0.1"], tls_certificate_acme_hosts=["10.0.0.1"]) == []


def with_certbot(folder: pathlib.Path) -> dict[str, str]:
    """Settings of a host with certbot, whose files are in a folder."""
    (folder / "environment").mkdir()
    (folder / "environment/complete").touch()
    return {
        "tls_certificate_ca_directory": str(folder / "tls"),
        "tls_certificate_directory": str(folder / "ssl"),
        "__tls_certificate_acme_environment": str(folder / "environment"),
    }


def test_preflight_warns_of_names_that_lead_elsewhere(tmp_path: pathlib.Path) -> None:
    runner, playbook = preflight(tmp_path)
    given = {
        **ACME,
        # which no DNS has
        "tls_certificate_names": ["links.invalid"],
        "tls_certificate_acme_reached_at": ["192.0.2.4"],
        **with_certbot(tmp_path),
    }
    words = "links.invalid is not in the DNS. Expected: 192.0.2.4. Correct the DNS records"
    assert words in runner.succeed(playbook, **given).words
    # nobody connects to the hosts
    asks_dns = {**DNS, "tls_certificate_acme_dns_provider": "route53"}
    assert "is not in the DNS" not in runner.succeed(playbook, **given, **asks_dns).words


def test_roots_of_an_acme_authority_must_be_certificates(tmp_path: pathlib.Path) -> None:
    roots, rubbish = tmp_path / "roots.pem", tmp_path / "rubbish.pem"
    roots.write_text(issue("ca", authority=True).certificate)
    rubbish.write_text("rubbish")
    runner, playbook = preflight(tmp_path)
    given = {
        **ACME,
        **DNS,
        "tls_certificate_acme_dns_provider": "route53",
        "tls_certificate_acme_directory_roots_source": str(roots),
        **with_certbot(tmp_path),
    }
    done = runner.play(playbook, tls_certificate_roots_source=str(rubbish), **given)
    assert done.status != 0
    for words in ("app1: ", str(rubbish), "tls_certificate_roots_source", "can't be read as PEM"):
        assert words in done.words
    runner.succeed(playbook, tls_certificate_roots_source=str(roots), **given)


def test_acme_secrets_are_readable_only_by_root(load_role: Callable[[str], Any]) -> None:
    given = {
        **ACME,
        **DNS,
        "tls_certificate_acme_dns_provider": "cloudflare",
        "tls_certificate_acme_dns_credentials": {"api_token": "hidden-token"},
        "tls_certificate_acme_eab_key_id": "kid",
        "tls_certificate_acme_eab_hmac_key": "hidden-hmac",
    }
    role = load_role("tls_certificate")
    with_secrets = role.value("__tls_certificate_acme_secret_files", **given)
    assert {file["mode"] for file in with_secrets} == {"0600", "0700"}
    text = json.dumps(with_secrets)
    assert 'dns_cloudflare_api_token = \\"hidden-token\\"' in text
    assert "eab-hmac-key = hidden-hmac" in text
    assert "hidden" not in json.dumps(role.value("__tls_certificate_acme_files", **given))


@pytest.mark.parametrize("roots", [True, False], ids=["roots", "public"])
def test_acme_program_gets_its_settings_and_roots(
    load_role: Callable[[str], Any], tmp_path: pathlib.Path, roots: bool
) -> None:
    source = tmp_path / "roots.pem"
    source.write_text("a root\n")
    settings = ("tls_certificate_acme_directory_roots_source", "tls_certificate_roots_source")
    given = {**ACME, **({setting: str(source) for setting in settings} if roots else {})}
    role = load_role("tls_certificate")
    (tmp_path / "settings.json").write_text(json.dumps(role.value("__tls_certificate_acme_settings", **given)))
    program = load(ROLE / "files/acme_certificate.py", "acme_certificate")
    found = program.Settings.read(str(tmp_path / "settings.json"))
    folder = "/etc/acme-certificate/links"
    assert found.roots == ((f"{folder}/roots.pem", f"{folder}/issuers.pem") if roots else ())
    files = {file["path"]: file for file in role.value("__tls_certificate_acme_files", **given)}
    for name in ("roots.pem", "issuers.pem"):
        file = files[f"{folder}/{name}"]
        assert (file["state"], file["content"]) == (("file", "a root\n") if roots else ("absent", ""))


def test_acme_account_files_outside_their_folder_are_ignored(load_role: Callable[[str], Any]) -> None:
    role = load_role("tls_certificate")
    base = role.value("__tls_certificate_acme_lineages", **ACME) + "/accounts"
    good = f"{base}/10.0.0.1:14000/dir/0a1b/private_key.json"
    wrong = [
        f"{base}/../../x.json",
        "/etc/x.json",
        f"{base}/a/../../../x.json",
        f"{base}/.git/x.json",
        f"{base}/a\n.json",
    ]
    found = {"files": [{"path": path} for path in [good, *wrong]]}
    given = {**ACME, "__tls_certificate_acme_account": found}
    assert role.value("__tls_certificate_acme_account_files", **given) == [good]


def test_acme_account_is_kept_on_the_controller_within_limits(tmp_path: pathlib.Path) -> None:
    """Also if it is a compromised edge's."""
    task = {"ansible.builtin.include_role": {"name": "baton.web.tls_certificate", "tasks_from": "acme_account"}}
    state, kept = tmp_path / "lineages", tmp_path / "kept"
    account = state / "accounts/ca.example.org/directory/0a1b"
    names = ("meta.json", "private_key.json", "regr.json")
    for folder in (account, *(state / f"accounts/z/{number}" for number in range(10))):
        folder.mkdir(parents=True)
        for name in names:
            (folder / name).write_text(json.dumps({"of": folder.name}))
    (state / "accounts/0").mkdir()
    (state / "accounts/0/meta.json").write_text("x" * 100_000)
    runner, playbook = Playbooks.written(tmp_path, {"tasks": [task]})
    given = {
        "tls_certificate_name": "links",
        "__tls_certificate_acme_lineages": str(state),
        "__tls_certificate_acme_kept_account": str(kept),
    }
    runner.play(playbook, **given).check_status()
    found = {path.relative_to(kept): path.read_text() for path in kept.rglob("*.json")}
    assert len(found) == 29  # of 30, one is too large
    for name in names:
        path = pathlib.Path("ca.example.org/directory/0a1b", name)
        assert json.loads(found[path]) == {"of": "0a1b"}
        assert (kept / path).stat().st_mode & 0o777 == 0o600
    assert runner.play(playbook, **given).check_status().changed == [0]


ACCOUNT = ("meta.json", "private_key.json", "regr.json")


def write_account(folder: pathlib.Path, account: str, when: float) -> dict[str, str]:
    """Write the files of an account, as certbot does; return their contents."""
    place = folder / "ca.example.org/directory" / account
    place.mkdir(parents=True)
    for name in ACCOUNT:
        (place / name).write_text(json.dumps({"of": account}))
        os.utime(place / name, (when, when))
    return accounts(folder)


def accounts(folder: pathlib.Path) -> dict[str, str]:
    """The contents of all accounts, by path."""
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*.json"))}


def test_replaced_acme_account_replaces_the_controllers_copy(tmp_path: pathlib.Path) -> None:
    task = {"ansible.builtin.include_role": {"name": "baton.web.tls_certificate", "tasks_from": "acme_account"}}
    state, kept, now = tmp_path / "lineages", tmp_path / "kept", time.time()
    runner, playbook = Playbooks.written(tmp_path, {"tasks": [task]})
    given = {
        "tls_certificate_name": "links",
        "__tls_certificate_acme_lineages": str(state),
        "__tls_certificate_acme_kept_account": str(kept),
    }
    first = write_account(state / "accounts", "0a1b", now - 60)
    runner.succeed(playbook, **given)
    assert accounts(kept) == first
    # certbot began anew without it
    shutil.rmtree(state / "accounts")
    second = write_account(state / "accounts", "2c3d", now + 60)
    runner.succeed(playbook, **given)
    # certbot would use none of two
    assert accounts(kept) == second
    assert [path.name for path in kept.glob("*/*/*")] == ["2c3d"]
    assert runner.succeed(playbook, **given).changed == [0]
    # a reinstalled host gets it
    shutil.rmtree(state / "accounts")
    runner.succeed(playbook, **given)
    assert accounts(state / "accounts") == second
    assert runner.succeed(playbook, **given).changed == [0]


def listed(account: str, when: float, names: tuple[str, ...] = ACCOUNT) -> dict[str, Any]:
    """The files of an account, as Ansible's module lists them."""
    base = "/var/lib/acme-certificate/links/certbot-0/accounts/ca/directory"
    return {"files": [{"path": f"{base}/{account}/{name}", "checksum": account, "mtime": when} for name in names]}


@pytest.mark.parametrize(
    ("hosts", "kept", "holder"),
    [
        ([None, None], None, ""),
        ([None, listed("a", 1)], None, "edge2"),
        ([listed("a", 1), listed("a", 5)], listed("a", 3), ""),
        # one was replaced after the copy was made; the other host still has the copy
        ([listed("a", 1), listed("b", 5)], listed("a", 3), "edge2"),
        ([listed("b", 5), listed("a", 1)], listed("a", 3), "edge1"),
        # the copy is of the later account
        ([listed("a", 1), listed("b", 5)], listed("b", 6), ""),
        ([listed("b", 5), listed("c", 7)], listed("a", 3), "edge2"),
        # an incomplete copy, an incomplete account
        ([listed("a", 1), None], listed("a", 3, ACCOUNT[:1]), "edge1"),
        ([listed("b", 5, ACCOUNT[:2]), None], listed("a", 3), ""),
        ([{"files": [{"path": 1, "mtime": "x"}, 7]}, {"files": 7}], listed("a", 3), ""),
    ],
)
def test_later_acme_account_of_a_host_is_kept(
    hosts: list[dict[str, Any] | None], kept: dict[str, Any] | None, holder: str
) -> None:
    hostvars = {
        f"edge{number}": {} if found is None else {"__tls_certificate_acme_account": found}
        for number, found in enumerate(hosts, 1)
    }
    find = plugin("filter/certificate").acme_account_holder
    assert find(hostvars, list(hostvars), kept or {"matched": 0}, "^/var/lib/acme-certificate/.*[.]json") == holder


def test_timer_run_with_previous_settings_ends_before_the_certificate_is_requested(
    load_role: Callable[[str], Any], tmp_path: pathlib.Path
) -> None:
    role = load_role("tls_certificate")
    (block,) = role.load("tasks/obtain.yml")
    (command,) = [task for task in block["block"] if "Request the certificate" in task["name"]]
    argv = role.templar(**ACME).template(command["ansible.builtin.command"]["argv"])
    (tmp_path / "bin").mkdir()
    body = 'echo "$*" >> {0}/log; [ $1 = start ] && rm -f {0}/runs; [ -e {0}/runs ] && echo activating; true'
    write_script(tmp_path / "bin/systemctl", body.format(tmp_path))
    for runs in (True, False):
        if runs:
            (tmp_path / "runs").touch()
        (tmp_path / "log").write_text("")
        subprocess.run(argv, check=True, env={**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"})
        started = [line for line in (tmp_path / "log").read_text().splitlines() if line.startswith("start ")]
        assert started == ["start acme-links.service"] * (2 if runs else 1)


def test_controller_that_cannot_download_certbot_is_refused_before_any_change(tmp_path: pathlib.Path) -> None:
    wheels = tmp_path / "cache/wheels"
    wheels.mkdir(parents=True)
    task = {"ansible.builtin.include_role": {"name": "baton.web.tls_certificate", "tasks_from": "preflight"}}
    runner, playbook = Playbooks.written(
        tmp_path,
        {"tasks": [task], "gather_facts": True, "gather_subset": ["min"]},
        environment={"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": ""},
    )
    given = {
        **ACME,
        **DNS,
        "tls_certificate_acme_dns_provider": "route53",
        "tls_certificate_ca_directory": str(tmp_path / "tls"),
        "tls_certificate_directory": str(tmp_path / "ssl"),
        "__tls_certificate_acme_environment": str(tmp_path / "environment"),
        "__tls_certificate_acme_wheels": str(wheels),
    }
    done = runner.play(playbook, **given)
    assert done.status != 0
    for words in ("app1: tls_certificate_method acme", "can't download its packages", "No matching", "PIP_INDEX_URL"):
        assert words in done.words
    # an archive in the cache is complete
    wheels.with_name("wheels.tar").touch()
    runner.succeed(playbook, **given)


def test_environments_that_no_unit_uses_are_removed(tmp_path: pathlib.Path) -> None:
    task = {"ansible.builtin.include_role": {"name": "baton.web.tls_certificate", "tasks_from": "acme_prune"}}
    for name in ("used", "old", "new"):
        (tmp_path / "environments" / name / "venv").mkdir(parents=True)
    for name in ("used", "old"):
        os.utime(tmp_path / "environments" / name, (0, 0))
    runner, playbook = Playbooks.written(tmp_path, {"tasks": [task]})
    given = {**ACME, "__tls_certificate_acme_environment": str(tmp_path / "environments/used")}
    runner.succeed(playbook, **given)
    # the new one may be one that a run for another certificate creates
    assert sorted(path.name for path in (tmp_path / "environments").iterdir()) == ["new", "used"]
    assert runner.succeed(playbook, **given).changed == [0]


CHECK = ROLE / "files/check-certificate"


def check_certificate(folder: pathlib.Path, chain: str, *names: str, roots: str = "", key: str = "") -> str:
    """The messages of check-certificate."""
    files = {"roots": roots, "key": key}
    paths = [str(folder / name) if text else "" for name, text in files.items()]
    for name, text in files.items():
        (folder / name).write_text(text)
    done = subprocess.run(
        ["sh", str(CHECK), "-", *paths, *names], input=chain, text=True, capture_output=True, check=False
    )
    assert (done.returncode == 0) == (done.stdout == ""), done
    return done.stdout


class Chain:
    """A root, an intermediate and a server's certificate."""

    def __init__(self, bits: int = 2048) -> None:
        root = issue(common_name="root", authority=True)
        middle = issue(common_name="middle", authority=True, signer=root)
        names = ("links.example.org", "*.b.example.org")
        self.leaf, self.key = issue(*names, common_name="leaf", signer=middle, rsa_bits=bits)
        self.root, self.middle = root.certificate, middle.certificate


def test_chain_must_be_complete(tmp_path: pathlib.Path) -> None:
    chain = Chain()
    names = ["links.example.org", "x.b.example.org", "*.b.example.org"]
    assert check_certificate(tmp_path, chain.leaf + chain.middle, *names, roots=chain.root, key=chain.key) == ""
    assert check_certificate(tmp_path, chain.leaf + chain.middle + chain.root, *names) == ""
    assert "unable to get local issuer" in check_certificate(tmp_path, chain.leaf, roots=chain.root)
    assert "certificate 1 of the chain" in check_certificate(tmp_path, chain.leaf + chain.middle)
    assert "mismatch" in check_certificate(tmp_path, chain.leaf + chain.middle + chain.root, "www.example.org")
    other = Chain().key
    assert "the key doesn't belong" in check_certificate(tmp_path, chain.leaf + chain.middle + chain.root, key=other)
    assert "OpenSSL can not read it" in check_certificate(tmp_path, "rubbish")


@pytest.mark.parametrize(("end", "message"), [(-0.5, "expired"), (60, "")])
def test_expired_certificate_is_refused(tmp_path: pathlib.Path, end: float, message: str) -> None:
    output = check_certificate(tmp_path, issue("links.example.org", end=end)[0])
    assert message in output
    assert bool(output) is bool(message)


def test_weak_keys_are_refused(tmp_path: pathlib.Path) -> None:
    weak = Chain(bits=1024)
    assert "too weak" in check_certificate(tmp_path, weak.leaf + weak.middle + weak.root)


def test_preflight_checks_a_provided_certificate_with_openssl(tmp_path: pathlib.Path) -> None:
    chain = Chain()
    runner, playbook = preflight(tmp_path)
    given = {
        "tls_certificate_name": "links",
        "tls_certificate_names": ["links.example.org"],
        "tls_certificate_method": "provided",
        "tls_certificate_private_key_content": chain.key,
    }
    done = runner.play(playbook, tls_certificate_certificate_content=chain.leaf, **given)
    assert done.status != 0
    for words in ("clients would refuse the certificate of links", "issuer certificate", "append the intermediate"):
        assert words in done.words
    (tmp_path / "roots.pem").write_text(chain.root)
    runner.succeed(
        playbook,
        tls_certificate_certificate_content=chain.leaf + chain.middle,
        tls_certificate_roots_source=str(tmp_path / "roots.pem"),
        **given,
    )


@pytest.mark.parametrize(
    ("content", "trouble", "invalid"),
    [
        (None, "", ""),
        (b'{"trouble": "too many certificates", "issued": true}', "too many certificates", ""),
        (b'{"trouble": ["{{ 7 * 7 }}"], "issued": "yes"}', "", ""),
        (b"[]", "", "it is not an object"),
        (b"{{ 7 * 7 }}", "", "it is not valid JSON"),
        (b"[" * 100_000, "", "nested more than 32 deep"),
        (b"\xff", "", "it is not valid JSON"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_outcome_of_a_request_on_the_host_is_untrusted(
    load_role: Callable[[str], Any], content: bytes | None, trouble: str, invalid: str
) -> None:
    said = {} if content is None else {"content": base64.b64encode(content).decode()}
    given = {**ACME, "__tls_certificate_acme_said": said, "__tls_certificate_acme_run": {"rc": 0}}
    role = load_role("tls_certificate")
    assert role.value("__tls_certificate_acme_trouble", **given) == trouble
    (task,) = role.load("tasks/obtain.yml")
    (check,) = [one["ansible.builtin.assert"] for one in task["block"] if "ansible.builtin.assert" in one]
    templar = role.templar(**given)
    assert templar.evaluate_conditional(check["that"]) is not bool(invalid)
    if invalid:
        message = templar.template(check["fail_msg"])
        assert message.startswith("edge1: /var/lib/acme-certificate/links/status.json, which records ")
        assert invalid in message
        assert "Remove it from the host" in message
