"""What the benchmark ran on."""

from __future__ import annotations

import os
import pathlib
import platform
import subprocess

from .plan import PROJECT


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
    """What runs on this side: the generators, and Baton's own commit."""
    command = ["dpkg-query", "--show", "--showformat=${Version}", "nghttp2-client"]
    load = subprocess.run(command, text=True, capture_output=True, check=False).stdout
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=PROJECT, text=True, capture_output=True, check=False
    )
    return {"generator's python": platform.python_version(), "h2load": load, "baton": commit.stdout.strip()}
