"""Certificates for tests."""

from __future__ import annotations

import datetime
import ipaddress
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa


class Issued(NamedTuple):
    """A certificate and its key, as PEM."""

    certificate: str
    key: str


def issue(
    *names: str,
    common_name: str = "test",
    start: float = -1,
    end: float = 60,
    authority: bool = False,
    usage: x509.ObjectIdentifier | None = None,
    signer: Issued | None = None,
    rsa_bits: int = 0,
) -> Issued:
    """A certificate for these DNS names and addresses, signed by `signer` or by itself.

    `start`, `end`: days from now. `authority`: whether it may sign others. `rsa_bits`: 0 for a key on a curve.
    """
    key: Any = rsa.generate_private_key(65537, rsa_bits) if rsa_bits else ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])
    own_id = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    issuer, issuer_id, issuer_key = subject, own_id, key
    if signer:
        signing = x509.load_pem_x509_certificate(signer.certificate.encode())
        issuer, issuer_key = signing.subject, serialization.load_pem_private_key(signer.key.encode(), None)
        issuer_id = signing.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(days=start))
        .not_valid_after(now + datetime.timedelta(days=end))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(own_id, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_id), critical=False)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([*map(_alternative, names)]), critical=False)
    if usage:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Issued(builder.sign(issuer_key, hashes.SHA256()).public_bytes(pem).decode(), private.decode())


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
