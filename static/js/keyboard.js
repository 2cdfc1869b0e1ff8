// Keyboard: `?` help, `/` search, `g` and a letter to go, `j`/`k` through a list; silent while someone types, and
// wholly off where the reader says so. Ctrl or Cmd with Enter sends the form one types in: it approves, after `r` it
// rejects, and in a reason that could be for either it only goes to the buttons.
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
  const rows = [...document.querySelectorAll("[data-row]")].filter((row) => row.matches("a") || row.querySelector("a"));
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

function mean(outcome, selector) {
  const form = document.querySelector(selector)?.form;
  if (form) form.dataset.means = outcome;
  return press(selector);
}

const KEYS = {
  "?": () => { document.getElementById("keys")?.showModal(); return true; },
  "/": () => press("[data-search]"),
  j: () => move(1),
  k: () => move(-1),
  n: () => follow("[data-key-next]"),
  a: () => mean("approved", "[data-key-approve]"),
  r: () => mean("rejected", "[data-key-reject]"),
  "[": () => follow("a[rel=prev]"),
  "]": () => follow("a[rel=next]"),
};

// The reader's switch, kept in a cookie as the theme is: single keys get in the way of speech input.

let on = !document.cookie.split("; ").includes("keys=off");

for (const box of document.querySelectorAll("[data-keys-switch]")) {
  box.checked = on;
  box.addEventListener("change", () => {
    on = box.checked;
    document.cookie = `keys=off; Path=/; Max-Age=${on ? 0 : 365 * 24 * 3600}; SameSite=Lax`;
  });
}

document.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
  const form = event.target.closest("form");
  const approve = form?.querySelector("[data-key-approve]:enabled");
  const reject = form?.querySelector("[name=outcome][value=rejected]:enabled");
  if (!approve && !reject) return;
  event.preventDefault();
  if (form.dataset.means === "rejected" && reject) reject.click(); // htmx sends the button that was clicked
  else if (!approve || event.target.matches("[data-key-reject]")) (approve ?? reject).focus();
  else approve.click();
});

document.addEventListener("keydown", (event) => {
  if (!on || event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
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
