// What has to be read first takes the focus when it appears: the summary of a form's errors, a refusal.
function focusFirst(root) {
  const found = [...root.querySelectorAll("[data-focus-on-load]")].find((element) => element.checkVisibility());
  found?.focus();
}

document.addEventListener("htmx:afterSettle", (event) => focusFirst(event.target));
focusFirst(document);
