// Brings the content up to date every five seconds. Without it the page works as well, and stays as it was loaded.
"use strict";
(() => {
  const EVERY = 5000;
  const updated = document.getElementById("updated");
  const said = document.getElementById("said");
  if (!document.getElementById("live")) return;
  let tag = "";
  let summary = document.getElementById("live").dataset.summary;

  const keyOf = (element) =>
    element && element.id ? `#${CSS.escape(element.id)}` : element && element.getAttribute("href") ? `a[href="${CSS.escape(element.getAttribute("href"))}"]` : "";

  async function refresh() {
    if (document.hidden) return;
    const busy = document.activeElement && document.activeElement.closest("select, input");
    if (busy) return;
    try {
      const headers = {"X-Fragment": "1"};
      if (tag) headers["If-None-Match"] = tag;
      const answer = await fetch(location.href, {headers, credentials: "same-origin"});
      if (answer.status === 401 || answer.status === 404) { location.reload(); return; }
      if (answer.status !== 304) {
        if (!answer.ok) throw new Error(String(answer.status));
        tag = answer.headers.get("ETag") || "";
        const text = await answer.text();
        const live = document.getElementById("live");
        const focus = live.contains(document.activeElement) ? keyOf(document.activeElement) : "";
        const open = [...live.querySelectorAll("details")].map((each) => each.open);
        const fresh = new DOMParser().parseFromString(text, "text/html").getElementById("live");
        live.replaceWith(fresh);
        fresh.querySelectorAll("details").forEach((each, index) => { each.open = Boolean(open[index]); });
        if (focus) { const found = fresh.querySelector(focus); if (found) found.focus({preventScroll: true}); }
        if (fresh.dataset.summary !== summary) said.textContent = summary = fresh.dataset.summary;
      }
      updated.textContent = `Up to date at ${new Date().toLocaleTimeString()}`;
    } catch {
      updated.textContent = "No answer at the moment; trying again.";
    }
  }
  setInterval(refresh, EVERY);
  document.addEventListener("visibilitychange", refresh);
})();
