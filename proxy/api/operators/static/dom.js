// Making elements. Text is only ever set as text: nothing here can turn what a job or a job server says into markup.

export const $ = (id) => document.getElementById(id);

/** Return a new element with classes and children; strings become text. */
export function make(tag, classes, ...children) {
  const element = document.createElement(tag);
  if (classes) element.className = classes;
  element.append(...children);
  return element;
}

/** Set an element's text, but leave it alone where it is the same: selections and screen readers notice. */
export function say(element, text) {
  if (element.textContent !== String(text)) element.textContent = text;
}

/** A state's or phase's colour, as a class could not have it without a style sheet for each. */
export function paint(element, name) {
  element.style.setProperty("--color", `var(--${name})`);
  return element;
}

const seconds = (value, digits) => `${value.toFixed(digits)} s`;

/** Milliseconds, for a person. */
export function duration(ms) {
  if (ms == null) return "–";
  if (ms === 0) return "0";
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return seconds(ms / 1000, ms < 10_000 ? 2 : 1);
  const minutes = Math.floor(ms / 60_000);
  return minutes < 60 ? `${minutes} min ${Math.floor((ms % 60_000) / 1000)} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

const instant = new Intl.DateTimeFormat(undefined, {
  year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit", timeZoneName: "short",
});

/** A Unix time in seconds, for a person: date, time and zone. */
export const time = (seconds) => instant.format(seconds * 1000);

/** KiB, for a person. */
export function memory(kib) {
  return kib == null ? "–" : kib < 1024 * 1024 ? `${(kib / 1024).toFixed(1)} MB` : `${(kib / 1024 / 1024).toFixed(2)} GB`;
}

/** Draw how a whole divides into named parts, as a bar and its legend. */
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
