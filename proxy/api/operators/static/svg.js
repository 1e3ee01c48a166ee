// Small charts as SVG. Their numbers are beside them, so they are hidden from screen readers or have only a name.

const make = (tag, attributes) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
};

const bar = (index, from, to, kind) => make("rect", { x: index + 0.05, y: 100 - to, width: 0.9, height: Math.max(0, to - from), class: kind });

function sheet(count, kind) {
  return make("svg", { viewBox: `0 0 ${Math.max(1, count)} 100`, preserveAspectRatio: "none", class: kind, "aria-hidden": "true" });
}

/** Bars over time: all jobs, with the failed ones at the bottom. */
export function columns(all, failed) {
  const picture = sheet(all.length, "chart");
  const highest = Math.max(1, ...all);
  all.forEach((value, index) => {
    const ill = (100 * failed[index]) / highest;
    picture.append(bar(index, ill, (100 * value) / highest, "fine"), bar(index, 0, ill, "ill"));
  });
  return picture;
}

/** Numbers over time, as small bars, with the highest in words. */
export function sparkline(values, name) {
  const picture = sheet(values.length, "spark");
  const highest = Math.max(1, ...values);
  values.forEach((value, index) => value && picture.append(bar(index, 0, Math.max(8, (100 * value) / highest), "ill")));
  picture.removeAttribute("aria-hidden");
  picture.setAttribute("role", "img");
  picture.setAttribute("aria-label", `${name}: at most ${highest} at once, in ${values.filter(Boolean).length} of ${values.length} spans`);
  return picture;
}
