// Rows of a form, added and removed in place. Without this file the same buttons ask the server to do it.

function fill(node, placeholder, key) {
  for (const element of node.querySelectorAll("*")) {
    for (const attribute of element.attributes) {
      if (attribute.value.includes(placeholder)) {
        attribute.value = attribute.value.replaceAll(placeholder, key);
      }
    }
    if (element instanceof HTMLTemplateElement) fill(element.content, placeholder, key);
  }
}

const rowsOf = (box) => [...box.querySelector(":scope > [data-rows-list]").children];
const keyOf = (row) => Number(row.querySelector(":scope > input[type=hidden]").value);

function settle(box) {
  const rows = rowsOf(box);
  rows.forEach((row, index) => {
    for (const number of row.querySelectorAll("[data-row-number]")) {
      if (number.closest("[data-row]") === row) number.textContent = String(index + 1);
    }
  });
  box.querySelector(":scope > [data-rows-add]").hidden = rows.length >= Number(box.dataset.most);
  const words = box.parentElement.querySelectorAll("[data-rows-empty], [data-rows-none]");
  for (const word of words) {
    if (word.parentElement === box || word.parentElement === box.parentElement) word.hidden = rows.length > 0;
  }
  box.dispatchEvent(new Event("input", { bubbles: true }));
}

function add(box, template) {
  const key = Math.max(Number(box.dataset.stored) - 1, ...rowsOf(box).map(keyOf)) + 1;
  const row = template.content.cloneNode(true);
  fill(row, template.dataset.placeholder, String(key));
  const first = row.querySelector("input:not([type=hidden]), select, textarea, button");
  box.querySelector(":scope > [data-rows-list]").append(row);
  settle(box);
  showChosen(box);
  first?.focus();
}

function remove(row) {
  const box = row.closest("[data-rows]");
  const next = row.nextElementSibling ?? row.previousElementSibling;
  row.remove();
  settle(box);
  (next?.querySelector(":scope > [data-rows-remove]") ?? box.querySelector(":scope > [data-rows-add]")).focus();
}

// Of a union only the chosen model is shown; all of them are there, for pages without a script.
function showChosen(within) {
  for (const union of within.querySelectorAll("[data-union]")) {
    const choice = union.querySelector("select") ?? union.querySelector("input[type=radio]:checked");
    const mine = choice?.closest("[data-union]") === union && !choice.closest("[data-union-tokens]");
    const token = mine ? choice.value : null;
    for (const group of union.querySelectorAll(":scope > [data-union-tokens]")) {
      group.hidden = !JSON.parse(group.dataset.unionTokens).includes(token);
      group.querySelector("[data-union-when]").hidden = true;
    }
  }
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-rows-add], [data-rows-remove]");
  if (!button) return;
  if (button.matches("[data-rows-remove]")) {
    event.preventDefault();
    remove(button.closest("[data-row]"));
    return;
  }
  const box = button.closest("[data-rows]");
  const template = box.querySelector(":scope > template");
  if (!template) return; // rows nested too deep to be prepared: the server adds them
  event.preventDefault();
  add(box, template);
});

document.addEventListener("change", (event) => {
  const union = event.target.closest("[data-union]");
  if (union) showChosen(union.parentElement);
});

document.addEventListener("htmx:load", (event) => showChosen(event.target));
showChosen(document);
