"""The environment of a benchmark."""

from __future__ import annotations

import os
import pathlib
import platform
import subprocess
from collections.abc import Callable

from .controller import PROJECT


def describe() -> dict[str, str]:
    """The machine: processors, memory, kernel, operating system."""
    memory = pathlib.Path("/proc/meminfo").read_text().split("MemTotal:")[1].split()[0]
    models = [
        line.split(":", 1)[1].strip()
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "cores": str(len(os.sched_getaffinity(0))),
        "processor": models[0] if models else platform.machine(),
        "memory": f"{int(memory) / 1024 / 1024:.1f} GiB",
        "kernel": platform.release(),
        "os": platform.freedesktop_os_release().get("PRETTY_NAME", "Linux"),
    }


def versions() -> dict[str, str]:
    """The versions on the controller."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=PROJECT, text=True, capture_output=True, check=False
    )
    return {"baton": commit.stdout.strip(), "controller's python": platform.python_version()}


def h2load() -> dict[str, str]:
    """The version of the load generator that measures throughput."""
    command = ["dpkg-query", "--show", "--showformat=${Version}", "nghttp2-client"]
    return {"h2load": subprocess.run(command, text=True, capture_output=True, check=False).stdout}


def host_versions(run: Callable[..., str]) -> dict[str, str]:
    """The versions on a host; `run` returns a command's output there."""
    return {
        "os": run("sh", "-c", ". /etc/os-release; echo $PRETTY_NAME").strip(),
        "systemd": run("systemctl", "--version").split()[1],
        "python": run("python3", "-V").split()[-1],
    }
