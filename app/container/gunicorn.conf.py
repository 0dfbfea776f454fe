"""Gunicorn in the container, with the same values as the role app_service sets on a host (a test compares them).

WEB_CONCURRENCY   number of workers; by default according to the container's processors and memory
PORT              port to listen on; 8000 by default
FORWARDED_ALLOW_IPS, GUNICORN_CMD_ARGS: Gunicorn's own
"""

import os
import runpy
from pathlib import Path

from gunicorn_handover import resources

# container runtimes read the two streams separately, which would lose the order of their lines
os.dup2(1, 2)

wsgi_app = "links.main:app"
chdir = "/opt/links/src"
proc_name = "links"
bind = f"0.0.0.0:{os.environ.get('PORT') or 8000}"

# the role's own formula; the image has a copy of the file
_count = runpy.run_path(str(Path(__file__).with_name("workers.py")))["count"]
workers = _count(
    resources.cores(),
    resources.memory_mb(),
    workers=int(os.environ.get("WEB_CONCURRENCY") or 0),
    workload="io",
    worker_memory_mb=200,
    memory_percent=75,
)
timeout = 30
graceful_timeout = 20
handover_websocket_spread = 5
keepalive = 10
backlog = 2048
max_requests = 0
max_requests_jitter = 0
handover_boot_timeout = 60
handover_urgent_paths = ["/readyz"]
limit_request_fields = 100  # Gunicorn's default
handover_warmup_paths = ["/readyz"]
handover_warmup_timeout = 10
handover_warmup_host = "localhost"
handover_warmup_required = False

worker_tmp_dir = "/dev/shm"  # noqa: S108

loglevel = "info"
errorlog = "-"
handover_log_format = "json"
accesslog = "-"
