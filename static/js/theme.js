// The reader's own theme: kept in a cookie, so the server renders the next page in it at once.
const YEAR = 365 * 24 * 3600;

for (const group of document.querySelectorAll("[data-theme-switch]")) {
  group.hidden = false;
  group.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const secure = location.protocol === "https:" ? "; Secure" : "";
    const age = button.value ? YEAR : 0;
    document.cookie = `theme=${button.value}; Path=/; Max-Age=${age}; SameSite=Lax${secure}`;
    if (button.value) document.documentElement.dataset.theme = button.value;
    else delete document.documentElement.dataset.theme;
    for (const other of group.querySelectorAll("button")) other.setAttribute("aria-pressed", String(other === button));
  });
}
