// Live click counts. When the connection ends, by a deploy (1012) or otherwise, the page comes back after a random
// moment, so that not all do at once, and goes on after the last event that it saw: none is lost.
"use strict";
(() => {
  let last = document.currentScript.dataset.after;
  let failures = 0;

  function show(slug, clicks) {
    const cell = document.querySelector(`[data-slug="${CSS.escape(slug)}"]`);
    // Two events may come in another order than their clicks.
    if (cell && clicks > Number(cell.textContent)) cell.textContent = clicks;
  }

  async function readAnew() {
    const answer = await fetch("/api/links?limit=100", { cache: "no-store" });
    if (answer.ok) for (const link of (await answer.json()).items) show(link.slug, link.clicks);
  }

  function connect() {
    const address = new URL("/api/clicks/live", location.href);
    address.protocol = address.protocol.replace("http", "ws");
    address.searchParams.set("after", last);
    const connection = new WebSocket(address);
    connection.onmessage = (message) => {
      const click = JSON.parse(message.data);
      last = click.id;
      failures = 0;
      if (click.slug === null) readAnew().catch(() => {});
      else show(click.slug, click.clicks);
    };
    connection.onclose = () => {
      failures += 1;
      setTimeout(connect, Math.random() * Math.min(30000, 1500 * 2 ** failures));
    };
  }

  connect();
})();
