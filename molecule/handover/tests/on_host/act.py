"""Commands that the tests run on a host, which has only the standard library. Prints one JSON document.

python3 act.py COMMAND [NAME=VALUE ...]      the commands are the functions at the end; values are JSON

The module activate runs as Ansible runs it: the files that Ansible sends are beside this one, in `module`.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import http.client
import inspect
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

APP = "bench"
HERE = pathlib.Path(__file__).resolve().parent
OPT, ETC, RUN, STATE = (pathlib.Path(parent, APP) for parent in ("/opt", "/etc", "/run", "/var/lib/baton"))
STATUS = pathlib.Path("/run/baton", APP)
SERVICE, BRIDGE = f"{APP}.service", f"{APP}-bridge.service"
# a release with GATED appended doesn't boot while this file exists; on a tmpfs, so it is gone after a crash
GATE = pathlib.Path("/run/handover-gate")
GATED = f"import pathlib\nwhile pathlib.Path({str(GATE)!r}).exists():\n    time.sleep(0.01)\n"
TIMEOUT = 600.0  # seconds until a wait fails

Json = dict[str, Any]


# Queries


def wait(condition: Callable[[], Any], what: str, tick: float = 0.01) -> Any:
    """Wait until `condition` returns a true value, and return it."""
    end = time.monotonic() + TIMEOUT
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(tick)
    raise TimeoutError(f"not within {TIMEOUT:.0f} s: {what}")


def status(name: str = "handover") -> Json:
    """A master's status; empty without a status file."""
    try:
        document: Json = json.loads((STATUS / f"{name}.json").read_text())
    except FileNotFoundError:
        return {}
    return document


def pids(state: str = "ready") -> list[int]:
    return [worker["pid"] for worker in status().get("workers", []) if worker["state"] == state]


def all_ready(name: str = "handover", master: int | None = None) -> list[int]:
    """The pids of a master's workers (by default the service's) if all wanted ones are ready and there are no others;
    otherwise an empty list."""
    document = status(name)
    # between two masters there is no status
    if not document or document["master"]["pid"] != (master or main_pid(SERVICE)):
        return []
    if [worker["state"] for worker in document["workers"]] != ["ready"] * document["workers_wanted"]:
        return []
    return [worker["pid"] for worker in document["workers"]]


def systemctl(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemctl", *words], check=False, capture_output=True, text=True)


def main_pid(unit: str) -> int:
    return int(systemctl("show", "--property=MainPID", "--value", unit).stdout)


def current() -> str:
    return (OPT / "current").readlink().name


def releases_served() -> list[str]:
    """The releases of all processes that accept requests, of the service and of a bridge."""
    found = {worker["release"] for worker in status().get("workers", []) if worker["state"] == "ready"}
    if systemctl("is-active", BRIDGE).stdout.strip() != "inactive":
        found |= {f"bridge: {worker['release']}" for worker in status("bridge").get("workers", [])}
    return sorted(found)


def answer() -> None:
    """Send a request to the socket; raise BadStatusLine unless it is answered with 200."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(TIMEOUT)
        connection.connect(str(RUN / "web.sock"))
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        head = connection.recv(100)
    if not head.startswith(b"HTTP/1.1 200"):
        raise http.client.BadStatusLine(repr(head))


def connections(holders: list[int]) -> int:
    """The number of connections to the socket that these processes have accepted."""
    listed = subprocess.run(["ss", "-Hxnp", "state", "established"], check=True, capture_output=True, text=True).stdout
    taken = [line for line in listed.splitlines() if f"{RUN}/web.sock" in line]
    return sum(any(f"pid={holder}," in line for holder in holders) for line in taken)


def phase(master: int) -> str:
    """The phase of a handover; `master`: the service's main process before it."""
    document, bridge = status(), main_pid(BRIDGE)
    if bridge:
        # all of its workers must be ready: one that meets a closed gate again would never boot
        if not all_ready("bridge", bridge):
            return "bridge booting"
        return "bridge serving" if main_pid(SERVICE) == master else "restarting"
    if under_way := document.get("reload_under_way"):
        return "booting" if pids("booting") else under_way["progress"]
    if current() == recorded():
        return "not started"
    return "booted" if releases_served() == [current()] else "pointed"


def recorded() -> str:
    """The release of the last completed activation."""
    noted: str = json.loads((STATE / "active.json").read_text())["processes"]["web"]["release"]
    return noted


# Actions


def stop_tree(pid: int) -> list[int]:
    """Stop a process and its descendants with SIGSTOP; return their pids, its own first."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
    wait(lambda: _process_state(pid) in "TZX", f"the stop of {pid}")
    return [pid, *(held for child in children(pid) for held in stop_tree(child))]


def _process_state(pid: int) -> str:
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def resume(held: list[int]) -> None:
    for pid in held:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def kill_counted(pid: int) -> int:
    """SIGKILL a process, which also ends its children, and return the number of their connections. They are stopped
    while these are counted: otherwise another connection could arrive, and be lost, after the count."""
    held = connections(stop_tree(pid))
    os.kill(pid, signal.SIGKILL)
    return held


def set_current(release: str) -> None:
    scratch = OPT / ".current.test"
    scratch.unlink(missing_ok=True)
    scratch.symlink_to(f"releases/{release}")
    scratch.replace(OPT / "current")


def module(**options: Any) -> list[str]:
    """The command line of the module activate with these options."""
    arguments = {"name": APP, "health_path": "/", "health_listen": f"{RUN}/web.sock", "timeout": TIMEOUT, **options}
    (HERE / "module/debug_dir/args").write_text(json.dumps({"ANSIBLE_MODULE_ARGS": arguments}))
    return [sys.executable, str(HERE / "module/AnsiballZ_activate.py"), "execute"]


def parse_output(output: str) -> Json:
    found: Json = json.loads(output)
    return found


@contextlib.contextmanager
def changed_secret() -> Iterator[None]:
    """Change a secret, which needs a bridge."""
    (ETC / "secrets/BENCH_TURN").write_text(str(time.time_ns()))
    yield


def children(pid: int) -> list[int]:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return [int(child) for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


@contextlib.contextmanager
def gate() -> Iterator[None]:
    """Close the gate during a block."""
    GATE.touch()
    try:
        yield
    finally:
        GATE.unlink(missing_ok=True)


class HeldHandover:
    """A handover to a gated release, held in a phase by the gate or with SIGSTOP."""

    def __init__(self, release: str, where: str) -> None:
        self.master = main_pid(SERVICE)
        self._held: list[int] = []
        by_bridge = where in ("bridge booting", "bridge serving", "restarting")
        GATE.touch()
        words = ["sh", "-c", 'kill -STOP $$ && exec "$@"', "sh"]
        with changed_secret() if by_bridge else contextlib.nullcontext():
            words += module(release=release)
        self.caller = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        wait(lambda: _process_state(self.caller.pid) == "T", "the handover's start")
        if where == "not started":
            return
        resume([self.caller.pid])
        self._wait(lambda: main_pid(BRIDGE) if by_bridge else pids("booting"), "new workers")
        if where in ("booting", "bridge booting"):
            return
        # the handover's own process, which outlives its caller
        (own,) = children(self.caller.pid)
        self._held = stop_tree(own)
        GATE.unlink()
        done = "bridge serving" if by_bridge else "booted"
        self._wait(lambda: phase(self.master) == done, done)
        if where == "restarting":
            GATE.touch()
            resume(self._held)
            self._held = []
            self._wait(lambda: main_pid(SERVICE) not in (0, self.master), "the service's restart")

    def _wait(self, condition: Callable[[], Any], what: str) -> None:
        """Wait for a condition; raise RuntimeError if the handover ends before."""
        if wait(lambda: condition() or self.caller.poll() is not None, what) is True and not condition():
            raise RuntimeError(f"it ended before {what}: {self.caller.communicate()[0]}")

    def stop_all(self) -> list[int]:
        """Stop all processes of the handover; return their pids."""
        self._held = stop_tree(self.caller.pid)
        return self._held

    def resume(self) -> None:
        """Open the gate, and continue the stopped processes."""
        GATE.unlink(missing_ok=True)
        resume(self._held)


def wait_for_handover() -> None:
    """Wait until no handover is in progress."""
    with (STATE / "activation.lock").open("a") as lock:
        wait(lambda: _free(lock), "the end of the handover", 0.05)


def _free(lock: Any) -> bool:
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(lock, fcntl.LOCK_UN)
        return True
    return False


BROKEN: dict[str, str] = {
    # case: code that is appended to the application's
    "syntax error": "def (",
    "missing dependency": "import no_such_package",
    "exit at import": "raise SystemExit(0)",
    "out of memory at import": "hog = []\nwhile True:\n    hog.append(b'x' * 2**22)",
    "lifespan exception": "async def lifespan(_):\n    raise OSError('no database')\n    yield\n"
    "import contextlib\napp = FastAPI(lifespan=contextlib.asynccontextmanager(lifespan))",
    "lifespan hang": "async def lifespan(_):\n    await asyncio.sleep(3600)\n    yield\n"
    "import contextlib\napp = FastAPI(lifespan=contextlib.asynccontextmanager(lifespan))",
}


# The commands


def copy(release: str, broken: str = "") -> Json:
    """Copy the current release under another id, optionally broken."""
    source, target = OPT / "releases" / current(), OPT / "releases" / release
    shutil.rmtree(target, ignore_errors=True)
    subprocess.run(["cp", "-a", source, target], check=True)
    about = json.loads((target / "release.json").read_text())
    (target / "release.json").write_text(json.dumps({**about, "id": release}))
    if broken == "missing files":
        shutil.rmtree(target / "venv")
        return {}
    service = target / "src/service.py"
    service.write_text(f"{service.read_text()}\n{GATED}\n{BROKEN.get(broken, '')}\n")
    return {}


def state() -> Json:
    """The serving processes and releases, once no handover is in progress."""
    wait_for_handover()
    ready = wait(all_ready, "all workers")
    return {
        "pids": ready,
        "master": main_pid(SERVICE),
        "current": current(),
        "served": releases_served(),
        "record": recorded(),
    }


def reload(count: int = 1) -> list[Json]:
    """Run `systemctl reload` `count` times."""
    done = []
    for _ in range(count):
        since = time.time()
        before = pids()
        ended = systemctl("reload", SERVICE)
        after = [worker for worker in status()["workers"] if worker["state"] == "ready"]
        done.append(
            {
                "rc": ended.returncode,
                "error": ended.stderr,
                "kept": [pid for pid in before if pid in [worker["pid"] for worker in after]],
                "ready": len(after),
                "journal": _journal(since) if ended.returncode else "",
            }
        )
    return done


def _journal(since: float) -> str:
    # journald may read messages only after systemd has reported a unit's end
    subprocess.run(["journalctl", "--sync"], check=True)
    # also systemd's own messages about a unit, and those of a child whose unit journald couldn't determine any more
    wanted = " + ".join(f"_SYSTEMD_UNIT={unit} + _UID=0 UNIT={unit}" for unit in (SERVICE, BRIDGE)).split()
    words = ["journalctl", f"--since=@{since:.3f}", "-o", "cat", "--no-pager", *wanted]
    listed = subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()
    return "\n".join(line for line in listed if '"logger": "access"' not in line)


def activate(release: str = "", bridge: bool = False, count: int = 1, **options: Any) -> list[Json]:
    """Run the module activate `count` times; with `bridge`, change a secret each time."""
    answers = []
    for _ in range(count):
        since = time.time()
        with changed_secret() if bridge else contextlib.nullcontext():
            done = subprocess.run(module(release=release, **options), check=False, capture_output=True, text=True)
        answers.append({"rc": done.returncode, **parse_output(done.stdout), "journal": _journal(since)})
    return answers


def recover(release: str) -> Json:
    """Continue what a failed test has stopped, and activate the release."""
    GATE.unlink(missing_ok=True)
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(HERE / "module") in (folder / "cmdline").read_text(errors="replace"):
                resume([int(folder.name), *children(int(folder.name))])
    wait_for_handover()
    return activate(release=release)[0]


def limit_boots(seconds: int) -> Json:
    """Set the boot timeout for the next reload."""
    _configure("handover_boot_timeout", seconds)
    return {}


def _configure(setting: str, value: int) -> None:
    file = ETC / "gunicorn.conf.py"
    file.write_text(re.sub(rf"(?m)^{setting} = \d+$", f"{setting} = {value}", file.read_text()))


def corrupt(case: str, release: str = "") -> Json:
    """Break what a reload reads: the configuration, or the current release."""
    if case == "bad configuration":
        with (ETC / "gunicorn.conf.py").open("a") as file:
            file.write("raise ValueError('corrupted')\n")
    else:
        set_current(release)
    return {}


def restore(release: str) -> Json:
    """Undo `corrupt`."""
    file = ETC / "gunicorn.conf.py"
    text = file.read_text()
    file.write_text(text.replace("raise ValueError('corrupted')\n", ""))
    set_current(release)
    return {}


def kill_worker() -> Json:
    """SIGKILL a serving worker; report its connections, and the workers afterwards."""
    before, master, generation = wait(all_ready, "all workers"), main_pid(SERVICE), status()["generation"]
    held = kill_counted(before[0])
    after = wait(lambda: before[0] not in all_ready() and all_ready(), "all workers")
    return {
        "held": held,
        "stayed": set(before[1:]) < set(after),
        "workers": len(after),
        "same master": main_pid(SERVICE) == master,
        "reloads": status()["generation"] - generation,
    }


def kill_master() -> Json:
    """SIGKILL the master; report how often systemd restarted it. A request in between must be answered."""
    workers = wait(all_ready, "all workers")
    before, started = main_pid(SERVICE), restarts()
    held = kill_counted(before)
    # a request that an old worker could still accept would prove nothing
    wait(lambda: not any(pathlib.Path(f"/proc/{pid}").exists() for pid in workers), "the end of the workers")
    answer()
    wait(lambda: main_pid(SERVICE) != before and all_ready(), "all workers")
    socket = systemctl("is-active", f"{APP}.socket").stdout.strip()
    return {"held": held, "restarts": restarts() - started, "socket": socket}


def restarts() -> int:
    """The number of automatic restarts of the service."""
    return int(systemctl("show", "--property=NRestarts", "--value", SERVICE).stdout)


def kill_booting(release: str) -> Json:
    """SIGKILL a worker that boots during a reload; the gate keeps it from becoming ready before."""
    before, back = wait(all_ready, "all workers"), current()
    with gate():
        set_current(release)
        reloading = subprocess.Popen(["systemctl", "reload", SERVICE], stderr=subprocess.DEVNULL)
        os.kill(wait(lambda: pids("booting"), "a booting worker")[0], signal.SIGKILL)
        ended = reloading.wait(TIMEOUT)
        set_current(back)
    return {"rc": ended, "before": before, "after": pids(), "error": status()["reload"]["error"]}


def kill_bridge(release: str, where: str) -> Json:
    """SIGKILL the bridge in a phase of the handover."""
    handover = HeldHandover(release, where)
    found = phase(handover.master)
    held = kill_counted(main_pid(BRIDGE))
    handover.resume()
    output = handover.caller.communicate(timeout=TIMEOUT)[0]
    return {"phase": found, "held": held, **parse_output(output), "rc": handover.caller.returncode}


def kill_callers(releases: list[str], phases: list[str], rounds: int, seed: int) -> list[Json]:
    """SIGKILL the module activate and its caller's processes in each phase of a handover; report the state afterwards.
    In all rounds but the first, the kill follows a random time after the phase."""
    chance = random.Random(seed)
    tries = []
    for number in range(rounds):
        for where in phases:
            wanted = releases[(releases.index(current()) + 1) % len(releases)]
            handover = HeldHandover(wanted, where)
            found = phase(handover.master)
            if number:
                handover.resume()
                resume([handover.caller.pid])
                time.sleep(chance.uniform(0, 1.5))  # the kill may happen at any time
            with contextlib.suppress(ProcessLookupError):
                os.killpg(handover.caller.pid, signal.SIGKILL)
            handover.caller.communicate()
            handover.resume()
            answer()
            tries.append({"round": number, "phase": found, "wanted": wanted, **state()})
    return tries


def kill_everything(release: str, where: str) -> Json:
    """SIGKILL all processes of a handover in a phase: its caller and its own processes."""
    handover = HeldHandover(release, where)
    family = handover.stop_all()
    found = phase(handover.master)
    for pid in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    handover.caller.communicate()
    handover.resume()
    answer()
    wait(lambda: not systemctl("list-jobs", "--no-legend").stdout.strip(), "systemd's jobs")
    return {"phase": found}


def kill_login(release: str) -> Json:
    """End the login session of a handover's caller during the handover, like logind's KillUserProcesses=."""
    login = "login-of-test.service"
    words = ["systemd-run", "--quiet", "--no-block", f"--unit={login}", "--property=SendSIGHUP=yes"]
    with gate():
        subprocess.run([*words, *module(release=release)], check=True)
        wait(lambda: pids("booting"), "new workers")
        systemctl("kill", "--signal=KILL", login)
        wait(lambda: systemctl("is-active", login).stdout.strip() not in ("active", "deactivating"), "the login's end")
        systemctl("reset-failed", login)
    return state()


def begin(release: str, where: str) -> Json:
    """Start a handover and leave it held in a phase, for a crash of the host."""
    return {"phase": phase(HeldHandover(release, where).master)}


def resize(up: int, down: int) -> Json:
    """Send TTIN and TTOU; report the number of workers after each."""
    counts = []
    for number, times in ((signal.SIGTTIN, up), (signal.SIGTTOU, down)):
        for _ in range(times):
            wanted = status()["workers_wanted"] + (1 if number == signal.SIGTTIN else -1)
            os.kill(main_pid(SERVICE), number)
            counts.append(len(wait(functools.partial(_of_size, wanted), "the new size")))
    return {"counts": counts}


def _of_size(wanted: int) -> list[int]:
    return all_ready() if status()["workers_wanted"] == wanted else []


def restart() -> Json:
    """Run `systemctl restart`: a stop and a start, with the socket open throughout."""
    wait(all_ready, "all workers")
    done = systemctl("restart", SERVICE)
    return {"rc": done.returncode, "ready": len(wait(all_ready, "all workers"))}


def recycle(requests: int) -> Json:
    """Set max_requests and reload."""
    _configure("max_requests", requests)
    return {"rc": systemctl("reload", SERVICE).returncode}


def wait_until_recycled(pids: list[int]) -> Json:
    """Wait until these workers have been replaced."""
    wait(lambda: all_ready() and not set(all_ready()) & set(pids), "new workers")
    return {}


COMMANDS = {
    command.__name__: command
    for command in (
        *(copy, state, reload, activate, recover, limit_boots, corrupt, restore),
        *(kill_worker, kill_master, kill_booting, kill_bridge, kill_callers, kill_everything, kill_login, begin),
        *(resize, restart, recycle, wait_until_recycled),
    )
}


def main() -> None:
    command = COMMANDS[sys.argv[1]]
    given = {name: json.loads(value) for name, _, value in (word.partition("=") for word in sys.argv[2:])}
    inspect.signature(command).bind(**given)
    print(json.dumps(command(**given)))


if __name__ == "__main__":
    main()
