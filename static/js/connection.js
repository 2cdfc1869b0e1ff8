// A form that could not be sent says so and keeps what was typed: no server, an error of the server, a session that ended.
const TEXTS = {
  network: "The server could not be reached. Nothing was sent; what you typed is still here. Try again in a moment.",
  server: "The server could not answer. What you typed is still here; look at the run before you send it again.",
  session: "You are signed out. Sign in again in a new tab, then send this again: what you typed is still here.",
};

const region = document.getElementById("alert");
const say = (text) => region && (region.textContent = text);
const ofForm = (event) => event.detail.elt?.matches?.("form");
const signInPath = document.body.dataset.signIn;

function token() {
  const name = document.body.dataset.csrfCookie;
  const pair = document.cookie.split("; ").find((cookie) => cookie.startsWith(`${name}=`));
  return pair?.slice(name.length + 1);
}

document.body.addEventListener("htmx:configRequest", (event) => {
  if (!ofForm(event)) return;
  say("");
  // Signing in again in another tab changes the token; the page's own copy would be refused.
  const fresh = token();
  if (fresh && event.detail.parameters.has?.("csrfmiddlewaretoken")) {
    event.detail.parameters.set("csrfmiddlewaretoken", fresh);
  }
});
document.body.addEventListener("htmx:sendError", (event) => ofForm(event) && say(TEXTS.network));
document.body.addEventListener("htmx:responseError", (event) => ofForm(event) && say(TEXTS.server));
document.body.addEventListener("htmx:beforeSwap", (event) => {
  const { xhr, requestConfig } = event.detail;
  if (!xhr.responseURL || new URL(xhr.responseURL).pathname !== signInPath) return;
  event.detail.shouldSwap = false;
  if (requestConfig.elt.matches("form")) say(TEXTS.session);
});
