// Buttons that copy a text of the page: `data-copy` names its element. They are hidden until a script can serve them.
const SAID_MS = 2000;

function show(root) {
  for (const button of root.querySelectorAll("[data-copy][hidden]")) button.hidden = false;
}

function byHand(element) {
  const range = document.createRange();
  range.selectNodeContents(element);
  const selection = getSelection();
  selection.removeAllRanges();
  selection.addRange(range);
  return document.execCommand("copy"); // the clipboard API exists on HTTPS and localhost only
}

async function copied(element) {
  if (!navigator.clipboard) return byHand(element);
  try {
    await navigator.clipboard.writeText(element.textContent);
    return true;
  } catch {
    return byHand(element);
  }
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const word = button.querySelector("[data-copy-word]");
  word.textContent = (await copied(document.getElementById(button.dataset.copy))) ? "Copied" : "Press Ctrl+C";
  const say = document.getElementById("say");
  if (say) say.textContent = word.textContent;
  setTimeout(() => { word.textContent = "Copy"; }, SAID_MS);
});

show(document);
document.body.addEventListener("htmx:load", (event) => show(event.target));
