// What a live update may do to the page: never replace a part that holds the focus, never leave values that are no
// longer ours to see.

const waiting = new Map(); // id of a fragment → the button that shows its update

const isLive = (event) => event.detail.requestConfig?.triggeringEvent?.type?.startsWith("live:");

function hold(fragment) {
  if (!fragment.id || waiting.has(fragment.id)) return;
  const show = document.createElement("button");
  show.type = "button";
  show.className = "btn btn--small live-update";
  show.textContent = "Updated — show";
  show.addEventListener("click", () => release(fragment.id, true));
  fragment.before(show);
  waiting.set(fragment.id, show);
}

function release(id, focus = false) {
  waiting.get(id)?.remove();
  waiting.delete(id);
  const fragment = document.getElementById(id);
  if (!fragment) return;
  if (focus) {
    const shown = (event) => {
      if (event.target.id !== id) return;
      document.body.removeEventListener("htmx:afterSettle", shown);
      event.target.tabIndex = -1;
      event.target.focus({ preventScroll: true });
    };
    document.body.addEventListener("htmx:afterSettle", shown);
  }
  document.body.dispatchEvent(new CustomEvent("live:resync", { bubbles: true }));
}

function gone(fragment) {
  const note = document.createElement("p");
  note.className = "live-gone";
  note.textContent = "No longer available.";
  fragment.replaceChildren(note);
}

export function guardFragments() {
  document.body.addEventListener("htmx:beforeSwap", (event) => {
    if (!isLive(event)) return;
    const { target, xhr } = event.detail;
    if ([401, 403, 404, 410].includes(xhr.status)) {
      event.detail.shouldSwap = false;
      if (xhr.status !== 401) gone(target);
    } else if (event.detail.shouldSwap && target !== document.activeElement && target.contains(document.activeElement)) {
      event.detail.shouldSwap = false;
      hold(target);
    }
  });
  document.body.addEventListener("htmx:afterSwap", (event) => {
    waiting.get(event.detail.target?.id)?.remove();
    waiting.delete(event.detail.target?.id);
  });
  document.body.addEventListener("focusout", (event) => {
    for (const id of waiting.keys()) {
      const fragment = document.getElementById(id);
      const next = event.relatedTarget;
      if (!fragment) waiting.delete(id);
      else if (fragment.contains(event.target) && !fragment.contains(next) && next !== waiting.get(id)) release(id);
    }
  });
}
