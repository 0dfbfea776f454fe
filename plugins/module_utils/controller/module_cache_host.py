"""Runs on a host before a module: stores the module compiled, so that it is sent and compiled only once.

`module_cache` inserts this source into the script that Ansible sends. It therefore imports nothing from the project,
and before a stored module only what that needs.
"""

import base64
import hashlib
import json
import os
import sys

FOLDER = "/var/cache/baton/modules"  # created by host_baseline; without it nothing is stored
KEPT = 3  # versions of each module: before and after an upgrade, and of another checkout
RESERVE_BYTES = 100 * 1024 * 1024  # disk space left to the system and to a running change
LACKING = "lacks_module"


def recall(name: str) -> str:
    """Return the stored module as Ansible's script expects it. If there is none, report that and end the process."""
    path = place(name)
    try:
        with open(path, "rb") as file:
            digest, _, packed = file.read().partition(b"\n")
        # never run code that another user wrote, or an incomplete file
        valid = trusted() and digest == hashlib.sha256(packed).hexdigest().encode()
    except OSError:
        valid = False
    if not valid:
        print(json.dumps({"failed": True, LACKING: True, "msg": f"{path} isn't there."}))
        sys.exit(0)
    return base64.b64encode(packed).decode()


def keep(name: str, sent: str) -> str:
    """Store the module that was sent. Returns the module to run: compiled, or as sent if it can't be stored."""
    try:
        packed = compiled(base64.b64decode(sent))
        write(place(name), hashlib.sha256(packed).hexdigest().encode() + b"\n" + packed)
    except Exception:  # on any error, run the module without the cache
        return sent
    return base64.b64encode(packed).decode()


def place(name: str) -> str:
    """Return the path of a stored module for the running Python version."""
    return os.path.join(FOLDER, f"{name}.{sys.implementation.cache_tag}")


def trusted() -> bool:
    """Whether no other user can write to the folder."""
    about = os.stat(FOLDER)
    return about.st_uid == os.geteuid() and not about.st_mode & 0o022


def write(path: str, content: bytes) -> None:
    """Write a file atomically if the folder is trusted and the disk has space, and remove old versions."""
    disk = os.statvfs(FOLDER)
    if not trusted() or disk.f_bavail * disk.f_frsize < RESERVE_BYTES:
        return
    scratch = f"{path}.{os.getpid()}"
    try:
        with open(scratch, "wb") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(content)
        os.replace(scratch, path)
    except OSError:
        os.unlink(scratch)
        raise
    module = os.path.basename(path).partition("-")[0]
    others = [os.path.join(FOLDER, other) for other in os.listdir(FOLDER) if other.partition("-")[0] == module]
    others.remove(path)
    # including temporary files of killed runs
    for old in sorted(others, key=os.path.getmtime)[: 1 - KEPT]:
        os.unlink(old)


def compiled(packed: bytes) -> bytes:
    """Return the archive with a .pyc beside each .py."""
    import compileall
    import io
    import py_compile
    import tempfile
    import zipfile

    done = io.BytesIO()
    with tempfile.TemporaryDirectory() as tree:
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            archive.extractall(tree)
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        compileall.compile_dir(tree, quiet=2, legacy=True, stripdir=tree, invalidation_mode=mode)
        # a wrong clock may be before 1980, which zip can't represent
        with zipfile.ZipFile(done, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as archive:
            for folder, _, files in os.walk(tree):
                for file in files:
                    path = os.path.join(folder, file)
                    archive.write(path, os.path.relpath(path, tree))
    return done.getvalue()
