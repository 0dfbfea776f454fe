"""The package's own tests with a Python other than the controller's: Python 3.13, on Debian 13."""

from __future__ import annotations

import pathlib
import subprocess

import pytest

from tests.support.playbooks import PROJECT, tool

from .support import FLEET, FOLDER, host

pytestmark = pytest.mark.long

# packages of the lock that only linters need
LINTERS = ("mypy", "mypyc", "ruff", "librt", "hypothesis/extra")


def installed(lock: str, folder: pathlib.Path) -> pathlib.Path:
    """An archive of the package, its tests and their dependencies for Python 3.13, as hosts have no package index."""
    site = folder / "site"
    command = [str(tool("uv")), "pip", "install", "--quiet", "--no-deps"]
    command += ["--target", str(site), "--python-version", "3.13", "--python-platform", "x86_64-manylinux_2_36"]
    command += ["--only-binary", ":all:", "--require-hashes", "-r", str(PROJECT / "handover" / lock)]
    subprocess.run(command, check=True)
    archive = folder / "package.tar"
    leave = [f"--exclude={name}" for name in (*(f"site/{name}" for name in LINTERS), "__pycache__")]
    here = ["-C", str(folder), "site", "-C", str(PROJECT), "handover", "tests/support"]
    subprocess.run(["tar", "-cf", str(archive), *leave, *here], check=True)
    return archive


@pytest.mark.parametrize("lock", ["requirements-test.txt", "requirements-test-oldest.txt"])
def test_package_on_python_3_13(lock: str, tmp_path: pathlib.Path) -> None:
    place, on = f"{FOLDER}/package", host("trixie")
    on.check_output(f"rm -rf {place} && mkdir {place} && python3 -m venv --without-pip {place}/venv")
    archive = installed(lock, tmp_path)
    FLEET.ad_hoc("trixie", "ansible.builtin.unarchive", f"src={archive} dest={place}").check_status()
    on.check_output(f"cp -a {place}/site/. {place}/venv/lib/python3.13/site-packages/")
    done = on.run(
        f"cd {place}/handover && PYTHONPATH=$PWD/src {place}/venv/bin/python -m pytest -q -n 3 -p no:cacheprovider "
        "-m '' || exit 3"
    )
    assert done.rc == 0, done.stdout + done.stderr
