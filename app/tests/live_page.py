"""The page in Debian's Chromium, for a test of another server's changes.

    python -m tests.live_page ADDRESS LOG SLUG [CHROMIUM-ARGUMENT...]

Prints a line when the page is live. Then it reads a number of clicks from standard input, waits until the page shows
them for the link SLUG, and prints a report as JSON.
"""

import json
import sys
from pathlib import Path

from tests.test_browser import LIVE, browser


def main(address: str, log: str, slug: str, *arguments: str) -> None:
    """Open the page, keep it open, and report."""
    with browser(address, Path(log), *arguments) as page:
        page.open()
        page.wait_for_sockets(1)
        loaded = page.run("performance.timeOrigin")
        print("live", flush=True)
        page.wait_for_clicks(slug, int(input()))
        page.wait_for("#live", LIVE)
        report = {
            # the event after which the page resumed first
            "after": page.run("document.querySelector('script').dataset.after"),
            "sockets": page.run("sockets"),
            "reloaded": page.run("performance.timeOrigin") != loaded,
            "console": page.console,
        }
    print(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
