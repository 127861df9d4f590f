"use strict";
// The page is whole without this: it only brings what the page shows up to date.
(() => {
  const period = 5000;
  // Who is copying something shall not have it pulled away.
  const isSelected = (part) => {
    const selection = document.getSelection();
    return !selection.isCollapsed && selection.containsNode(part, true);
  };
  // Focus and the places to which tables are scrolled stay as they are.
  const put = (part, found) => {
    const stops = () => [...part.querySelectorAll(".scroll, a")];
    const before = stops();
    const scrolled = before.map((stop) => stop.scrollLeft);
    const focused = before.indexOf(document.activeElement);
    part.replaceChildren(...found.childNodes);
    stops().forEach((stop, n) => {
      stop.scrollLeft = scrolled[n] || 0;
      if (n === focused) stop.focus({ preventScroll: true });
    });
  };
  const tell = (words) => {
    const place = document.getElementById("trouble");
    if (place.textContent !== words) place.textContent = words;
  };
  let answered = new Date();
  const refresh = async () => {
    if (document.hidden) return;
    try {
      const answer = await fetch(location.pathname, { cache: "no-store", signal: AbortSignal.timeout(period) });
      if (!answer.ok) throw new Error(`it answers ${answer.status}`);
      const next = new DOMParser().parseFromString(await answer.text(), "text/html");
      document.title = next.title;
      for (const part of document.querySelectorAll("[data-live]")) {
        const found = next.getElementById(part.id);
        if (found && found.innerHTML !== part.innerHTML && !isSelected(part)) put(part, found);
      }
      document.documentElement.dataset.refreshed = Number(document.documentElement.dataset.refreshed || 0) + 1;
      answered = new Date();
      tell("");
    } catch {
      tell(`Headwater has not answered since ${answered.toLocaleTimeString()}: what is shown is older than it looks.`);
    }
  };
  setInterval(refresh, period);
  document.addEventListener("visibilitychange", refresh);
})();
