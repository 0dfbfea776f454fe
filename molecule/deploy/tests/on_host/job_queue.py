"""A job queue over HTTP that records what happens to each job: in memory, with only the standard library.

job_queue.py ADDRESS PORT

POST /add {task}          enqueue a job; returns its id
POST /take {worker}       the oldest waiting job and how long it takes, or an empty object
POST /done {id, known}    a job was completed, or refused because its task isn't known
POST /beat {who, is}      a single process reports that it `began`, is `there` (with its version), or `ended`
POST /measure {}          begins to measure the pauses between these reports anew
GET /report               the results of all jobs
"""

from __future__ import annotations

import collections
import http.server
import json
import sys
import threading
import time
from typing import Any

# seconds that jobs take, in turn: most are short, some longer than an activation
LENGTHS = [0.05, 0.1, 0.2, 0.05, 0.1, 0.05, 0.1, 0.2, 0.1, 4.0]


class Jobs:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.waiting: collections.deque[dict[str, Any]] = collections.deque()
        self.tasks: dict[int, str] = {}
        self.taken: collections.Counter[int] = collections.Counter()
        self.takers: dict[int, str] = {}
        self.done: collections.Counter[int] = collections.Counter()
        self.refused: set[int] = set()
        self.unknown: list[str] = []  # their tasks, and who refused them
        self.workers: set[str] = set()
        self.beats: list[str] = []  # running ones
        self.ticked: set[int] = set()  # versions that have reported `there`
        self.most_beats = 0
        self.ticking: set[str] = set()  # those that have reported `there`
        self.measure({})

    def measure(self, _request: dict[str, Any]) -> dict[str, Any]:
        self.last_tick = ("", 0.0)  # who, and when
        # the longest in seconds: from one report of a process to its next, and to the first one of its successor
        self.pauses = {"own": 0.0, "change": 0.0}
        return {}

    def add(self, request: dict[str, Any]) -> dict[str, Any]:
        number = len(self.tasks) + 1
        self.tasks[number] = request["task"]
        self.waiting.append({"id": number, "task": request["task"], "seconds": LENGTHS[number % len(LENGTHS)]})
        return {"id": number}

    def take(self, request: dict[str, Any]) -> dict[str, Any]:
        self.workers.add(request["worker"])
        if not self.waiting:
            return {}
        job = self.waiting.popleft()
        self.taken[job["id"]] += 1
        self.takers[job["id"]] = request["worker"]
        return job

    def finish(self, request: dict[str, Any]) -> dict[str, Any]:
        if request["known"]:
            self.done[request["id"]] += 1
        else:
            self.refused.add(request["id"])
            self.unknown.append(f"{self.tasks[request['id']]} by {self.takers[request['id']]}")
        return {}

    def beat(self, request: dict[str, Any]) -> dict[str, Any]:
        if request["is"] == "began":
            self.beats.append(request["who"])
            self.most_beats = max(self.most_beats, len(self.beats))
        elif request["is"] == "ended":
            self.beats.remove(request["who"])
        else:
            self.ticked.add(request["number"])
            self.ticking.add(request["who"])
            who, since = self.last_tick
            self.last_tick = (request["who"], time.monotonic())
            if who:
                kind = "own" if who == request["who"] else "change"
                self.pauses[kind] = max(self.pauses[kind], self.last_tick[1] - since)
        return {}

    def report(self) -> dict[str, Any]:
        return {
            "tasks": sorted(set(self.tasks.values())),
            "added": len(self.tasks),
            "done": len(self.done),
            # the jobs that are neither done nor refused, and who took them
            "missing": {
                number: self.takers.get(number) for number in sorted(set(self.tasks) - set(self.done) - self.refused)
            },
            "twice": [number for counted in (self.taken, self.done) for number, times in counted.items() if times > 1],
            "unknown": self.unknown,
            "workers": sorted(self.workers),
            "beats": self.beats,
            "most_beats": self.most_beats,
            "ticked": sorted(self.ticked),
            "ticking": sorted(self.ticking),
            "pauses": self.pauses,
        }


JOBS = Jobs()
VERBS = {"/add": JOBS.add, "/take": JOBS.take, "/done": JOBS.finish, "/beat": JOBS.beat, "/measure": JOBS.measure}


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with JOBS.lock:
            self._answer(VERBS[self.path](request))

    def do_GET(self) -> None:
        with JOBS.lock:
            self._answer(JOBS.report())

    def _answer(self, answer: dict[str, Any]) -> None:
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128  # with the default of 5 the kernel drops some connections of a burst


if __name__ == "__main__":
    Server((sys.argv[1], int(sys.argv[2])), Handler).serve_forever()
