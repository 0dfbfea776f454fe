"""What the certificate role takes for a good certificate, and what it refuses before anything is touched."""

from __future__ import annotations

import datetime
import ipaddress
import pathlib
from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.playbooks import Playbooks

Issue = Callable[..., tuple[str, str]]


def issue(*names: str, start: int = -1, end: int = 60) -> tuple[str, str]:
    """A certificate and its key as PEM, valid from and to so many days from now."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    alternatives: list[x509.GeneralName] = []
    for name in names:
        try:
            alternatives.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            alternatives.append(x509.DNSName(name))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(days=start))
        .not_valid_after(now + datetime.timedelta(days=end))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode(), private.decode()


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
    ("covered", "wanted", "missing"),
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
def test_a_provided_certificate_covers_the_names(
    provided: Callable[..., list[str]], covered: list[str], wanted: list[str], missing: str
) -> None:
    messages = provided(*issue(*covered), *wanted)
    if missing:
        assert len(messages) == 1
        assert f"but not {missing}." in messages[0]
    else:
        assert messages == []


@pytest.mark.parametrize(("start", "end"), [(-90, -1), (1, 90)], ids=["ended", "not begun"])
def test_a_provided_certificate_is_valid_now(provided: Callable[..., list[str]], start: int, end: int) -> None:
    messages = provided(*issue("links.example.org", start=start, end=end))
    assert len(messages) == 1
    assert "Provide one that is valid" in messages[0]


def test_a_provided_key_belongs_to_its_certificate(provided: Callable[..., list[str]]) -> None:
    certificate, _ = issue("links.example.org")
    _, other_key = issue("links.example.org")
    messages = provided(certificate, other_key)
    assert len(messages) == 1
    assert "doesn't belong to its certificate" in messages[0]
    assert "PRIVATE KEY" not in messages[0]


def test_the_first_certificate_of_a_chain_counts(provided: Callable[..., list[str]]) -> None:
    certificate, key = issue("links.example.org")
    intermediate, _ = issue("ca.example.org")
    assert provided(certificate + intermediate, key) == []
    assert provided(intermediate + certificate, key) != []


def test_files_that_are_not_there_are_named(load_role: Callable[[str], Any], tmp_path: pathlib.Path) -> None:
    role = load_role("tls_certificate")
    task = next(task for task in role.load("tasks/preflight_provided.yml") if "files are there" in task["name"])
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
    ("names", "written"),
    [
        (["www.example.org", "Links.example.org"], ["DNS:links.example.org", "DNS:www.example.org"]),
        (["links.example.org", "10.0.0.1", "fd00::1"], ["DNS:links.example.org", "IP:10.0.0.1", "IP:fd00::1"]),
        (["*.example.org", "*.example.org"], ["DNS:*.example.org"]),
    ],
    ids=str,
)
def test_names_are_written_as_a_certificate_writes_them(
    load_role: Callable[[str], Any], names: list[str], written: list[str]
) -> None:
    role = load_role("tls_certificate")
    assert role.value("__tls_certificate_wanted_names", tls_certificate_names=names) == written


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
def test_a_signed_certificate_is_replaced_when_it_must_be(
    load_role: Callable[[str], Any], changed: dict[str, Any], good: bool
) -> None:
    role = load_role("tls_certificate")
    certificate, _ = issue("links.example.org")
    # the certificate of this test signed itself, so it stands for its authority as well
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


def test_an_authority_without_its_key_is_refused(load_role: Callable[[str], Any], tmp_path: pathlib.Path) -> None:
    role = load_role("tls_certificate")
    (tmp_path / "ca.pem").write_text(issue("ca", end=3650)[0])
    messages = role.refusals(
        "tasks/preflight_self_signed.yml", tls_certificate_name="links", tls_certificate_ca_directory=str(tmp_path)
    )
    assert len(messages) == 1
    assert str(tmp_path / "ca.key") in messages[0]


def test_an_authority_that_was_interrupted_is_completed(
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
        # what it completes has the key that clients trust
        (True, "ca.key", (), False),
    ],
    ids=["a bare host", "a host with a certificate", "in check mode", "with the authority's key"],
)
def test_a_controller_without_the_authority_makes_none_for_clients_that_trust_another(
    tmp_path: pathlib.Path, installed: bool, kept: str, options: tuple[str, ...], refused: bool
) -> None:
    certificates, authority = tmp_path / "ssl", tmp_path / "tls"
    if installed:
        (certificates / ".links-self-signed").mkdir(parents=True)
        (certificates / ".links-self-signed/fullchain.pem").touch()
    authority.mkdir()
    if kept:
        (authority / kept).touch()
    preflight = {"ansible.builtin.include_role": {"name": "baton.web.tls_certificate", "tasks_from": "preflight"}}
    runner, playbook = Playbooks.written(tmp_path, {"tasks": [preflight]})
    done = runner.play(
        playbook,
        *options,
        tls_certificate_name="links",
        tls_certificate_names=["links.example.org"],
        tls_certificate_directory=str(certificates),
        tls_certificate_ca_directory=str(authority),
    )
    assert (done.status != 0) is refused, done.output
    told = ("app1:", f"{certificates}/.links-self-signed", f"{authority}", "ca.key, ca.pem", "a new authority")
    assert all(words in done.words for words in told) is refused
    assert not (authority / "ca.pem").exists()


@pytest.mark.parametrize(("days", "refused"), [(90, True), (30, False)])
def test_an_authority_that_ends_too_soon_is_refused(
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
    "wrong",
    [
        {"tls_certificate_name": "../links"},
        {"tls_certificate_names": []},
        {"tls_certificate_names": ["links example.org"]},
        {"tls_certificate_days": 30},
    ],
    ids=str,
)
def test_preflight_refuses(load_role: Callable[[str], Any], wrong: dict[str, Any]) -> None:
    right = {"tls_certificate_name": "links", "tls_certificate_names": ["links.example.org"]}
    role = load_role("tls_certificate")
    assert role.refusals(**right) == []
    messages = role.refusals(**{**right, **wrong})
    assert len(messages) == 1
    assert next(iter(wrong)) in messages[0]
