"""The page in Debian's Chromium, served as on a host: Gunicorn with gunicorn_handover, PostgreSQL, Redis."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import redis
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.support.expected_conditions import staleness_of
from selenium_axe_python.axe import Axe

from links.clicks import STREAM
from links.settings import Settings
from tests.conftest import RedisServer

pytestmark = [pytest.mark.long, pytest.mark.parametrize("empty_database", ["postgresql"], indirect=True)]

APP = Path(__file__).parent.parent
# Seconds until a wait fails, enough for a machine of any speed.
TIMEOUT = 600
RELOADS = 4
# WebSocket close code: service restart.
RESTARTING = 1012
# Milliseconds within which a page reconnects after it.
MAX_PAUSE = 3000
LIVE = "Clicks appear here as they happen."
AWAY = "Not connected: these counts may be old. Trying again."

# Each document records its WebSockets' events and the pauses between them.
RECORDER = """
    window.sockets = [];
    window.pauses = [];
    window.WebSocket = class extends WebSocket {
      constructor(...given) {
        super(...given);
        const seen = { clicks: [], code: null };
        sockets.push(seen);
        this.addEventListener("message", (message) => seen.clicks.push(JSON.parse(message.data)));
        this.addEventListener("close", (close) => { seen.code = close.code; });
      }
    };
    const wait = window.setTimeout;
    window.setTimeout = (work, milliseconds) => { pauses.push(milliseconds); return wait(work, milliseconds); };
"""


@pytest.fixture(scope="module", autouse=True)
def requirements() -> None:
    """Fail and name what is missing: these tests run only on request, so a skip would hide that."""
    missing = [name for name in ("chromium", "chromedriver", "redis-server") if shutil.which(name) is None]
    if missing:
        pytest.fail(f"not installed: {', '.join(missing)}; Debian has chromium, chromium-driver and redis-server")
    if not os.environ.get("TEST_DATABASE_URL"):
        pytest.fail("TEST_DATABASE_URL is not set: set it to a PostgreSQL, or run the tests with pg_virtualenv")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connect to loopback without a proxy, whatever the environment sets."""
    monkeypatch.setenv("no_proxy", "localhost,127.0.0.1")


def wait_for(condition: Callable[[], Any], missing: Callable[[], object]) -> Any:
    """Wait until `condition` returns a true value, and return it; `missing` describes the state after a timeout."""
    end = time.monotonic() + TIMEOUT
    while not (found := condition()):
        assert time.monotonic() < end, missing()
        time.sleep(0.05)
    return found


class Site:
    """The application on a loopback port, with two workers."""

    def __init__(self, folder: Path, port: int, settings: Settings, redis_url: str) -> None:
        self.address = f"http://127.0.0.1:{port}"
        self.log = folder / "site.log"
        self._folder = folder
        self._port = port
        assert settings.database_url is not None
        self._environment = {
            **os.environ,
            "DATABASE_URL": settings.database_url.get_secret_value(),
            "REDIS_URL": redis_url,
            "LINKS_TITLE_NETWORKS": '["127.0.0.0/8"]',
            "PYTHONPATH": str(APP.parent / "handover" / "src"),
            "GUNICORN_HANDOVER_STATUS": str(folder / "handover.json"),
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server, and wait until it is ready."""
        # The same values as on hosts.
        values = {
            "wsgi_app": "links.main:app",
            "chdir": str(APP),
            "bind": f"127.0.0.1:{self._port}",
            "workers": 2,
            "graceful_timeout": 20,
            "keepalive": 10,
            "handover_websocket_spread": 5,
            "handover_warmup_paths": ["/readyz"],
        }
        configuration = self._folder / "gunicorn.conf.py"
        configuration.write_text("".join(f"{name} = {value!r}\n" for name, value in values.items()))
        command = [sys.executable, "-m", "gunicorn_handover", "--config", str(configuration)]
        with self.log.open("ab") as log:
            process = subprocess.Popen(command, cwd=self._folder, env=self._environment, stdout=log, stderr=log)
        self._process = process
        wait_for(lambda: process.poll() is not None or self._is_ready(), self.log.read_text)
        assert process.poll() is None, self.log.read_text()

    def _is_ready(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return self.get("/readyz").status_code == 200
        return False

    def reload(self) -> None:
        """Reload with HUP, as `systemctl reload` does."""
        command = [sys.executable, "-m", "gunicorn_handover", "reload", "--wait"]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def kill_workers(self) -> None:
        """Kill both workers, and wait until they have been replaced."""
        killed = self._workers
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: len(self._workers - killed) == 2, self.log.read_text)

    @property
    def _workers(self) -> set[int]:
        workers = json.loads((self._folder / "handover.json").read_text())["workers"]
        return {worker["pid"] for worker in workers if worker["state"] == "ready"}

    def stop(self) -> None:
        """Stop the server gracefully."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def get(self, path: str) -> httpx.Response:
        """Request a path, as another client."""
        return httpx.get(f"{self.address}{path}", timeout=TIMEOUT)

    def create(self, slug: str, url: str = "https://example.com") -> None:
        """Create a link, as another client."""
        link = {"url": url, "slug": slug}
        created = httpx.post(f"{self.address}/api/links", json=link, timeout=TIMEOUT)
        assert created.status_code == 201, created.text

    def click(self, slug: str, times: int = 1) -> None:
        """Follow a link, as another client."""
        for _ in range(times):
            assert self.get(f"/{slug}").status_code == 307


@pytest.fixture
def make_site(
    tmp_path_factory: pytest.TempPathFactory,
    settings: Settings,
    redis_server: RedisServer,
    unused_tcp_port_factory: Callable[[], int],
) -> Iterator[Callable[[], Site]]:
    """Return a function that starts another server, as on another host, with the same database and Redis."""
    with contextlib.ExitStack() as stack:

        def make() -> Site:
            site = Site(tmp_path_factory.mktemp("site"), unused_tcp_port_factory(), settings, redis_server.url)
            stack.callback(site.stop)
            site.start()
            return site

        yield make


@pytest.fixture
def site(make_site: Callable[[], Site]) -> Site:
    """Serve the application."""
    return make_site()


class Page:
    """The page at / in a browser of its own."""

    def __init__(self, driver: Chrome, address: str) -> None:
        self.driver = driver
        self._address = address

    def open(self, query: str = "") -> None:
        """Load the page."""
        self.driver.get(f"{self._address}/{query}")

    def find(self, selector: str) -> str:
        """Return the text of an element."""
        return self.driver.find_element(By.CSS_SELECTOR, selector).text

    def wait_for(self, selector: str, text: str) -> None:
        """Wait until an element has this text."""
        wait_for(lambda: self.find(selector) == text, lambda: f"{selector}: {self.find(selector)!r}, not {text!r}")

    def wait_for_clicks(self, slug: str, clicks: int) -> None:
        """Wait until the page shows this number of clicks for a link."""
        self.wait_for(f'[data-slug="{slug}"]', str(clicks))

    def run(self, script: str) -> Any:
        """Evaluate a JavaScript expression in the page."""
        return self.driver.execute_script(f"return {script}")

    def wait_for_sockets(self, number: int) -> list[dict[str, Any]]:
        """Wait until the page has opened `number` WebSockets since it was loaded, and is live; return their records."""
        wait_for(lambda: len(self.run("sockets")) >= number, lambda: self.run("sockets"))
        self.wait_for("#live", LIVE)
        sockets: list[dict[str, Any]] = self.run("sockets")
        return sockets

    def send(self, url: str, slug: str = "") -> None:
        """Fill in the form, submit it, and wait for the next page."""
        for name, text in (("url", url), ("slug", slug)):
            field = self.driver.find_element(By.NAME, name)
            field.clear()
            field.send_keys(text)
        button = self.driver.find_element(By.CSS_SELECTOR, "button")
        button.click()
        wait_for(lambda: staleness_of(button)(self.driver), lambda: self.driver.current_url)

    @property
    def console(self) -> list[str]:
        """The console's messages since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def browser(address: str, log: Path, *arguments: str) -> Iterator[Page]:
    """Open a browser with further command line arguments; chromedriver's log goes to `log`."""
    options = ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for argument in ("--headless=new", *arguments):
        options.add_argument(argument)
    if os.geteuid() == 0:
        # Chromium's sandbox doesn't work as root.
        options.add_argument("--no-sandbox")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = ChromeService(str(shutil.which("chromedriver")), log_output=str(log))
    driver = Chrome(options, service)
    try:
        driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": RECORDER})
        yield Page(driver, address)
    finally:
        driver.quit()


@pytest.fixture
def page(site: Site, tmp_path: Path) -> Iterator[Page]:
    """Open a browser."""
    with browser(site.address, tmp_path / "chromedriver.log") as opened:
        yield opened


class Clicks:
    """Clicks of another client at a steady rate, alternately on a kept connection and on new ones."""

    def __init__(self, address: str, slug: str) -> None:
        self.answers: list[int] = []
        self.failures: list[str] = []
        self._url = f"{address}/{slug}"
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._click)

    def __enter__(self) -> "Clicks":
        """Start clicking."""
        self._thread.start()
        self.wait_for(10)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop after ten more clicks."""
        try:
            self.wait_for(10)
        finally:
            self._enough.set()
            self._thread.join()

    def wait_for(self, more: int) -> None:
        """Wait for `more` clicks."""
        wanted = len(self.answers) + more
        wait_for(lambda: self.failures or len(self.answers) >= wanted, lambda: f"{len(self.answers)} of {wanted}")

    def _click(self) -> None:
        with httpx.Client(timeout=TIMEOUT) as client:
            while not self._enough.wait(0.02):
                try:
                    kept = client if len(self.answers) % 2 else httpx
                    self.answers.append(kept.get(self._url).status_code)
                except httpx.TransportError as error:
                    self.failures.append(repr(error))
                    return


def test_link_created_on_page_shows_live_clicks(site: Site, page: Page) -> None:
    page.open()
    assert page.find("main > p:last-of-type") == "No links yet."
    page.send("https://example.com/a", "made")
    page.wait_for(".note", f"Your link: {site.address}/made")
    page.wait_for_sockets(1)
    loaded = page.run("performance.timeOrigin")
    site.click("made", 3)
    page.wait_for_clicks("made", 3)
    assert page.run("performance.timeOrigin") == loaded
    assert page.console == []


def test_reloads_under_clicks_lose_no_event(site: Site, page: Page) -> None:
    site.create("x")
    page.open()
    page.wait_for_sockets(1)
    loaded = page.run("performance.timeOrigin")
    with Clicks(site.address, "x") as clicks:
        for number in range(1, RELOADS + 1):
            site.reload()
            page.wait_for_sockets(number + 1)
            clicks.wait_for(10)
    assert (clicks.failures, set(clicks.answers)) == ([], {307})
    made = len(clicks.answers)
    page.wait_for_clicks("x", made)
    assert site.get("/api/links/x").json()["clicks"] == made
    sockets = page.run("sockets")
    assert [socket["code"] for socket in sockets] == [RESTARTING] * RELOADS + [None]
    events = [event for socket in sockets for event in socket["clicks"]]
    assert sorted(event["clicks"] for event in events) == list(range(1, made + 1))
    assert len({event["id"] for event in events}) == made
    # With jitter no two pauses are equal, and all are short.
    pauses = page.run("pauses")
    assert len(set(pauses)) == RELOADS
    assert max(pauses) < MAX_PAUSE
    assert page.run("performance.timeOrigin") == loaded
    assert page.console == []


def test_pause_of_quiet_page_does_not_grow_with_reloads(site: Site, page: Page) -> None:
    page.open()
    page.wait_for_sockets(1)
    # The longest possible pause.
    page.run("(Math.random = () => 0.999)")
    for number in range(1, RELOADS + 1):
        site.reload()
        page.wait_for_sockets(number + 1)
    assert page.run("pauses") == [pytest.approx(0.999 * MAX_PAUSE)] * RELOADS
    assert page.console == []


def test_pauses_grow_with_failures_and_reset_after_long_connection(site: Site, page: Page) -> None:
    page.open()
    page.wait_for_sockets(1)
    page.run("(Math.random = () => 0.999)")
    for number in (2, 3):
        site.kill_workers()
        page.wait_for_sockets(number)
    # Make the third connection look as if it had been open for very long.
    page.run("(Date.now = () => Number.MAX_SAFE_INTEGER)")
    site.kill_workers()
    page.wait_for_sockets(4)
    assert page.run("pauses") == [pytest.approx(0.999 * MAX_PAUSE * factor) for factor in (1, 2, 1)]
    assert page.console == []


def test_page_shows_outage_and_reconnects(site: Site, page: Page) -> None:
    site.create("x")
    page.open()
    page.wait_for_sockets(1)
    site.click("x", 2)
    page.wait_for_clicks("x", 2)
    site.stop()
    page.wait_for("#live", AWAY)
    assert page.find('[data-slug="x"]') == "2"
    site.start()
    site.click("x", 3)
    page.wait_for("#live", LIVE)
    site.click("x", 2)
    page.wait_for_clicks("x", 7)
    # Chromium itself logs each refused connection.
    assert [line for line in page.console if "net::ERR_CONNECTION_REFUSED" not in line] == []


def test_page_reloads_counts_if_events_were_trimmed(
    make_site: Callable[[], Site], site: Site, page: Page, redis_server: RedisServer
) -> None:
    for slug in ("x", "y"):
        site.create(slug)
    page.open()
    page.wait_for_sockets(1)
    site.click("x")
    page.wait_for_clicks("x", 1)
    # At first, the page can't read the counts either.
    page.driver.execute_cdp_cmd("Network.enable", {})
    page.driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["*/api/links*"]})
    elsewhere = make_site()
    site.stop()
    elsewhere.click("x", 4)
    elsewhere.click("y")
    with redis.Redis.from_url(redis_server.url) as server:
        server.xtrim(STREAM, maxlen=1, approximate=False)
    site.start()
    page.wait_for_clicks("y", 1)
    failed = "pauses.length > sockets.filter((socket) => socket.code !== null).length"
    wait_for(lambda: page.run(failed), lambda: page.run("sockets"))
    assert page.find('[data-slug="x"]') == "1"
    page.driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": []})
    page.wait_for_clicks("x", 5)


ATTACK = '"><script>document.title="hit"</script><img src=x onerror="document.title=`hit`">'


def test_user_input_is_not_executed(site: Site, page: Page) -> None:
    site.create("x", f"https://example.com/?q={ATTACK}#{ATTACK}")
    page.open(f"?created={quote(ATTACK)}")
    page.wait_for_sockets(1)
    assert "script" in page.find(".target")
    # Only the page's own script.
    assert page.run("document.scripts.length") == 1
    assert page.run("document.images.length") == 0
    assert page.console == []
    for url, slug in ((f"javascript:{ATTACK}", ""), (f"https://example.com/{ATTACK}", "api")):
        page.send(url, slug)
        page.wait_for_sockets(1)
        assert page.driver.find_element(By.NAME, "url").get_attribute("value") == url
        assert page.find('[role="alert"]').startswith("Slug: " if slug else "Address: ")
        assert page.run("document.scripts.length") == 1
        # Chromium itself logs the refused form.
        assert [line for line in page.console if "status of 422" not in line] == []
    assert page.run("document.title") == "Links"


def test_title_of_other_site_is_not_markup(site: Site, page: Page) -> None:
    class OtherSite(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = f"<title>{escape(ATTACK)}</title>".encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with ThreadingHTTPServer(("127.0.0.1", 0), OtherSite) as other:
        threading.Thread(target=other.serve_forever).start()
        site.create("x", f"http://127.0.0.1:{other.server_port}/")
        page.open("api/links/x/title")
        other.shutdown()
    assert json.loads(page.find("pre"))["title"] == ATTACK
    assert page.run("document.querySelectorAll('script, img').length") == 0
    assert page.console == []


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_page_is_accessible(site: Site, page: Page, colours: str) -> None:
    """Checked by axe, which has the rules that can be tested automatically."""
    media = [{"name": "prefers-color-scheme", "value": colours}]
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
    site.create("first")
    page.open("?created=first")
    page.wait_for_sockets(1)
    assert found(page) == []
    page.send("https://example.com", "first")
    page.wait_for_sockets(1)
    assert found(page) == []


def found(page: Page) -> list[str]:
    """Return axe's findings for the current page."""
    axe = Axe(page.driver)
    axe.inject()  # type: ignore[no-untyped-call]
    result = axe.run()
    assert result["passes"]
    return [
        f"{node['failureSummary']}: {node['html']}" for violation in result["violations"] for node in violation["nodes"]
    ]
