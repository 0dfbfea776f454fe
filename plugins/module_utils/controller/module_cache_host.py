"""Runs on a host, ahead of a module: keeps what Ansible packs for it, compiled, so that it is sent and compiled once.

`module_cache` puts this text into the script that Ansible sends, so it imports nothing of the project, and no more than
it needs before a module that is there already.
"""

import base64
import hashlib
import json
import os
import sys

FOLDER = "/var/cache/baton/modules"  # made by host_baseline; a host that isn't set up keeps nothing
KEPT = 3  # of each module: before and after an upgrade, and of another checkout
RESERVE_BYTES = 100 * 1024 * 1024  # what is left to the system, and to a change that goes on here
LACKING = "lacks_module"


def recall(name: str) -> str:
    """What is kept under the name, as Ansible's script wants it. Where nothing is, says so, and ends the process."""
    path = place(name)
    try:
        with open(path, "rb") as file:
            digest, _, packed = file.read().partition(b"\n")
        # another's code is not run as this user, and half a module would fail for good
        sound = trusted() and digest == hashlib.sha256(packed).hexdigest().encode()
    except OSError:
        sound = False
    if not sound:
        print(json.dumps({"failed": True, LACKING: True, "msg": f"{path} isn't there."}))
        sys.exit(0)
    return base64.b64encode(packed).decode()


def keep(name: str, sent: str) -> str:
    """Keep what was sent. Returns what is to be run: that, compiled; or as it was sent, where it can't be kept."""
    try:
        packed = compiled(base64.b64decode(sent))
        write(place(name), hashlib.sha256(packed).hexdigest().encode() + b"\n" + packed)
    except Exception:  # whatever it is, the module runs without
        return sent
    return base64.b64encode(packed).decode()


def place(name: str) -> str:
    """Where a module lies, for the Python that runs this."""
    return os.path.join(FOLDER, f"{name}.{sys.implementation.cache_tag}")


def trusted() -> bool:
    """Whether nobody else writes to the folder."""
    about = os.stat(FOLDER)
    return about.st_uid == os.geteuid() and not about.st_mode & 0o022


def write(path: str, content: bytes) -> None:
    """Let a file appear whole, where it can be trusted and the disk has room, and old ones go."""
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
    # also what a run left that was killed
    for old in sorted(others, key=os.path.getmtime)[: 1 - KEPT]:
        os.unlink(old)


def compiled(packed: bytes) -> bytes:
    """The archive with a .pyc beside each .py."""
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
        # the clock may be wrong, before 1980 too
        with zipfile.ZipFile(done, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as archive:
            for folder, _, files in os.walk(tree):
                for file in files:
                    path = os.path.join(folder, file)
                    archive.write(path, os.path.relpath(path, tree))
    return done.getvalue()
