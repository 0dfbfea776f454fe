// Live click counts. When the connection ends, because of a deploy (1012) or otherwise, the page reconnects after a
// random pause, so that not all pages do at once, and resumes after the last event that it received: none is lost.
"use strict";
(() => {
  const LONGEST_PAUSE = 30000; // milliseconds
  const RESTARTING = 1012;
  const LIVE = "Clicks appear here as they happen.";
  const AWAY = "Not connected: these counts may be old. Trying again.";
  const status = document.getElementById("live");
  let last = document.currentScript.dataset.after;
  let failures = 0;

  // The page may be of another release, which lacks this element.
  function showStatus(text) {
    if (status) status.textContent = text;
  }

  // Milliseconds before the next attempt, after so many failures.
  const pause = (failed) => Math.random() * Math.min(LONGEST_PAUSE, 1500 * 2 ** failed);

  function show(slug, clicks) {
    const cell = document.querySelector(`[data-slug="${CSS.escape(slug)}"]`);
    // Events may arrive in another order than their clicks.
    if (cell && clicks > Number(cell.textContent)) cell.textContent = clicks;
  }

  async function reloadCounts(attempt = 1) {
    try {
      const answer = await fetch("/api/links?limit=100", { cache: "no-store" });
      if (!answer.ok) throw new Error(answer.statusText);
      for (const link of (await answer.json()).items) show(link.slug, link.clicks);
    } catch {
      setTimeout(reloadCounts, pause(attempt), attempt + 1);
    }
  }

  function connect() {
    const address = new URL("/api/clicks/live", location.href);
    address.protocol = address.protocol.replace("http", "ws");
    address.searchParams.set("after", last);
    const connection = new WebSocket(address);
    let opened = Infinity;
    connection.onopen = () => {
      opened = Date.now();
      showStatus(LIVE);
    };
    connection.onmessage = (message) => {
      const click = JSON.parse(message.data);
      last = click.id;
      failures = 0;
      if (click.slug === null) reloadCounts();
      else show(click.slug, click.clicks);
    };
    connection.onclose = (closed) => {
      // A restart isn't a failure, nor is the end of a connection that was open for long without events.
      if (closed.code === RESTARTING || Date.now() - opened > LONGEST_PAUSE) failures = 0;
      failures += 1;
      // Only after a second failure: a deploy causes one, and is short.
      if (failures > 1) showStatus(AWAY);
      setTimeout(connect, pause(failures));
    };
  }

  connect();
})();
