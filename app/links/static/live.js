// Live click counts. When the connection ends, by a deploy (1012) or otherwise, the page comes back after a random
// moment, so that not all do at once, and goes on after the last event that it saw: none is lost.
"use strict";
(() => {
  const LONGEST_PAUSE = 30000; // milliseconds
  const RESTARTING = 1012;
  const LIVE = "Clicks appear here as they happen.";
  const AWAY = "Not connected: these counts may be old. Trying again.";
  const status = document.getElementById("live");
  let last = document.currentScript.dataset.after;
  let failures = 0;

  // The page that this came with may be of another release, which has no such place.
  function say(text) {
    if (status) status.textContent = text;
  }

  // Milliseconds before another attempt, when so many have failed.
  const pause = (failed) => Math.random() * Math.min(LONGEST_PAUSE, 1500 * 2 ** failed);

  function show(slug, clicks) {
    const cell = document.querySelector(`[data-slug="${CSS.escape(slug)}"]`);
    // Two events may come in another order than their clicks.
    if (cell && clicks > Number(cell.textContent)) cell.textContent = clicks;
  }

  async function readAnew(attempt = 1) {
    try {
      const answer = await fetch("/api/links?limit=100", { cache: "no-store" });
      if (!answer.ok) throw new Error(answer.statusText);
      for (const link of (await answer.json()).items) show(link.slug, link.clicks);
    } catch {
      setTimeout(readAnew, pause(attempt), attempt + 1);
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
      say(LIVE);
    };
    connection.onmessage = (message) => {
      const click = JSON.parse(message.data);
      last = click.id;
      failures = 0;
      if (click.slug === null) readAnew();
      else show(click.slug, click.clicks);
    };
    connection.onclose = (closed) => {
      // Neither a restart is a failure, nor the end of a connection that was quiet but good.
      if (closed.code === RESTARTING || Date.now() - opened > LONGEST_PAUSE) failures = 0;
      failures += 1;
      // Not yet in the moment that a deploy takes.
      if (failures > 1) say(AWAY);
      setTimeout(connect, pause(failures));
    };
  }

  connect();
})();
