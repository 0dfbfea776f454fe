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
LONGEST = 120.0  # seconds until something that should happen counts as not happening

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


def all_ready() -> list[int]:
    """The workers, when all that are wanted are there and no other."""
    said = status()
    states = [worker["state"] for worker in said.get("workers", [])]
    if states != ["ready"] * said.get("workers_wanted", 0) or said["master"]["pid"] != main_pid(SERVICE):
        return []
    return pids()


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


def answer(patience: float = LONGEST) -> float:
    """Seconds until a request to the socket is answered well."""
    began = time.monotonic()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(patience)
        connection.connect(str(RUN / "web.sock"))
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        head = connection.recv(100)
    if not head.startswith(b"HTTP/1.1 200"):
        raise http.client.BadStatusLine(repr(head))
    return time.monotonic() - began


def connections(holders: list[int]) -> int:
    """How many connections to the socket these processes have accepted."""
    listed = subprocess.run(["ss", "-Hxnp", "state", "established"], check=True, capture_output=True, text=True).stdout
    taken = [line for line in listed.splitlines() if f"{RUN}/web.sock" in line]
    return sum(any(f"pid={holder}," in line for holder in holders) for line in taken)


# Doing


def strike(victim: int) -> int:
    """SIGKILL to a process and, by its end, to all that it began: how many connections they had. They are held still
    while these are counted; else one more could come, and be lost, between the count and the blow."""
    holders = family(victim)
    for pid in holders:
        os.kill(pid, signal.SIGSTOP)
    held = connections(holders)
    os.kill(victim, signal.SIGKILL)
    return held


def point(release: str) -> None:
    scratch = OPT / ".current.test"
    scratch.unlink(missing_ok=True)
    scratch.symlink_to(f"releases/{release}")
    scratch.replace(OPT / "current")


def module(**options: Any) -> list[str]:
    """The command line of activate."""
    arguments = {"name": APP, "health_path": "/", "health_listen": f"{RUN}/web.sock", "timeout": 120, **options}
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


def family(pid: int) -> list[int]:
    """A process and all that it began, itself first."""
    try:
        children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return []
    return [pid, *(found for child in children for found in family(int(child)))]


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
    elif broken:
        service = target / "src/service.py"
        service.write_text(f"{service.read_text()}\n{BROKEN[broken]}\n")
    return {}


def state() -> Json:
    """Who serves, when all is quiet."""
    undisturbed()
    ready = wait(all_ready, "all workers")
    record = json.loads((STATE / "active.json").read_text())["processes"]["web"]["release"]
    return {
        "pids": ready,
        "master": main_pid(SERVICE),
        "current": current(),
        "served": releases_served(),
        "record": record,
    }


def reload(count: int = 1) -> list[Json]:
    """`systemctl reload`, again and again."""
    done = []
    for _ in range(count):
        since, began = time.time(), time.monotonic()
        before = pids()
        ended = systemctl("reload", SERVICE)
        after = [worker for worker in status()["workers"] if worker["state"] == "ready"]
        done.append(
            {
                "rc": ended.returncode,
                "error": ended.stderr,
                "seconds": time.monotonic() - began,
                "kept": [pid for pid in before if pid in [worker["pid"] for worker in after]],
                "ready": len(after),
                "journal": _journal(since) if ended.returncode else "",
            }
        )
    return done


def _journal(since: float) -> str:
    # journald reads what is said to it later than systemd tells of a unit's end
    subprocess.run(["journalctl", "--sync"], check=True)
    words = ["journalctl", "-u", SERVICE, "-u", BRIDGE, f"--since=@{since:.3f}", "-o", "cat", "--no-pager"]
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
    """SIGKILL to one that serves: seconds until a process takes its place, and until that is ready."""
    before = wait(all_ready, "all workers")
    held = strike(before[0])
    began = time.monotonic()
    wait(lambda: set(pids("booting")) - set(before) or set(pids()) - set(before), "a successor")
    forked = time.monotonic() - began
    wait(lambda: before[0] not in all_ready() and all_ready(), "all workers")
    return {"held": held, "forked": forked, "ready": time.monotonic() - began}


def kill_master() -> Json:
    """SIGKILL to the master: how often systemd then started it, for a request that came meanwhile to be answered."""
    wait(all_ready, "all workers")
    before, started = main_pid(SERVICE), restarts()
    held = strike(before)
    # one that the dying workers could still take proves nothing
    wait(lambda: not any(pathlib.Path(f"/proc/{pid}").exists() for pid in pids()), "the end of the workers")
    answer()
    wait(lambda: main_pid(SERVICE) != before and all_ready(), "all workers")
    socket = systemctl("is-active", f"{APP}.socket").stdout.strip()
    return {"held": held, "restarts": restarts() - started, "socket": socket}


def restarts() -> int:
    """How often systemd has started the service again by itself."""
    return int(systemctl("show", "--property=NRestarts", "--value", SERVICE).stdout)


def kill_booting() -> Json:
    """SIGKILL to a worker that boots in a reload."""
    before = wait(all_ready, "all workers")
    reloading = subprocess.Popen(["systemctl", "reload", SERVICE], stderr=subprocess.PIPE)
    os.kill(wait(lambda: pids("booting"), "a booting worker")[0], signal.SIGKILL)
    return {"rc": reloading.wait(LONGEST), "before": before, "after": pids(), "error": status()["reload"]["error"]}


def kill_bridge(serving: bool) -> Json:
    """SIGKILL to the bridge, as it boots or while it serves."""
    with another_secret():
        handover = subprocess.Popen(module(), stdout=subprocess.PIPE, text=True)
    wait(lambda: main_pid(BRIDGE), "the bridge")
    if serving:
        before = main_pid(SERVICE)
        wait(lambda: main_pid(SERVICE) != before, "the service's restart")
    held = strike(main_pid(BRIDGE))
    output = handover.communicate(timeout=LONGEST)[0]
    return {"held": held, **said(output), "rc": handover.returncode}


def kill_callers(count: int, releases: list[str], longest: float, seed: int) -> list[Json]:
    """SIGKILL to activate and all that belongs to its caller, at random moments of a change of release, in turns
    by reload and by bridge. What is left then, and whether the next run converges."""
    chance = random.Random(seed)
    tries = []
    for number in range(count):
        wanted = releases[(releases.index(current()) + 1) % len(releases)]
        moment = chance.uniform(0, longest)
        with another_secret() if number % 3 == 2 else contextlib.nullcontext():
            caller = subprocess.Popen(
                module(release=wanted), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
            )
        time.sleep(moment)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(caller.pid, signal.SIGKILL)
        caller.wait()
        answered = answer()
        tries.append({"moment": moment, "wanted": wanted, "answered": answered, **state()})
    return tries


def kill_everything(release: str, moment: float) -> Json:
    """SIGKILL to the handover itself: its caller, its own process, all of them."""
    handover = subprocess.Popen(module(release=release), stdout=subprocess.DEVNULL, start_new_session=True)
    time.sleep(moment)
    for pid in family(handover.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    handover.wait()
    seconds = answer()
    wait(lambda: not systemctl("list-jobs", "--no-legend").stdout.strip(), "systemd's jobs")
    return {"answered": seconds}


def kill_login(release: str) -> Json:
    """The end of the login that a handover came from, as logind's KillUserProcesses= does it."""
    login = "login-of-test.service"
    words = ["systemd-run", "--quiet", "--no-block", f"--unit={login}", "--property=SendSIGHUP=yes"]
    subprocess.run([*words, *module(release=release)], check=True)
    wait(lambda: current() == release, "the handover")
    systemctl("kill", "--signal=KILL", login)
    wait(lambda: systemctl("is-active", login).stdout.strip() != "active", "the end of the login")
    return state()


def begin(release: str) -> Json:
    """A handover that nobody waits for."""
    subprocess.Popen(
        module(release=release), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    return {}


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
    file = ETC / "gunicorn.conf.py"
    text = re.sub(r"(?m)^max_requests = \d+$", f"max_requests = {requests}", file.read_text())
    file.write_text(text)
    return {"rc": systemctl("reload", SERVICE).returncode}


def wait_until_recycled(pids: list[int]) -> Json:
    """Until other workers serve than these."""
    wait(lambda: all_ready() and not set(all_ready()) & set(pids), "successors")
    return {}


COMMANDS = {
    command.__name__: command
    for command in (
        *(copy, state, reload, activate, spoil, mend, kill_worker, kill_master, kill_booting, kill_bridge),
        *(kill_callers, kill_everything, kill_login, begin, resize, restart, recycle, wait_until_recycled),
    )
}


def main() -> None:
    command = COMMANDS[sys.argv[1]]
    given = {name: json.loads(value) for name, _, value in (word.partition("=") for word in sys.argv[2:])}
    inspect.signature(command).bind(**given)
    print(json.dumps(command(**given)))


if __name__ == "__main__":
    main()
