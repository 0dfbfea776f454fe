"""Runs the import check of a deploy on a host, which has only the standard library.

python3 ARCHIVE TIMEOUT < main.py     prints JSON: message (empty on success), memory (KiB), processes left
"""

from __future__ import annotations

import json
import os
import pathlib
import resource
import shutil
import sys

from module_utils.host.command import BatonError  # type: ignore[import-not-found]  # it is beside this in the archive
from module_utils.release import import_check  # type: ignore[import-not-found]

APP = "hostile"
# enough for a good application, and low limits as all hosts share one machine
BOUNDS = "[Service]\nMemoryMax=256M\nTasksMax=100\n"


def left() -> list[str]:
    """The pids of processes that imports have left behind."""
    return [path.parent.name for path in pathlib.Path("/proc").glob("[0-9]*/cgroup") if "baton-import" in _read(path)]


def _read(path: pathlib.Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def main() -> None:
    """Import it from a folder beside the releases, with the current release's environment."""
    current = pathlib.Path("/opt", APP, "current").resolve()
    described = json.loads((current / "release.json").read_text())
    folder = current.with_name(".import")
    unit = pathlib.Path("/run/import-test.service")
    unit.write_text(pathlib.Path(f"/etc/systemd/system/{APP}.service").read_text() + BOUNDS)
    check = import_check.ImportCheck(
        user=APP,
        environment_file=f"/etc/{APP}/environment",
        credentials_dir=f"/etc/{APP}/secrets",
        timeout=float(sys.argv[1]),
        unit_file=str(unit),
    )
    message = ""
    os.umask(0o022)
    try:
        (folder / "src").mkdir(parents=True)
        (folder / "src/main.py").write_text(sys.stdin.read())
        for name in ("venv", "server"):
            (folder / name).symlink_to(current / name)
        folder.chmod(0o755)
        import_check.check_import(folder, described, check)
    except BatonError as error:
        message = str(error)
    finally:
        shutil.rmtree(folder)
        unit.unlink()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"message": message, "memory": memory, "left": left()}))


if __name__ == "__main__":
    main()
