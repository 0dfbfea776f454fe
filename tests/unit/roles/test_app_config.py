"""The files of settings and secrets: which are written, and who can read them."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from ansible_collections.baton.web.plugins.module_utils.host import credential


def test_secrets_are_readable_only_by_root_and_others_are_removed(load_role: Callable[[str], Any]) -> None:
    files = load_role("app_config").value(
        "__app_config_purged_folders + __app_config_secret_files",
        app_name="links",
        app_config_secrets={"TOKEN": "a\nb", "PIN": 12},
        app_config_migration_secrets={"ADMIN": "x"},
    )
    assert [(item["path"], item["mode"], item.get("content")) for item in files] == [
        ("/etc/links/secrets", "0700", None),
        ("/etc/links/migration-secrets", "0700", None),
        ("/etc/links/secrets/TOKEN", "0600", "a\nb"),
        ("/etc/links/secrets/PIN", "0600", "12"),
        ("/etc/links/migration-secrets/ADMIN", "0600", "x"),
    ]
    assert [item["keep"] for item in files[:2]] == [[item["path"] for item in files[2:]]] * 2


@pytest.mark.parametrize("key", ["host", "tpm2", "host+tpm2"])
def test_units_load_the_secrets_from_where_they_are_written(load_role: Callable[[str], Any], key: str) -> None:
    given = {"app_name": "links", "app_config_secrets": {"TOKEN": "a"}, "app_config_migration_secrets": {"ADMIN": "x"}}
    files = load_role("app_config").value("__app_config_secret_files", app_config_secrets_encryption=key, **given)
    written = [item["path"] for item in files if "content" in item]
    names = {"app_service_credentials": ["TOKEN"], "app_service_migration_credentials": ["ADMIN"]}
    text = load_role("app_service").render(
        "etc/systemd/system/app-migration@.service.j2",
        app_name="links",
        app_service_migration_command="true",
        app_service_credentials_encryption=key,
        **names,
    )
    loaded = [line for line in text.splitlines() if line.startswith("LoadCredential")]
    assert loaded == [credential.property_of(pathlib.Path(path)) for path in written]
    assert all(line.startswith("LoadCredentialEncrypted=") for line in loaded)


def test_ca_of_backing_services_is_passed_to_the_application(
    load_role: Callable[[str], Any], tmp_path: pathlib.Path
) -> None:
    def files(**given: Any) -> list[tuple[str, str]]:
        found = load_role("app_config").value("__app_config_environment_files", app_name="links", **given)
        return [(item["path"], item["content"]) for item in found]

    authority = tmp_path / "ca.pem"
    given = {"app_config_services_ca_source": str(authority)}
    variable = 'SERVICES_CA_FILE="/etc/links/services-ca.pem"'
    (environment,) = files()
    assert variable not in environment[1]
    # check mode on a new fleet, whose authority doesn't exist yet
    assert files(**given)[0] == ("/etc/links/services-ca.pem", "")
    authority.write_text("a certificate\n")
    ca, environment = files(**given)
    assert ca == ("/etc/links/services-ca.pem", "a certificate\n")
    assert variable in environment[1]
    _, environment = files(**given, app_config_environment={"SERVICES_CA_FILE": "/mine"})
    assert variable not in environment[1]
    assert 'SERVICES_CA_FILE="/mine"' in environment[1]


@pytest.fixture
def refusals(load_role: Callable[[str], Any]) -> Callable[..., list[str]]:
    def check(**given: Any) -> list[str]:
        messages: list[str] = load_role("app_config").refusals(app_name="links", **given)
        return messages

    return check


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"app_config_environment": {"VERSION": 1.1}}, "VERSION is a decimal number"),
        ({"app_config_environment": {"NOTHING": None}}, "the value of NOTHING"),
        *(
            ({"app_config_environment": {"LINES": value, "TABS": "a\tb"}}, "the value of LINES is")
            for value in ("a\nb", "a\n", "a\r", "a\x00", "\x1b[2J")
        ),
        ({"app_config_secrets": {"KEY": {"a": 1}}}, "among the secrets, KEY isn't a text"),
        ({"app_config_secrets": {"KEY": None}}, "among the secrets, KEY isn't a text"),
        ({"app_config_secrets": {"KEY": 123456}}, "among the secrets, KEY isn't a text"),
        ({"app_config_migration_secrets": {"KEY": True}}, "among the secrets, KEY isn't a text"),
        ({"app_config_secrets": {"KEY": "x" * 1_000_001}}, "at most 1 MB"),
        ({"app_config_secrets": {"A": "é" * 300_000, "B": "x" * 400_001}}, "at most 1 MB"),
        ({"app_config_secrets": {"KEY": "a\x00b"}}, "KEY"),
        ({"app_config_environment": {"PATH": "/x"}}, "PATH can't be set"),
        ({"app_config_environment": {"PYTHONPATH": "/x"}}, "app_release_import_paths"),
        ({"app_config_environment": {"GUNICORN_CMD_ARGS": "-w 9"}}, "role app_service"),
        ({"app_config_secrets": {"LISTEN_FDS": "1"}}, "LISTEN_FDS can't be set"),
        ({"app_config_secrets": {"LD_PRELOAD": "/x.so"}}, "would have no effect"),
        ({"app_config_migration_secrets": {"TZ": "UTC"}}, "would have no effect"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_values_that_would_not_arrive_unchanged_are_refused(
    refusals: Callable[..., list[str]], given: dict[str, Any], words: str
) -> None:
    (message,) = refusals(**given)
    assert words in message


def test_valid_values_are_accepted(refusals: Callable[..., list[str]]) -> None:
    environment = {"TZ": "Europe/Vienna", "PYTHONUTF8": "1", "DEBUG": False, "LIMIT": 10, "LD_PRELOAD": "/usr/lib/x.so"}
    assert refusals(app_config_environment=environment, app_config_secrets={"KEY": "a\nb\n"}) == []


@pytest.mark.parametrize(
    ("key", "output", "words"),
    [
        ("host", "sh: 1: systemd-creds: not found", "(sh: 1: systemd-creds: not found). Set it to none"),
        ("tpm2", "TPM2 support not installed.", "(TPM2 support not installed.). Set it to host, or enable the TPM"),
        ("host+tpm2", "", "app_config_secrets_encryption is host+tpm2, but the host can't encrypt that way"),
    ],
)
def test_encryption_key_that_the_host_lacks_is_refused(
    refusals: Callable[..., list[str]], key: str, output: str, words: str
) -> None:
    def refused(text: str) -> list[str]:
        answer = {"stdout": text, "stdout_lines": text.splitlines()}
        return refusals(app_config_secrets_encryption=key, __app_config_probe=answer)

    (message,) = refused(output)
    assert words in message
    assert "\n" not in message
    assert refused("yes") == []
    assert refused("Credential secret file is not located on encrypted media, using anyway.\nyes") == []


def test_encrypted_secrets_have_a_lower_size_limit(refusals: Callable[..., list[str]]) -> None:
    given: dict[str, Any] = {
        "app_config_secrets": {"KEY": "x" * 900_000},
        "__app_config_probe": {"stdout": "yes", "stdout_lines": ["yes"]},
    }
    assert refusals(**given) == []
    (message,) = refusals(app_config_secrets_encryption="host", **given)
    assert "850 kB if they are encrypted" in message


def test_secrets_are_purged_only_after_the_units_changed(load_role: Callable[[str], Any]) -> None:
    role = load_role("app_config")
    (write,) = [task for task in role.load("tasks/configure.yml") if "secrets" in task["name"]]
    given = {"app_name": "links", "app_config_secrets": {"TOKEN": "a"}}
    written = role.templar(**given).template(write["baton.web.files"]["files"])
    assert [item["path"] for item in written if "content" in item] == ["/etc/links/secrets/TOKEN"]
    assert not any("keep" in item for item in written)
    (purge,) = role.load("tasks/purge.yml")
    purged = role.templar(**given).template(purge["baton.web.files"]["files"])
    assert [sorted(item) for item in purged] == [["keep", "mode", "path", "state"]] * 2  # and no secret
    assert purged[0]["keep"] == ["/etc/links/secrets/TOKEN"]
    configure = yaml.safe_load((role.path.parents[1] / "playbooks/phases/rollout.yml").read_text())
    (block,) = next(play for play in configure if play["name"] == "Configure")["tasks"]
    called = [task["ansible.builtin.include_role"] for task in block["block"]]
    assert [(role["name"], role.get("tasks_from")) for role in called] == [
        ("baton.web.app_config", None),
        ("baton.web.app_service", None),
        ("baton.web.app_config", "purge"),
    ]
