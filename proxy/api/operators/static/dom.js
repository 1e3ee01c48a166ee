// Makes elements. Text is only set as text, so that nothing from a job or a job server becomes markup.

export const $ = (id) => document.getElementById(id);

/** Return a new element with classes and children; strings become text. */
export function make(tag, classes, ...children) {
  const element = document.createElement(tag);
  if (classes) element.className = classes;
  element.append(...children);
  return element;
}

/** Set an element's text, unless it is the same: a change would disturb selections and screen readers. */
export function say(element, text) {
  if (element.textContent !== String(text)) element.textContent = text;
}

/** Set an element's colour to that of a state or phase; classes would need a rule for each. */
export function paint(element, name) {
  element.style.setProperty("--color", `var(--${name})`);
  return element;
}

/** Replace the children of `body`; those that stay are not removed, and keep the focus. */
export function replaceKeepingFocus(body, lines) {
  const focused = document.activeElement;
  for (const line of [...body.children]) if (!lines.includes(line)) line.remove();
  lines.forEach((line, index) => body.children[index] !== line && body.insertBefore(line, body.children[index] ?? null));
  if (body.contains(focused)) focused.focus({ preventScroll: true });
}

/** A link to another page of ours, or to a place on this one. */
export function link(address, text, classes = "") {
  const element = make("a", classes, text);
  element.href = address;
  return element;
}

/** A button that does `act` when it is pressed. */
export function button(text, act, classes = "") {
  const element = make("button", classes, text);
  element.type = "button";
  element.addEventListener("click", act);
  return element;
}

/** A list of terms and values; terms without a value are left out. */
export function facts(pairs) {
  const known = Object.entries(pairs).filter(([, value]) => value != null && value !== "");
  return make("dl", "facts", ...known.map(([name, value]) =>
    make("div", "", make("dt", "", name), make("dd", "", value instanceof Node ? value : String(value)))));
}

/** A table with these column names and rows; `numbers` are the columns to align right. */
export function table(caption, columns, rows, numbers = []) {
  const cell = (tag, value, index) => make(tag, numbers.includes(index) ? "number" : "", value instanceof Node ? value : String(value ?? "–"));
  const head = columns.map((name, index) => {
    const th = cell("th", name, index);
    th.scope = "col";
    return th;
  });
  const element = make("table", "",
    make("caption", "unseen", caption),
    make("thead", "", make("tr", "", ...head)),
    make("tbody", "", ...rows.map((row) => make("tr", "", ...row.map((value, index) => cell("td", value, index))))));
  return scroll(caption, element);
}

/** A part of the page that scrolls by itself if it is too wide, also by keyboard. */
export function scroll(name, ...children) {
  const box = make("div", "scroll", ...children);
  box.tabIndex = 0;
  box.setAttribute("role", "region");
  box.setAttribute("aria-label", `${name}, table`); // region names have to be unique
  return box;
}

/** A part that is shown on demand. */
export const more = (title, ...children) => make("details", "more", make("summary", "", title), ...children);

/** A button that copies `text()`. */
export function copyButton(name, text) {
  const element = button(name, async () => {
    const copied = await navigator.clipboard?.writeText(text()).then(() => true, () => false);
    say(element, copied ? "Copied" : "Copying is not allowed here");
    setTimeout(() => say(element, name), 2000);
  });
  return element;
}

const seconds = (value, digits) => `${value.toFixed(digits)} s`;

/** Format milliseconds. */
export function duration(ms) {
  if (ms == null) return "–";
  if (ms === 0) return "0";
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return seconds(ms / 1000, ms < 10_000 ? 2 : 1);
  const minutes = Math.floor(ms / 60_000);
  if (minutes < 60) return `${minutes} min ${Math.floor((ms % 60_000) / 1000)} s`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

const instant = new Intl.DateTimeFormat(undefined, {
  year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23", timeZoneName: "short",
});

/** Format a Unix time in seconds: date, time and zone. */
export const time = (seconds) => instant.format(seconds * 1000);

const brief = new Intl.DateTimeFormat(undefined, {
  month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23",
});
const year = (seconds) => new Date(seconds * 1000).getFullYear();

/** The time zone of all times: the reader's own. */
export const zone = new Intl.DateTimeFormat(undefined, { timeZoneName: "short" }).formatToParts().find(({ type }) => type === "timeZoneName").value;

/** The same as a machine-readable element; `short`: for a column that names the zone. */
export function when(seconds, { short = false } = {}) {
  if (seconds == null) return "–";
  const element = make("time", "", short && year(seconds) === year(Date.now() / 1000) ? brief.format(seconds * 1000) : time(seconds));
  element.title = time(seconds);
  element.dateTime = new Date(seconds * 1000).toISOString();
  return element;
}

/** Format a whole number. */
export const count = (value) => (value == null ? "–" : value.toLocaleString());

/** Format a size in KiB. */
export function memory(kib) {
  return kib == null ? "–" : kib < 1024 * 1024 ? `${(kib / 1024).toFixed(1)} MB` : `${(kib / 1024 / 1024).toFixed(2)} GB`;
}

/** Draw the named parts of a whole, as a bar and its legend. */
export function shares(bar, legend, counts) {
  const entries = Object.entries(counts);
  if (bar.childElementCount !== entries.length) {
    bar.replaceChildren(...entries.map(([name]) => paint(make("span"), name)));
    legend.replaceChildren(...entries.flatMap(([name]) => [paint(make("span", "key"), name), make("span")]));
  }
  entries.forEach(([name, count], index) => {
    bar.children[index].style.flexGrow = count;
    bar.children[index].hidden = !count;
    bar.children[index].title = `${count} ${name}`;
    say(legend.children[index * 2 + 1], `${name} ${count}`);
  });
}
