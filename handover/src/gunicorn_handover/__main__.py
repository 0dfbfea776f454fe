"""`python -m gunicorn_handover`."""

import sys

from gunicorn_handover.cli import main

if __name__ == "__main__":
    sys.exit(main())
