// Keeps the words of relative times true while the page is open; the same words as `runs/words.py`.
const UNITS = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];

function words(seconds) {
  const distance = Math.abs(seconds);
  if (distance < 10) return "just now";
  const [size, unit] = UNITS.find(([length]) => distance >= length);
  const text = `${Math.floor(distance / size)} ${unit}`;
  return seconds > 0 ? `${text} ago` : `in ${text}`;
}

function forWords(seconds) {
  return seconds < 10 ? "for a moment" : `for ${words(seconds).replace(/ ago$/, "")}`;
}

function dueWords(seconds) {
  const distance = Math.floor(Math.abs(seconds) / 60) * 60;
  let text = "less than a minute";
  const index = UNITS.findIndex(([length]) => distance >= length);
  if (distance >= 60) {
    const [size, unit] = UNITS[index];
    const [below, belowUnit] = UNITS[index + 1];
    const rest = Math.floor((distance % size) / below);
    text = `${Math.floor(distance / size)} ${unit}${rest ? ` ${rest} ${belowUnit}` : ""}`;
  }
  return seconds > 0 ? `due in ${text}` : `overdue ${text}`;
}

function refresh() {
  for (const time of document.querySelectorAll("time[data-due]")) {
    const text = dueWords((Date.parse(time.dateTime) - Date.now()) / 1000);
    if (time.textContent !== text) time.textContent = text;
  }
  for (const time of document.querySelectorAll("time[data-for]")) {
    const text = forWords((Date.now() - Date.parse(time.dateTime)) / 1000);
    if (time.textContent !== text) time.textContent = text;
  }
  for (const time of document.querySelectorAll("time[data-ago]")) {
    const text = words((Date.now() - Date.parse(time.dateTime)) / 1000);
    if (time.textContent !== text) time.textContent = text;
  }
}

setInterval(refresh, 10_000);
