"""Credentials as systemd reads them: in plain text, or encrypted by the host's systemd-creds."""

from __future__ import annotations

import pathlib
import subprocess

import pytest
from ansible_collections.baton.web.plugins.module_utils.app import masking
from ansible_collections.baton.web.plugins.module_utils.host import credential, files


@pytest.fixture(autouse=True)
def host_key(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A host key that isn't this machine's."""
    key = tmp_path_factory.mktemp("host") / "credential.secret"
    monkeypatch.setenv("SYSTEMD_CREDENTIAL_SECRET", str(key))
    return key


def test_encrypted_content_round_trips(tmp_path: pathlib.Path) -> None:
    for name, content in {"TOKEN": b"se\ncret\n", "EMPTY": b"", "BINARY": bytes(range(1, 256))}.items():
        path = tmp_path / f"{name}.host.cred"
        path.write_bytes(credential.encrypted(path, content))
        assert not content or content not in path.read_bytes()
        assert credential.read(path) == content


def test_credential_is_bound_to_its_name(tmp_path: pathlib.Path) -> None:
    token, other = tmp_path / "TOKEN.host.cred", tmp_path / "ADMIN.host.cred"
    other.write_bytes(credential.encrypted(token, b"secret"))
    with pytest.raises(credential.CredentialError, match=r"ADMIN\.host\.cred: systemd-creds decrypt: .*TOKEN"):
        credential.read(other)


def test_failure_names_the_file_and_the_cause(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "TOKEN.host.cred"
    path.write_text("no credential")
    with pytest.raises(credential.CredentialError, match=r"TOKEN\.host\.cred: systemd-creds decrypt: \w"):
        credential.read(path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(credential.CredentialError, match="systemd-creds encrypt: No such file or directory"):
        credential.encrypted(path, b"secret")


def apply(path: pathlib.Path, content: str, *, dry: bool = False) -> list[tuple[str, str]]:
    owner, group = path.parent.owner(), path.parent.group()
    wanted = files.DesiredFile(path, content=content, owner=owner, group=group, mode=0o600)
    shown = files.apply([wanted], lambda *_: "", dry=dry)
    return [(difference["before"], difference["after"]) for difference in shown]


def test_encrypted_file_is_written_only_if_its_content_changes(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "TOKEN.host.cred"
    assert apply(path, "one", dry=True) != []
    assert list(tmp_path.iterdir()) == []
    apply(path, "one")
    first = path.read_bytes()
    assert (credential.read(path), path.stat().st_mode & 0o777) == (b"one", 0o600)
    assert apply(path, "one") == []
    assert apply(path, "two", dry=True) == [("one", "two")]
    assert path.read_bytes() == first
    apply(path, "two")
    assert credential.read(path) == b"two"


def test_secrets_are_encrypted_again_after_the_host_lost_its_key(
    tmp_path: pathlib.Path, host_key: pathlib.Path
) -> None:
    path = tmp_path / "TOKEN.host.cred"
    apply(path, "one")
    host_key.unlink()
    # an empty secret can't be distinguished from an unreadable one by its content
    for content in ("one", ""):
        assert apply(path, content) == [("", content)]
        assert credential.read(path) == content.encode()
        host_key.unlink()


def test_unavailable_key_leaves_the_file_unchanged(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "TOKEN.nonsense.cred"
    with pytest.raises(files.FilesError, match=r"TOKEN\.nonsense\.cred: systemd-creds encrypt: .*nonsense"):
        apply(path, "one")
    assert list(tmp_path.iterdir()) == []


def test_encrypted_secrets_are_masked_in_messages(tmp_path: pathlib.Path, host_key: pathlib.Path) -> None:
    folder = tmp_path / "etc/links/secrets"
    folder.mkdir(parents=True)
    apply(folder / "TOKEN.host.cred", "hunter2-and-more")
    assert masking.masked("links", "it said hunter2-and-more", str(tmp_path)) == "it said ***"
    # a process that was started earlier still has the secret
    host_key.unlink()
    text = masking.masked("links", "it said hunter2-and-more", str(tmp_path))
    assert text.startswith("[not shown: a secret can't be decrypted on this host")
    assert "hunter2" not in text
    assert masking.masked("links", "", str(tmp_path)) == ""


def test_changed_mode_does_not_encrypt_again(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "TOKEN.host.cred"
    apply(path, "one")
    first = path.read_bytes()
    path.chmod(0o644)
    assert apply(path, "one") != []
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (first, 0o600)


def test_unit_directive_is_valid_for_systemd(tmp_path: pathlib.Path) -> None:
    folder = pathlib.Path("/etc/links/secrets")
    lines = [credential.property_of(folder / name) for name in ("TOKEN", "TOKEN.host+tpm2.cred")]
    assert lines == [
        "LoadCredential=TOKEN:/etc/links/secrets/TOKEN",
        "LoadCredentialEncrypted=TOKEN:/etc/links/secrets/TOKEN.host+tpm2.cred",
    ]
    unit = tmp_path / "some.service"
    unit.write_text("\n".join(["[Service]", "ExecStart=/bin/true", *lines, ""]))
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False
    )
    assert (verified.returncode, "LoadCredential" in verified.stderr) == (0, False), verified.stderr
