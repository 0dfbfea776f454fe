"""Counts the active units that match a pattern, repeatedly, until a file exists.

watch_units.py PATTERN FILE      prints the number of checks, and the fewest units that one of them found
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import time

PATTERN, END = sys.argv[1], pathlib.Path(sys.argv[2])
LOOK = ["systemctl", "list-units", "--plain", "--no-legend", "--state=active", PATTERN]

found = []
while not END.exists():
    found.append(len(subprocess.run(LOOK, check=True, capture_output=True).stdout.splitlines()))
    time.sleep(0.2)
print(json.dumps({"checks": len(found), "fewest": min(found, default=0)}))
