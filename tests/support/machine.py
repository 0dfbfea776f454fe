"""This machine as a host that releases are built for."""

from __future__ import annotations

import os
import sys

HERE = {
    "python": f"3.{sys.version_info.minor}",
    "architecture": os.uname().machine,
    "glibc": (os.confstr("CS_GNU_LIBC_VERSION") or "").rpartition(" ")[2],
}
