// The live page: takes a snapshot each second and passes its parts to the code that draws them.

import { ask } from "./api.js";
import { drawLatency, drawRate } from "./charts.js";
import { $, duration, say, table } from "./dom.js";
import { Failures } from "./failures.js";
import { InFlight } from "./in_flight.js";
import { showStatus } from "./layout.js";
import { Workers } from "./workers.js";

const workers = new Workers();
const failures = new Failures();
const inFlight = new InFlight();
let past = [];
let second = 0;
let events = null;

const sum = (points, column) => points.reduce((total, point) => total + point[column], 0);

function take(snapshot) {
  remember(snapshot);
  showStatus(snapshot.status);
  tiles(snapshot);
  queue(snapshot);
  instances(snapshot.instances);
  inFlight.show(snapshot);
  workers.show(snapshot);
  failures.show(snapshot.failures);
  draw();
}

/** Add the newest seconds to the known ones; a page that slept for long has a gap. */
function remember(snapshot) {
  if (snapshot.past) past = snapshot.past;
  else {
    const ahead = Math.min(snapshot.seconds, Math.max(0, snapshot.second - second));
    past.push(...Array.from({ length: ahead }, () => [0, 0, 0, 0]));
    past.splice(-snapshot.newest.length, snapshot.newest.length, ...snapshot.newest);
    past = past.slice(-snapshot.seconds);
  }
  second = snapshot.second;
}

function tiles(snapshot) {
  const latest = past.slice(-10);
  const ended = sum(latest, 0);
  const medians = latest.filter((point) => point[0]).map((point) => point[2]).sort((a, b) => a - b);
  const failed = sum(past, 1);
  say($("in-flight"), Object.values(snapshot.in_flight).reduce((total, count) => total + count, 0));
  say($("limit"), `of ${snapshot.limit} · ${snapshot.accepted} in total`);
  say($("rate"), (ended / 10).toFixed(ended < 100 ? 1 : 0));
  say($("failed"), failed);
  say($("latency"), medians.length ? duration(medians[Math.floor(medians.length / 2)]) : "–");
  say($("lag"), duration(snapshot.lag_ms[0]));
  say($("lag-worst"), `worst ${duration(snapshot.lag_ms[1])} in 1 min`);
}

/** One line about the job queue, if there is one. */
function queue(snapshot) {
  $("queue").hidden = !snapshot.queue;
  if (!snapshot.queue) return;
  const { messages, in_hand: inHand, oldest_s: oldest, trouble } = snapshot.queue;
  const fates = Object.entries(messages).map(([fate, count]) => `${count} ${fate}`).join(", ") || "no messages yet";
  const state = trouble ? `cannot be read: ${trouble}` : `${inHand} in progress, the oldest came ${oldest} s after it was sent`;
  say($("queue"), `Queue: ${fates}; ${state}`);
}

/** The other instances, if there can be any. */
function instances(seen) {
  $("instances").hidden = !seen;
  if (!seen) return;
  say($("instances-live"), seen.live);
  say($("lease-slowest"), duration(seen.slowest_s * 1000));
  say($("lease-own"), `this one's ${duration(seen.own_s * 1000)}`);
  say($("taken-over"), seen.taken_over);
  say($("callbacks-elsewhere"), seen.callbacks);
  say($("fenced"), seen.fenced);
}

function draw() {
  if (document.hidden) return;
  drawRate($("rate-chart"), past);
  drawLatency($("latency-chart"), past, duration);
  if ($("minutes").closest("details").open) numbers();
}

/** The charts as a table, a row for each minute. */
function numbers() {
  const rows = [];
  for (let end = past.length; end > 0; end -= 60) {
    const points = past.slice(Math.max(0, end - 60), end);
    const busy = points.filter((point) => point[0]);
    const middle = busy.map((point) => point[2]).sort((a, b) => a - b)[busy.length >> 1];
    const minutes = (past.length - end) / 60;
    rows.push([minutes ? `${minutes} to ${minutes + 1} min ago` : "last minute", sum(points, 0), sum(points, 1), duration(middle),
      busy.length ? duration(Math.max(...busy.map((point) => point[3]))) : "–"]);
  }
  const columns = ["Minute", "Jobs", "Failed", "Median latency", "Highest p95"];
  $("minutes").replaceChildren(table("Jobs and latency of the last five minutes", columns, rows, [1, 2, 3, 4]));
}

function listen() {
  events?.close();
  events = new EventSource("events");
  events.onmessage = (event) => take(JSON.parse(event.data));
  events.onerror = () => {
    showStatus(null);
    ask("session").catch(() => {}); // its answer leads to the log-in, if necessary
    if (events.readyState === EventSource.CLOSED) setTimeout(listen, 2000);
  };
}

$("minutes").closest("details").addEventListener("toggle", draw);
window.addEventListener("pagehide", () => events.close());
window.addEventListener("pageshow", ({ persisted }) => persisted && listen()); // "back" shows this page as it was left
window.addEventListener("resize", draw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
document.addEventListener("visibilitychange", draw);
listen();
