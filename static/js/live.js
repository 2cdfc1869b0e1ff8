// Live updates: the socket says which topics changed, and the fragments that follow a topic fetch themselves again.
// Says on the chip how fresh the page is, and polls while there is no socket.
import { guardFragments } from "./live-fragments.js";
import { chip } from "./live-chip.js";

const SOCKET = "/ws/live/";
const SESSION = document.body.dataset.session;
const SIGNED_OUT = 4401;
const NOT_ALLOWED = 4403;
const FIRST_WAIT = 500;
const LONGEST_WAIT = 30_000;
const SILENCE = 45_000;
const HIDDEN = 60_000;
const SAY_RECONNECTING = 5_000;
const POLL = 15_000;
const JITTER = 400;
const PACE = 1_000;
const QUICK_FAILURES = 3;
const FAILED_POLLS = 3;

const topics = (document.body.dataset.liveTopics ?? "").split(/\s+/).filter(Boolean);
let socket = null;
let live = false; // subscribed: whatever happens is heard of
let ended = false; // signed out, or nothing left to follow: no more sockets until asked
let attempts = 0;
let failedPolls = 0;
let freshAt = Date.now();
const timers = {};

// Events for the fragments: at most one flush a second, the first soon, spread over the viewers.

const pending = new Set();
let flushing = null;
let flushedAt = 0;

function announce(...names) {
  names.forEach((name) => pending.add(name));
  flushing ??= setTimeout(flush, Math.max(Math.random() * JITTER, flushedAt + PACE - Date.now()));
}

function flush() {
  const names = pending.has("live:resync") ? ["live:resync"] : [...pending];
  pending.clear();
  flushing = null;
  flushedAt = Date.now();
  for (const name of names) document.body.dispatchEvent(new CustomEvent(name, { bubbles: true }));
}

// The socket

function connect() {
  stop("retry");
  if (ended || socket || document.hidden) return;
  const url = new URL(SOCKET, location.href);
  url.protocol = url.protocol.replace("http", "ws");
  const opening = new WebSocket(url);
  socket = opening;
  opening.onopen = () => opening.send(JSON.stringify({ sub: topics }));
  opening.onmessage = (message) => opening === socket && hear(JSON.parse(message.data));
  opening.onclose = (close) => opening === socket && lost(close.code);
}

function hear(message) {
  freshAt = Date.now();
  start("silence", () => drop(true), SILENCE);
  if (message.ok) {
    if (!live) subscribed();
    // A topic that is no longer allowed: its fragment asks once more, and learns it from the server.
    announce(...message.no.map((topic) => `live:${topic}`));
  }
  if (message.t === "run") announce(`live:run:${message.id}`);
  if (message.t === "runs" || message.t === "inbox") announce(`live:${message.t}`);
}

function subscribed() {
  live = true;
  attempts = failedPolls = 0;
  ["poll", "reconnecting", "polling"].forEach(stop);
  chip("live");
  announce("live:resync"); // whatever happened while nobody listened
}

function drop(again) {
  const closing = socket;
  socket = null;
  closing?.close();
  if (again) lost(0);
}

function lost(code) {
  socket = null;
  live = false;
  stop("silence");
  if (code === SIGNED_OUT) return signedOut();
  if (code === NOT_ALLOWED) ended = true;
  start("reconnecting", () => chip("reconnecting"), SAY_RECONNECTING, true);
  start("polling", poll, POLL, true);
  if (ended) return;
  attempts += 1;
  if (attempts === QUICK_FAILURES) poll(); // a refused handshake looks like a lost network: ask which it is
  start("retry", connect, Math.random() * Math.min(LONGEST_WAIT, FIRST_WAIT * 2 ** attempts));
}

function signedOut() {
  ended = true;
  ["retry", "poll", "polling", "reconnecting"].forEach(stop);
  chip("signed-out");
}

// Without a socket

async function poll() {
  start("poll", poll, POLL);
  if (document.hidden) return;
  let answer = null;
  try {
    answer = await fetch(SESSION, { cache: "no-store", redirect: "manual" });
  } catch {
    failedPolls += 1;
  }
  if (live) return;
  if (answer && !answer.ok && answer.status < 500) return signedOut();
  if (answer?.ok) {
    if (failedPolls) attempts = 0; // the server is back
    failedPolls = 0;
    freshAt = Date.now();
    stop("reconnecting");
    chip("polling");
    announce("live:resync");
    if (!attempts) connect();
  } else if (failedPolls >= FAILED_POLLS) {
    chip("offline", freshAt);
  }
}

// One timer for each purpose; `keep` leaves one that already runs.

function start(name, action, wait, keep = false) {
  if (keep && (timers[name] || timers.poll)) return;
  stop(name);
  timers[name] = setTimeout(() => {
    timers[name] = null;
    action();
  }, wait);
}

function stop(name) {
  clearTimeout(timers[name]);
  timers[name] = null;
}

// The page's own life

async function returned() {
  stop("hidden");
  if (socket) return;
  if (ended) {
    const answer = await fetch(SESSION, { cache: "no-store", redirect: "manual" }).catch(() => null);
    if (!answer?.ok) return;
    ended = false; // signed in again in another tab
  }
  attempts = 0;
  connect();
}

function left() {
  drop(false);
  ["silence", "retry", "poll", "polling", "reconnecting"].forEach(stop);
  live = false;
  chip("reconnecting");
}

if (topics.length) {
  guardFragments();
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) start("hidden", left, HIDDEN);
    else returned();
  });
  addEventListener("focus", returned);
  addEventListener("online", returned);
  addEventListener("pagehide", left);
  addEventListener("pageshow", (event) => event.persisted && returned());
  chip("connecting");
  connect();
}
