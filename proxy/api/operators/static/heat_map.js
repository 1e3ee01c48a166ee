// Latency over time as a table: the numbers are in the cells, and higher ones have stronger cells. It needs no colours,
// and screen readers can read it as a table.

import { count, duration, make, scroll, time } from "./dom.js";

const LEVELS = 6;
const SHORT = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const DAY = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric" });
const COLUMNS = 24;

/** Return the table; `starts` are the starts of the time spans, in Unix seconds. */
export function heatMap({ edges_ms: edges, counts }, starts) {
  const rows = edges.length + 1;
  const [merged, beginnings] = coarser(counts, starts, rows);
  const highest = Math.max(1, ...merged.flat());
  const used = Array.from({ length: rows }, (_, row) => row).filter((row) => merged.some((column) => column[row]));
  if (!used.length) return make("p", "", "No job ended.");
  const [lowest, uppermost] = [used[0], used.at(-1)];
  const lines = [];
  for (let row = uppermost; row >= lowest; row--) {
    const cells = merged.map((column) => cell(column[row], highest));
    lines.push(make("tr", "", head("row", name(row, edges)), ...cells));
  }
  const table = make("table", "heat",
    make("caption", "unseen", "Jobs by duration, over time"),
    make("thead", "", make("tr", "", head("col", "Took"), ...beginnings.map((start, index) => moment(start, beginnings[index - 1])))),
    make("tbody", "", ...lines));
  return scroll("Jobs by duration, over time", table);
}

/** Add up neighbouring time spans until there are few enough to read the numbers. */
function coarser(counts, starts, rows) {
  const step = Math.max(1, Math.ceil(counts.length / COLUMNS));
  const merged = [];
  for (let first = 0; first < counts.length; first += step) {
    const group = counts.slice(first, first + step);
    merged.push(Array.from({ length: rows }, (_, row) => group.reduce((sum, column) => sum + column[row], 0)));
  }
  return [merged, starts.filter((_, index) => index % step === 0)];
}

/** A cell's strength grows with its number on a logarithmic scale, so that a million does not hide a hundred. */
function cell(value, highest) {
  const level = value ? 1 + Math.round(((LEVELS - 1) * Math.log(value)) / Math.log(Math.max(2, highest))) : 0;
  const element = make("td", `heat-${Math.min(level, LEVELS)}`, value ? short(value) : "");
  if (value) element.title = count(value);
  return element;
}

const short = (value) => (value < 10_000 ? String(value) : value < 1e6 ? `${Math.round(value / 1000)}k` : `${(value / 1e6).toFixed(1)}M`);

function name(row, edges) {
  if (!row) return `below ${duration(edges[0])}`;
  return row < edges.length ? `${duration(edges[row - 1])} to ${duration(edges[row])}` : `${duration(edges.at(-1))} and more`;
}

function head(scope, ...children) {
  const element = make("th", "", ...children);
  element.scope = scope;
  return element;
}

function moment(start, before) {
  const day = DAY.format(start * 1000);
  const isNew = before === undefined || DAY.format(before * 1000) !== day;
  const element = head("col", ...(isNew ? [make("span", "day", day), " "] : []), SHORT.format(start * 1000));
  element.title = time(start);
  return element;
}
