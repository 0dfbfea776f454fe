"""Runs on a host, ahead of a module: keeps what Ansible packs for it, compiled, so that it is sent and compiled once.

`module_cache` puts this text into the script that Ansible sends, so it imports nothing of the project, and no more than
it needs before a module that is there already.
"""

import base64
import json
import os
import sys

FOLDER = "/var/cache/baton/modules"
KEPT = 3  # of each module: before and after an upgrade, and of another checkout
LACKING = "lacks_module"


def recall(name: str) -> str:
    """What is kept under the name, as Ansible's script wants it. Where nothing is, says so, and ends the process."""
    path = os.path.join(FOLDER, name)
    try:
        with open(path, "rb") as file:
            packed = file.read()
        os.utime(path)
    except OSError:
        print(json.dumps({"failed": True, LACKING: True, "msg": f"{path} isn't there."}))
        sys.exit(0)
    return base64.b64encode(packed).decode()


def keep(name: str, sent: str) -> str:
    """Keep what was sent. Returns what is to be run: that, compiled; or as it was sent, where it can't be kept."""
    try:
        packed = compiled(base64.b64decode(sent))
        os.makedirs(FOLDER, mode=0o755, exist_ok=True)
        path = os.path.join(FOLDER, name)
        scratch = f"{path}.{os.getpid()}"
        with open(scratch, "wb") as file:
            file.write(packed)
            file.flush()
            # a host that loses its power must not keep half of it for good
            os.fsync(file.fileno())
        os.replace(scratch, path)
        prune(name)
    except OSError:  # above all a full disk
        return sent
    return base64.b64encode(packed).decode()


def compiled(packed: bytes) -> bytes:
    """The archive with a .pyc beside each .py, by this host's Python; another one takes the source."""
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


def prune(name: str) -> None:
    """Remove what hasn't been used for the longest time of the module of that name, and what was never completed."""
    module = name.partition("-")[0]
    of_it = [os.path.join(FOLDER, other) for other in os.listdir(FOLDER) if other.partition("-")[0] == module]
    for old in sorted(of_it, key=os.path.getmtime)[:-KEPT]:
        os.unlink(old)
