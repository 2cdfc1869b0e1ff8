// Keyboard: `?` help, `/` search, `g` and a letter to go, `j`/`k` through a list; silent while someone types.
const PLACES = { i: "inbox", r: "runs", p: "pipelines", a: "audit", s: "state" };
const GO_WINDOW_MS = 1500;
let goUntil = 0;

function typing(target) {
  return target.isContentEditable || target.closest("input:not([type=checkbox], [type=radio]), textarea, select");
}

function press(selector) {
  const element = document.querySelector(selector);
  if (!element) return false;
  element.focus();
  return true;
}

function move(step) {
  const rows = [...document.querySelectorAll("[data-row]")];
  if (!rows.length) return false;
  const at = rows.findIndex((row) => row.contains(document.activeElement));
  const next = rows[Math.min(rows.length - 1, Math.max(0, at < 0 ? 0 : at + step))];
  (next.matches("a") ? next : next.querySelector("a")).focus();
  return true;
}

function follow(selector) {
  const link = document.querySelector(selector);
  link?.click();
  return Boolean(link);
}

const KEYS = {
  "?": () => { document.getElementById("keys")?.showModal(); return true; },
  "/": () => press("[data-search]"),
  j: () => move(1),
  k: () => move(-1),
  n: () => follow("[data-key-next]"),
  a: () => press("[data-key-approve]"),
  r: () => press("[data-key-reject]"),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  if (typing(event.target) || document.querySelector("dialog[open]")) return;
  if (performance.now() < goUntil && event.key in PLACES) {
    goUntil = 0;
    event.preventDefault();
    follow(`[data-place="${PLACES[event.key]}"]`);
    return;
  }
  if (event.key === "g") {
    goUntil = performance.now() + GO_WINDOW_MS;
    return;
  }
  if (KEYS[event.key]?.()) event.preventDefault();
});
