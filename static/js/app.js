// What every page loads: each import is one behaviour, and the page works without any of them.
import "./ago.js";
import "./connection.js";
import "./focus.js";
import "./keyboard.js";
import "./menu.js";
import "./theme.js";
