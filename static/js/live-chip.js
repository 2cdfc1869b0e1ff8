// The freshness chip: one word for how far the page can be trusted to be up to date.
const WORDS = {
  connecting: "Connecting…",
  live: "Live",
  reconnecting: "Reconnecting…",
  polling: "Checking every 15 s",
  "signed-out": "Signed out. Sign in again in a new tab",
};

export function chip(state, freshAt = null) {
  const clock = freshAt && new Date(freshAt).toISOString().slice(11, 19);
  for (const element of document.querySelectorAll("[data-live-chip]")) {
    element.dataset.state = state;
    element.textContent = state === "offline" ? `Offline — data from ${clock} UTC` : WORDS[state];
  }
}
