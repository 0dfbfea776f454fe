#!/usr/bin/env python3
"""Local fleet: real systemd hosts in containers, for the demo and for the Molecule scenarios.

    fleet.py up INVENTORY       build missing images, boot the hosts of INVENTORY's group `fleet`, wait for SSH
    fleet.py down INVENTORY     remove those hosts and their network
    fleet.py crash INVENTORY HOST  power a host off and on, without a shutdown
    fleet.py clean              remove every local host, network, image and cache that this program has created

An inventory sets for each host: ansible_port (SSH, published on loopback), fleet_suite (Debian release),
fleet_address (in fleet_subnet) and optionally fleet_publish (["127.0.0.1:8443:443"]).

Environment variables:
    FLEET_ENGINE         podman or docker; default: the one that works, podman first
    FLEET_IMAGE_SOURCE   registry or mmdebstrap; default: registry if it is reachable
    FLEET_MIRROR         Debian mirror for mmdebstrap; default: the machine's own
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import pathlib
import platform
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

HERE = pathlib.Path(__file__).resolve().parent
PROJECT = HERE.parent
IMAGE = HERE / "image"
CACHE = pathlib.Path.home() / ".cache" / "baton" / "fleet"
LABEL = "org.baton.fleet"
# SYS_ADMIN: mount namespaces of sandboxed units; NET_*: nftables; SYS_PTRACE: Debian's redis unit. Never --privileged.
CAPABILITIES = ("SYS_ADMIN", "NET_ADMIN", "NET_RAW", "SYS_NICE", "SYS_PTRACE")
CAP_SYS_RESOURCE = 24
BOOT_SECONDS = 60
# systemd, its journal, udev, D-Bus and others of one host
INOTIFY_INSTANCES = 6
INOTIFY_SETTING = "fs.inotify.max_user_instances"
INOTIFY_LIMIT = pathlib.Path("/proc/sys", *INOTIFY_SETTING.split("."))


class FleetError(Exception):
    """An error. The message names the cause and the fix."""


@dataclasses.dataclass(frozen=True)
class Host:
    name: str
    suite: str
    address: str
    port: int
    publish: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Fleet:
    name: str
    subnet: str
    hosts: tuple[Host, ...]

    def container(self, host: Host) -> str:
        return f"{self.name}-{host.name}"


def run(argv: Sequence[str], **kwargs: Any) -> subprocess.CompletedProcess[str]:
    """Run a program. Raises FleetError with the program's output if it fails."""
    kwargs.setdefault("stdin", subprocess.DEVNULL)
    done = subprocess.run(argv, check=False, text=True, capture_output=True, **kwargs)
    if done.returncode:
        words = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-8:]
        raise FleetError(f"`{' '.join(argv[:4])} …` failed with exit code {done.returncode}: " + "\n".join(words))
    return done


def run_quietly(argv: Sequence[str], environment: dict[str, str] | None = None) -> bool:
    """Whether a program succeeds; its output is discarded."""
    quiet = subprocess.DEVNULL
    done = subprocess.run(argv, check=False, env=environment, stdin=quiet, stdout=quiet, stderr=quiet)
    return done.returncode == 0


def say(text: str) -> None:
    print(text, flush=True)


def load(inventory: str) -> Fleet:
    """Read the group `fleet` of an inventory. Raises FleetError if it lacks hosts or variables."""
    listing = subprocess.run(
        [_tool("ansible-inventory"), "-i", inventory, "--list"], check=False, text=True, capture_output=True
    )
    if listing.returncode:
        raise FleetError(f"{inventory}: Ansible can't read this inventory; correct it:\n{listing.stderr.strip()}")
    data = json.loads(listing.stdout)
    variables: dict[str, dict[str, Any]] = data["_meta"]["hostvars"]
    names: list[str] = data.get("fleet", {}).get("hosts", [])
    if not names:
        raise FleetError(f"{inventory}: the group `fleet` has no hosts; add the hosts of the local fleet to it")
    try:
        hosts = tuple(
            Host(
                name=name,
                suite=variables[name]["fleet_suite"],
                address=variables[name]["fleet_address"],
                port=int(variables[name]["ansible_port"]),
                publish=tuple(variables[name].get("fleet_publish", ())),
            )
            for name in names
        )
        first = variables[names[0]]
        return Fleet(first["fleet_name"], first["fleet_subnet"], hosts)
    except KeyError as missing:
        raise FleetError(f"{inventory}: a host of the group `fleet` lacks the variable {missing}; set it") from None


def _tool(name: str) -> str:
    beside = pathlib.Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if not found:
        raise FleetError(f"{name} is not installed; run `make setup` first")
    return found


class Engine:
    """Podman or Docker, with the flags that systemd hosts need on this machine."""

    def __init__(self) -> None:
        self.name = self._choose()
        self.environment = dict(os.environ)
        self.rootless = os.geteuid() != 0
        if self.name == "podman":
            self.environment["CONTAINERS_CONF"] = str(self._containers_conf())

    @staticmethod
    def _choose() -> str:
        wanted = os.environ.get("FLEET_ENGINE")
        if wanted not in (None, "podman", "docker"):
            raise FleetError(f"FLEET_ENGINE={wanted}: set it to podman or docker")
        if shutil.which("podman") and wanted != "docker":
            Engine._complete_podman()
        for name in [wanted] if wanted else ["podman", "docker"]:
            if shutil.which(name) and run_quietly([name, "info"]):
                return name
        if wanted:
            raise FleetError(f"FLEET_ENGINE={wanted}, but `{wanted} info` fails; start or install it")
        if shutil.which("apt-get") is None:
            raise FleetError("neither `podman info` nor `docker info` works; install and start one of them")
        _apt_install(["podman"])
        Engine._complete_podman()
        run(["podman", "info"])
        return "podman"

    @staticmethod
    def _complete_podman() -> None:
        """Debian's podman only recommends the packages that its networks need."""
        if shutil.which("dpkg-query") and run_quietly(["dpkg-query", "-W", "podman"]):
            rootless = [] if os.geteuid() == 0 else ["slirp4netns", "uidmap", "dbus-user-session"]
            _apt_install(["aardvark-dns", "netavark", "iptables", *rootless])

    def _containers_conf(self) -> pathlib.Path:
        """Write a configuration of our own for Podman on this machine, instead of changing the user's."""
        unified = pathlib.Path("/sys/fs/cgroup/cgroup.controllers").exists()
        lines = ["[containers]", 'cgroupns = "private"']
        effective = next(
            int(line.split()[1], 16)
            for line in pathlib.Path("/proc/self/status").read_text().splitlines()
            if line.startswith("CapEff")
        )
        if not effective >> CAP_SYS_RESOURCE & 1:
            # limits can't be raised: request no more than the current ones (Podman 4.3 lowers its own nproc to 32768)
            files = _limit(resource.RLIMIT_NOFILE, 1048576)
            processes = min(_limit(resource.RLIMIT_NPROC, 32768), 30000)
            lines.append(f'default_ulimits = ["nofile={files}:{files}", "nproc={processes}:{processes}"]')
        if not unified:
            # systemd 256 and newer refuse cgroup v1 without this
            lines.append('env = ["SYSTEMD_PROC_CMDLINE=SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"]')
        lines.append("[engine]")
        if not unified:
            if not shutil.which("runc"):
                _apt_install(["runc"])
            lines.append('runtime = "runc"')  # crun doesn't support hybrid cgroups
        if not pathlib.Path("/run/systemd/system").exists():
            lines += ['cgroup_manager = "cgroupfs"', 'events_logger = "file"']
        path = CACHE / "containers.conf"
        text = "\n".join(lines) + "\n"
        if not path.exists() or path.read_text() != text:
            # atomically, as another fleet may be reading it
            partial = path.with_suffix(f".{os.getpid()}")
            partial.write_text(text)
            partial.rename(path)
        return path

    def __call__(self, *argv: str, **kwargs: Any) -> str:
        return run([self.name, *argv], env=self.environment, **kwargs).stdout.strip()

    def succeeds(self, *argv: str) -> bool:
        return run_quietly([self.name, *argv], self.environment)

    def host_flags(self) -> list[str]:
        """Flags of `run` for a container that is a systemd host."""
        flags = ["--restart=always", "--pids-limit=4096", "--cgroupns=private"]
        flags += [f"--cap-add={capability}" for capability in CAPABILITIES]
        if self.name == "podman":
            return [*flags, "--systemd=always"]
        unconfined = ["--security-opt=seccomp=unconfined", "--security-opt=apparmor=unconfined"]
        return flags + unconfined + [f"--tmpfs={path}" for path in ("/run:exec", "/run/lock", "/tmp")]


def _limit(kind: int, unlimited: int) -> int:
    hard = resource.getrlimit(kind)[1]
    return unlimited if hard == resource.RLIM_INFINITY else hard


def _apt_install(packages: Sequence[str]) -> None:
    done = subprocess.run([str(PROJECT / "scripts" / "apt-install"), *packages], check=False)
    if done.returncode:
        raise FleetError(f"{' '.join(packages)} could not be installed; install them, then try again")


class Images:
    """One image for each Debian release, built once: its tag is a hash of its inputs."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.certificates = sorted(pathlib.Path("/usr/local/share/ca-certificates").glob("**/*.crt"))
        digest = hashlib.sha256()
        for path in [*sorted(IMAGE.iterdir()), *self.certificates]:
            digest.update(path.read_bytes())
        self.tag = digest.hexdigest()[:12]

    def name(self, suite: str) -> str:
        return f"localhost/baton-fleet-{suite}:{self.tag}"

    def build_missing(self, suites: set[str]) -> None:
        missing = sorted(suite for suite in suites if not self.engine.succeeds("image", "inspect", self.name(suite)))
        if not missing:
            return
        source = os.environ.get("FLEET_IMAGE_SOURCE") or ("registry" if self._registry(missing[0]) else "mmdebstrap")
        build = {"registry": self._build, "mmdebstrap": self._bootstrap}.get(source)
        if build is None:
            raise FleetError(f"FLEET_IMAGE_SOURCE={source}: set it to registry or mmdebstrap")
        if source == "mmdebstrap":
            if shutil.which("apt-get") is None:
                raise FleetError(
                    "no container registry is reachable, and without apt images can't be built from Debian's packages; "
                    "make a registry reachable (`podman pull debian:bookworm-slim` must work)"
                )
            _apt_install(["mmdebstrap", "zstd", "debian-archive-keyring"])
        say(f"Building host images ({source}): {', '.join(missing)} ...")
        with concurrent.futures.ThreadPoolExecutor() as pool:
            list(pool.map(build, missing))

    def _registry(self, suite: str) -> bool:
        try:
            run([self.engine.name, "pull", "-q", f"debian:{suite}-slim"], env=self.engine.environment, timeout=120)
        except (FleetError, subprocess.TimeoutExpired):
            return False
        return True

    def _build(self, suite: str) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            context = pathlib.Path(scratch, "image")
            shutil.copytree(IMAGE, context)
            (context / "certificates").mkdir()
            for path in self.certificates:
                shutil.copy(path, context / "certificates")
            self.engine(
                *("build", "-q", f"--build-arg=SUITE={suite}", f"--label={LABEL}=image", "-t", self.name(suite)),
                *("-f", str(context / "Containerfile"), str(context)),
            )

    def _bootstrap(self, suite: str) -> None:
        archive = CACHE / f"{suite}-{self.tag}.tar.zst"
        if not archive.exists():
            partial = archive.with_suffix(".partial")
            hooks = ['mkdir -p "$1"/usr/local/share/ca-certificates "$1"/usr/local/sbin']
            hooks += [f'cp "{path}" "$1"/usr/local/share/ca-certificates/' for path in self.certificates]
            hooks += [f'install -m 755 "{IMAGE}"/fleet-init "$1"/usr/local/sbin/', f'sh "{IMAGE}"/customize "$1"']
            packages = ",".join((IMAGE / "packages.txt").read_text().split())
            bootstrap = subprocess.Popen(
                [
                    *("mmdebstrap", "--quiet", "--format=tar", "--variant=minbase", f"--include={packages}"),
                    '--aptopt=APT::Install-Recommends "false"',
                    '--aptopt=Acquire::Languages "none"',
                    "--dpkgopt=path-exclude=/usr/share/man/*",
                    "--dpkgopt=path-exclude=/usr/share/locale/*",
                    *(f"--customize-hook={hook}" for hook in hooks),
                    *(suite, "-", "-"),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            assert bootstrap.stdin is not None
            assert bootstrap.stderr is not None
            bootstrap.stdin.write("".join(f"{line}\n" for line in _sources(suite)).encode())
            bootstrap.stdin.close()
            with partial.open("wb") as target:
                packed = subprocess.run(["zstd", "-q", "-3"], stdin=bootstrap.stdout, stdout=target, check=False)
            words = bootstrap.stderr.read().decode(errors="replace").strip().splitlines()[-8:]
            if bootstrap.wait() or packed.returncode:
                partial.unlink(missing_ok=True)
                raise FleetError(f"the image for {suite} could not be built:\n" + "\n".join(words))
            partial.rename(archive)
        with subprocess.Popen(["zstd", "-dc", str(archive)], stdout=subprocess.PIPE) as unpacked:
            run(
                [
                    *(self.engine.name, "import", "-c", 'CMD ["/usr/local/sbin/fleet-init"]'),
                    *("-c", "STOPSIGNAL SIGRTMIN+3", "-c", f"LABEL {LABEL}=image", "-", self.name(suite)),
                ],
                env=self.engine.environment,
                stdin=unpacked.stdout,
            )


def _sources(suite: str) -> Iterator[str]:
    """The apt sources of a Debian release, from the mirrors that this machine uses, so that none is hard-coded."""
    mirror = os.environ.get("FLEET_MIRROR")
    security: str | None = None
    if not mirror:
        for attempt in range(2):
            columns = "$(ORIGIN)|$(LABEL)|$(REPO_URI)"
            listing = run(["apt-get", "indextargets", "--format", columns, "Created-By: Packages"])
            found = {tuple(line.split("|")) for line in listing.stdout.splitlines() if line.count("|") == 2}
            uris = {label: uri for origin, label, uri in found if origin == "Debian"}
            mirror, security = uris.get("Debian"), uris.get("Debian-Security")
            if mirror or attempt:
                break
            run_quietly([*_as_root(), "apt-get", "update", "-qq"])
    if not mirror:
        raise FleetError("this machine's apt has no Debian mirror; set one: FLEET_MIRROR=http://…/debian")
    keyring = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]"
    yield f"deb {keyring} {mirror} {suite} main"
    yield f"deb {keyring} {mirror} {suite}-updates main"
    if security:
        yield f"deb {keyring} {security} {suite}-security main"


def _as_root() -> list[str]:
    return [] if os.geteuid() == 0 else ["sudo"]


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Hold a lock on what all fleets share: packages, images, the key."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Waiting for another fleet to be prepared ...")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def ssh_key() -> pathlib.Path:
    """The SSH key of the local hosts, which is used for nothing else."""
    key = CACHE / "id_ed25519"
    if not key.exists():
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "baton-fleet", "-f", str(key)])
    return key


def up(inventory: str) -> None:
    fleet = load(inventory)
    _refuse_too_many(fleet)
    with alone():
        engine = Engine()
        images = Images(engine)
        images.build_missing({host.suite for host in fleet.hosts})
        key = ssh_key()
    if not engine.succeeds("network", "inspect", fleet.name):
        engine("network", "create", f"--subnet={fleet.subnet}", f"--label={LABEL}={fleet.name}", fleet.name)
    wanted = {host: _fingerprint(fleet, host, images.name(host.suite)) for host in fleet.hosts}
    fingerprint = f'index .Labels "{LABEL}.id"' if engine.name == "podman" else f'.Label "{LABEL}.id"'
    columns = f"{{{{.Names}}}}|{{{{{fingerprint}}}}}"
    listing = engine("ps", f"--filter=label={LABEL}={fleet.name}", f"--format={columns}")
    running = dict(line.split("|", 1) for line in listing.splitlines())
    new = [host for host in fleet.hosts if running.get(fleet.container(host)) != wanted[host]]
    for host in new:
        _refuse_taken_ports(fleet, host, engine)
        engine(
            *("run", "-d", "--name", fleet.container(host), "--hostname", host.name),
            *(f"--network={fleet.name}", f"--ip={host.address}", f"--network-alias={host.name}"),
            *(f"--label={LABEL}={fleet.name}", f"--label={LABEL}.id={wanted[host]}"),
            *(f"--publish=127.0.0.1:{host.port}:22", *(f"--publish={item}" for item in host.publish)),
            f"--volume={key}.pub:/home/deploy/.ssh/authorized_keys:ro",
            *engine.host_flags(),
            images.name(host.suite),
        )
    with concurrent.futures.ThreadPoolExecutor(max_workers=16) as pool:
        for future in [pool.submit(_wait, engine, fleet, host, host in new) for host in fleet.hosts]:
            future.result()
    say(f"{fleet.name}: {len(fleet.hosts)} hosts up ({len(new)} new): {', '.join(host.name for host in fleet.hosts)}")


def _refuse_too_many(fleet: Fleet) -> None:
    limit, needed = int(INOTIFY_LIMIT.read_text()), INOTIFY_INSTANCES * len(fleet.hosts)
    if needed > limit:
        raise FleetError(
            f"{fleet.name} has {len(fleet.hosts)} hosts, which need about {needed} inotify instances; this machine has "
            f"{limit}. Raise the limit: sysctl -w {INOTIFY_SETTING}={2 * needed}"
        )


def _fingerprint(fleet: Fleet, host: Host, image: str) -> str:
    return hashlib.sha256(repr((fleet.subnet, host, image, CAPABILITIES)).encode()).hexdigest()[:12]


def _refuse_taken_ports(fleet: Fleet, host: Host, engine: Engine) -> None:
    engine.succeeds("rm", "-f", "-v", fleet.container(host))
    for port in [host.port, *(int(item.split(":")[-2]) for item in host.publish)]:
        with contextlib.closing(socket.socket()) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                raise FleetError(
                    f"port {port} on this machine, which {host.name} publishes, is in use; stop the program "
                    "that uses it, or change the port in the inventory"
                ) from None


def _wait(engine: Engine, fleet: Fleet, host: Host, new: bool) -> None:
    container = fleet.container(host)
    deadline = time.monotonic() + BOOT_SECONDS
    state = "unknown"
    while time.monotonic() < deadline:
        state = _state(engine, container, deadline - time.monotonic())
        if state == "running":
            break
        if state == "degraded":
            failed = engine("exec", container, "systemctl", "--failed", "--plain", "--no-legend")
            if new:
                raise FleetError(f"{host.name} has failed units: {failed}\n{_trouble(engine, container)}")
            break
        time.sleep(0.2)
    else:
        raise FleetError(f"{host.name} did not boot within {BOOT_SECONDS} s: {state}\n{_trouble(engine, container)}")
    # a restarted host has another hardware address, which this machine must learn first
    while not _reachable(host):
        if time.monotonic() > deadline:
            raise FleetError(f"{host.name} has booted, but SSH doesn't answer on port {host.port} of this machine")
        time.sleep(0.2)
    if new:
        engine("exec", container, "apt-get", "update", "-qq")


def _reachable(host: Host) -> bool:
    """Whether the host's SSH answers on its published port."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", host.port), timeout=2) as connection:
        return connection.recv(4) == b"SSH-"
    return False


def _state(engine: Engine, container: str, seconds: float) -> str:
    """The state of the host according to systemd once it has booted, or that it still boots after `seconds`."""
    try:
        done = subprocess.run(
            [engine.name, "exec", container, "systemctl", "is-system-running", "--wait"],
            env=engine.environment,
            text=True,
            capture_output=True,
            check=False,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return "still booting"
    return done.stdout.strip() or done.stderr.strip()


def _trouble(engine: Engine, container: str) -> str:
    """The errors of the boot in a host's journal, with a hint if the cause is known."""
    journal = ["journalctl", "--no-pager", "--quiet", "--boot", "--priority=err", "--lines=5"]
    words = engine("exec", container, *journal)
    if "inotify" in words:
        words += (
            f"\nThis machine has no inotify instances left; a host needs about {INOTIFY_INSTANCES}. Remove other "
            f"fleets, or raise {INOTIFY_SETTING}."
        )
    return words


def crash(inventory: str, name: str) -> None:
    """Power a host off and on, without a shutdown, so that it can't write anything to disk."""
    fleet = load(inventory)
    host = next((host for host in fleet.hosts if host.name == name), None)
    if host is None:
        raise FleetError(
            f"{inventory} has no host {name}; choose one of {', '.join(host.name for host in fleet.hosts)}"
        )
    with alone():
        engine = Engine()
    engine("kill", "--signal=KILL", fleet.container(host))
    engine("start", fleet.container(host))
    _wait(engine, fleet, host, new=False)


def down(inventory: str) -> None:
    fleet = load(inventory)
    with alone():
        engine = Engine()
    _remove(engine, f"{LABEL}={fleet.name}")


def _remove(engine: Engine, label: str) -> None:
    containers = engine("ps", "-aq", f"--filter=label={label}").split()
    if containers:
        engine("rm", "-f", "-v", *([] if engine.name == "docker" else ["-t", "0"]), *containers)
    for network in engine("network", "ls", "-q", f"--filter=label={label}").split():
        engine("network", "rm", network)


def clean() -> None:
    if shutil.which("podman") or shutil.which("docker"):
        with alone():
            engine = Engine()
        _remove(engine, LABEL)
        for image in engine("images", "-q", f"--filter=label={LABEL}").split():
            engine("rmi", "-f", image)
    shutil.rmtree(CACHE, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("up", "down"):
        verbs.add_parser(verb).add_argument("inventory")
    verbs.add_parser("clean")
    crashing = verbs.add_parser("crash")
    crashing.add_argument("inventory")
    crashing.add_argument("name", metavar="host")
    arguments = vars(parser.parse_args())
    if platform.system() != "Linux":
        print("fleet: a local fleet needs Linux; use a Linux machine or a virtual machine", file=sys.stderr)
        return 1
    try:
        actions: dict[str, Callable[..., None]] = {"up": up, "down": down, "crash": crash, "clean": clean}
        actions[arguments.pop("verb")](**arguments)
    except FleetError as error:
        print(f"fleet: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
