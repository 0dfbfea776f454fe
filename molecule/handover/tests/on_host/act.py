"""What the tests do on a host, measured there; the host has only Python. Prints one JSON document.

python3 act.py COMMAND [NAME=VALUE ...]      the commands are the functions at the end; a value is JSON

activate is run as Ansible runs it: what Ansible would send lies beside this, in `module`.
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
# no release that has this at its end boots while the gate is shut; on a tmpfs, so a host that lost its power has none
GATE = pathlib.Path("/run/handover-gate")
GATED = f"import pathlib\nwhile pathlib.Path({str(GATE)!r}).exists():\n    time.sleep(0.01)\n"
LONGEST = 600.0  # seconds until something that should happen counts as not happening

Json = dict[str, Any]


# Looking


def wait(condition: Callable[[], Any], what: str, tick: float = 0.01) -> Any:
    """What the condition returns as soon as that is true."""
    end = time.monotonic() + LONGEST
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(tick)
    raise TimeoutError(f"not within {LONGEST:.0f} s: {what}")


def status(name: str = "handover") -> Json:
    """What a master says of itself; empty when it says nothing."""
    try:
        said: Json = json.loads((STATUS / f"{name}.json").read_text())
    except FileNotFoundError:
        return {}
    return said


def pids(state: str = "ready") -> list[int]:
    return [worker["pid"] for worker in status().get("workers", []) if worker["state"] == state]


def all_ready(name: str = "handover", master: int | None = None) -> list[int]:
    """The workers of a master, the service's unless given, when all that are wanted are there and no other."""
    said = status(name)
    # there is none between a master's end and the next one's beginning
    if not said or said["master"]["pid"] != (master or main_pid(SERVICE)):
        return []
    if [worker["state"] for worker in said["workers"]] != ["ready"] * said["workers_wanted"]:
        return []
    return [worker["pid"] for worker in said["workers"]]


def systemctl(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemctl", *words], check=False, capture_output=True, text=True)


def main_pid(unit: str) -> int:
    return int(systemctl("show", "--property=MainPID", "--value", unit).stdout)


def current() -> str:
    return (OPT / "current").readlink().name


def releases_served() -> list[str]:
    """By every process that takes requests, of the service or of a bridge."""
    found = {worker["release"] for worker in status().get("workers", []) if worker["state"] == "ready"}
    if systemctl("is-active", BRIDGE).stdout.strip() != "inactive":
        found |= {f"bridge: {worker['release']}" for worker in status("bridge").get("workers", [])}
    return sorted(found)


def answer() -> None:
    """Has a request to the socket answered well."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(LONGEST)
        connection.connect(str(RUN / "web.sock"))
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        head = connection.recv(100)
    if not head.startswith(b"HTTP/1.1 200"):
        raise http.client.BadStatusLine(repr(head))


def connections(holders: list[int]) -> int:
    """How many connections to the socket these processes have accepted."""
    listed = subprocess.run(["ss", "-Hxnp", "state", "established"], check=True, capture_output=True, text=True).stdout
    taken = [line for line in listed.splitlines() if f"{RUN}/web.sock" in line]
    return sum(any(f"pid={holder}," in line for holder in holders) for line in taken)


def phase(master: int) -> str:
    """Where a handover is, as the host shows it; `master`: the service's process before it."""
    said, bridge = status(), main_pid(BRIDGE)
    if bridge:
        # all of its workers: one that comes to a gate that is shut once more would never boot, nor the bridge
        if not all_ready("bridge", bridge):
            return "bridge booting"
        return "bridge serving" if main_pid(SERVICE) == master else "restarting"
    if under_way := said.get("reload_under_way"):
        return "booting" if pids("booting") else under_way["progress"]
    if current() == recorded():
        return "not begun"
    return "booted" if releases_served() == [current()] else "pointed"


def recorded() -> str:
    """The release of the last activation that came to its end."""
    noted: str = json.loads((STATE / "active.json").read_text())["processes"]["web"]["release"]
    return noted


# Doing


def hold(pid: int) -> list[int]:
    """Holds a process still, and all that it began, which it names, itself first."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
    wait(lambda: _process_state(pid) in "TZX", f"the stop of {pid}")
    return [pid, *(held for child in children(pid) for held in hold(child))]


def _process_state(pid: int) -> str:
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def let_go(held: list[int]) -> None:
    for pid in held:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def strike(victim: int) -> int:
    """SIGKILL to a process and, by its end, to all that it began: how many connections they had. They are held still
    while these are counted; else one more could come, and be lost, between the count and the blow."""
    held = connections(hold(victim))
    os.kill(victim, signal.SIGKILL)
    return held


def point(release: str) -> None:
    scratch = OPT / ".current.test"
    scratch.unlink(missing_ok=True)
    scratch.symlink_to(f"releases/{release}")
    scratch.replace(OPT / "current")


def module(**options: Any) -> list[str]:
    """The command line of activate."""
    arguments = {"name": APP, "health_path": "/", "health_listen": f"{RUN}/web.sock", "timeout": LONGEST, **options}
    (HERE / "module/debug_dir/args").write_text(json.dumps({"ANSIBLE_MODULE_ARGS": arguments}))
    return [sys.executable, str(HERE / "module/AnsiballZ_activate.py"), "execute"]


def said(output: str) -> Json:
    found: Json = json.loads(output)
    return found


@contextlib.contextmanager
def another_secret() -> Iterator[None]:
    """A change that only a bridge can carry."""
    (ETC / "secrets/BENCH_TURN").write_text(str(time.time_ns()))
    yield


def children(pid: int) -> list[int]:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return [int(child) for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


@contextlib.contextmanager
def gate() -> Iterator[None]:
    """Shut until the end of the block."""
    GATE.touch()
    try:
        yield
    finally:
        GATE.unlink(missing_ok=True)


class Held:
    """A handover to a gated release that is brought to a phase and held there, by the gate or by holding it still."""

    def __init__(self, release: str, where: str) -> None:
        self.master = main_pid(SERVICE)
        self._held: list[int] = []
        by_bridge = where in ("bridge booting", "bridge serving", "restarting")
        GATE.touch()
        words = ["sh", "-c", 'kill -STOP $$ && exec "$@"', "sh"]
        with another_secret() if by_bridge else contextlib.nullcontext():
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
        if where == "not begun":
            return
        let_go([self.caller.pid])
        self._wait(lambda: main_pid(BRIDGE) if by_bridge else pids("booting"), "new workers")
        if where in ("booting", "bridge booting"):
            return
        # its own process, which its caller's end leaves alone
        (own,) = children(self.caller.pid)
        self._held = hold(own)
        GATE.unlink()
        done = "bridge serving" if by_bridge else "booted"
        self._wait(lambda: phase(self.master) == done, done)
        if where == "restarting":
            GATE.touch()
            let_go(self._held)
            self._held = []
            self._wait(lambda: main_pid(SERVICE) not in (0, self.master), "the service's restart")

    def _wait(self, condition: Callable[[], Any], what: str) -> None:
        """Waits for what happens before the handover ends, else fails."""
        if wait(lambda: condition() or self.caller.poll() is not None, what) is True and not condition():
            raise RuntimeError(f"it ended before {what}: {self.caller.communicate()[0]}")

    def family(self) -> list[int]:
        """All its processes, held still."""
        self._held = hold(self.caller.pid)
        return self._held

    def let_go(self) -> None:
        """Lets it go on, as far as it lives."""
        GATE.unlink(missing_ok=True)
        let_go(self._held)


def undisturbed() -> None:
    """Waits until no handover is under way."""
    with (STATE / "activation.lock").open("a") as lock:
        wait(lambda: _free(lock), "the end of the handover", 0.05)


def _free(lock: Any) -> bool:
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(lock, fcntl.LOCK_UN)
        return True
    return False


BROKEN: dict[str, str] = {
    # what is put behind the application's own code
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
    """A release like the current one, under another name, and perhaps broken."""
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
    """Who serves, when all is quiet."""
    undisturbed()
    ready = wait(all_ready, "all workers")
    return {
        "pids": ready,
        "master": main_pid(SERVICE),
        "current": current(),
        "served": releases_served(),
        "record": recorded(),
    }


def reload(count: int = 1) -> list[Json]:
    """`systemctl reload`, again and again."""
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
    # journald reads what is said to it later than systemd tells of a unit's end
    subprocess.run(["journalctl", "--sync"], check=True)
    # and what systemd says of a unit, a child of its own too, whose unit journald may look for when it is gone
    wanted = " + ".join(f"_SYSTEMD_UNIT={unit} + _UID=0 UNIT={unit}" for unit in (SERVICE, BRIDGE)).split()
    words = ["journalctl", f"--since=@{since:.3f}", "-o", "cat", "--no-pager", *wanted]
    listed = subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()
    return "\n".join(line for line in listed if '"logger": "access"' not in line)


def activate(release: str = "", bridge: bool = False, count: int = 1, **options: Any) -> list[Json]:
    """activate, again and again; each time with another secret when it is to go by bridge."""
    answers = []
    for _ in range(count):
        since = time.time()
        with another_secret() if bridge else contextlib.nullcontext():
            done = subprocess.run(module(release=release, **options), check=False, capture_output=True, text=True)
        answers.append({"rc": done.returncode, **said(done.stdout), "journal": _journal(since)})
    return answers


def recover(release: str) -> Json:
    """Lets go what a test that failed has held, and puts its release in the place of what serves."""
    GATE.unlink(missing_ok=True)
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(HERE / "module") in (folder / "cmdline").read_text(errors="replace"):
                let_go([int(folder.name), *children(int(folder.name))])
    undisturbed()
    return activate(release=release)[0]


def limit_boots(seconds: int) -> Json:
    """Sets, for the next reload, how long a worker may boot."""
    _configure("handover_boot_timeout", seconds)
    return {}


def _configure(setting: str, value: int) -> None:
    file = ETC / "gunicorn.conf.py"
    file.write_text(re.sub(rf"(?m)^{setting} = \d+$", f"{setting} = {value}", file.read_text()))


def spoil(case: str, release: str = "") -> Json:
    """Lets what a reload would read be bad, without telling anybody."""
    if case == "bad configuration":
        with (ETC / "gunicorn.conf.py").open("a") as file:
            file.write("raise ValueError('spoiled')\n")
    else:
        point(release)
    return {}


def mend(release: str) -> Json:
    """Takes `spoil` back."""
    file = ETC / "gunicorn.conf.py"
    text = file.read_text()
    file.write_text(text.replace("raise ValueError('spoiled')\n", ""))
    point(release)
    return {}


def kill_worker() -> Json:
    """SIGKILL to one that serves: what it held, who takes its place, and who has stayed."""
    before, master, generation = wait(all_ready, "all workers"), main_pid(SERVICE), status()["generation"]
    held = strike(before[0])
    after = wait(lambda: before[0] not in all_ready() and all_ready(), "all workers")
    return {
        "held": held,
        "stayed": set(before[1:]) < set(after),
        "workers": len(after),
        "same master": main_pid(SERVICE) == master,
        "reloads": status()["generation"] - generation,
    }


def kill_master() -> Json:
    """SIGKILL to the master: how often systemd then started it, for a request that came meanwhile to be answered."""
    workers = wait(all_ready, "all workers")
    before, started = main_pid(SERVICE), restarts()
    held = strike(before)
    # one that the dying workers could still take proves nothing
    wait(lambda: not any(pathlib.Path(f"/proc/{pid}").exists() for pid in workers), "the end of the workers")
    answer()
    wait(lambda: main_pid(SERVICE) != before and all_ready(), "all workers")
    socket = systemctl("is-active", f"{APP}.socket").stdout.strip()
    return {"held": held, "restarts": restarts() - started, "socket": socket}


def restarts() -> int:
    """How often systemd has started the service again by itself."""
    return int(systemctl("show", "--property=NRestarts", "--value", SERVICE).stdout)


def kill_booting(release: str) -> Json:
    """SIGKILL to a worker that boots in a reload, of a gated release, and can't have booted before."""
    before, back = wait(all_ready, "all workers"), current()
    with gate():
        point(release)
        reloading = subprocess.Popen(["systemctl", "reload", SERVICE], stderr=subprocess.DEVNULL)
        os.kill(wait(lambda: pids("booting"), "a booting worker")[0], signal.SIGKILL)
        ended = reloading.wait(LONGEST)
        point(back)
    return {"rc": ended, "before": before, "after": pids(), "error": status()["reload"]["error"]}


def kill_bridge(release: str, where: str) -> Json:
    """SIGKILL to the bridge, in a phase of the handover."""
    handover = Held(release, where)
    found = phase(handover.master)
    held = strike(main_pid(BRIDGE))
    handover.let_go()
    output = handover.caller.communicate(timeout=LONGEST)[0]
    return {"phase": found, "held": held, **said(output), "rc": handover.caller.returncode}


def kill_callers(releases: list[str], phases: list[str], rounds: int, seed: int) -> list[Json]:
    """SIGKILL to activate and all that belongs to its caller, in each phase of a change of release. What is left then.
    In all rounds but the first, so long after the phase as chance will have it."""
    chance = random.Random(seed)
    tries = []
    for number in range(rounds):
        for where in phases:
            wanted = releases[(releases.index(current()) + 1) % len(releases)]
            handover = Held(wanted, where)
            found = phase(handover.master)
            if number:
                handover.let_go()
                let_go([handover.caller.pid])
                time.sleep(chance.uniform(0, 1.5))  # the subject: any moment
            with contextlib.suppress(ProcessLookupError):
                os.killpg(handover.caller.pid, signal.SIGKILL)
            handover.caller.communicate()
            handover.let_go()
            answer()
            tries.append({"round": number, "phase": found, "wanted": wanted, **state()})
    return tries


def kill_everything(release: str, where: str) -> Json:
    """SIGKILL to the handover itself, in a phase: its caller, its own process, all of them."""
    handover = Held(release, where)
    family = handover.family()
    found = phase(handover.master)
    for pid in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    handover.caller.communicate()
    handover.let_go()
    answer()
    wait(lambda: not systemctl("list-jobs", "--no-legend").stdout.strip(), "systemd's jobs")
    return {"phase": found}


def kill_login(release: str) -> Json:
    """The end of the login that a handover came from while it is under way, as logind's KillUserProcesses= does it."""
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
    """A handover that is left in a phase, for the end of the host."""
    return {"phase": phase(Held(release, where).master)}


def resize(up: int, down: int) -> Json:
    """Sends TTIN and TTOU; the number of workers after each."""
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
    """`systemctl restart`: a stop and a start, with the socket open all the while."""
    wait(all_ready, "all workers")
    done = systemctl("restart", SERVICE)
    return {"rc": done.returncode, "ready": len(wait(all_ready, "all workers"))}


def recycle(requests: int) -> Json:
    """Sets max_requests and reloads."""
    _configure("max_requests", requests)
    return {"rc": systemctl("reload", SERVICE).returncode}


def wait_until_recycled(pids: list[int]) -> Json:
    """Until other workers serve than these."""
    wait(lambda: all_ready() and not set(all_ready()) & set(pids), "successors")
    return {}


COMMANDS = {
    command.__name__: command
    for command in (
        *(copy, state, reload, activate, recover, limit_boots, spoil, mend),
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
