// The page's heart: takes a snapshot each second and hands its parts to whoever draws them.

import { $, duration, make, say } from "./dom.js";
import { drawLatency, drawRate } from "./charts.js";
import { card, Failures, InFlight, stopButton } from "./jobs.js";
import { Workers } from "./workers.js";

const workers = new Workers(open);
const failures = new Failures();
const inFlight = new InFlight(open);
let past = [];
let second = 0;

const sum = (points, column) => points.reduce((total, point) => total + point[column], 0);

function take(snapshot) {
  remember(snapshot);
  status(snapshot);
  tiles(snapshot);
  queue(snapshot);
  instances(snapshot.instances);
  inFlight.show(snapshot);
  workers.show(snapshot);
  failures.show(snapshot.failures);
  draw();
}

/** Add the newest seconds to those that are known; a page that slept for long has a gap of nothing. */
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

function status(snapshot) {
  const [kind, text] = snapshot.draining ? ["draining", "draining"]
    : snapshot.on_hold ? ["trouble", `no workers: ${snapshot.on_hold}`] : ["live", "live"];
  $("status").className = `pill ${kind}`;
  say($("status"), snapshot.instance ? `${snapshot.instance}: ${text}` : text);
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

/** One line about the queue that jobs come from, if there is one. */
function queue(snapshot) {
  $("queue").hidden = !snapshot.queue;
  if (!snapshot.queue) return;
  const { messages, in_hand: inHand, oldest_s: oldest, trouble } = snapshot.queue;
  const fates = Object.entries(messages).map(([fate, count]) => `${count} ${fate}`).join(", ") || "no messages yet";
  const state = trouble ? `cannot be read: ${trouble}` : `${inHand} in hand, the oldest came ${oldest} s after it was sent`;
  say($("queue"), `Queue: ${fates}; ${state}`);
}

/** The other instances, if there may be any. */
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
}

/** Look a job up and show all that is known of it. */
async function open(id) {
  const box = $("found");
  const answer = await fetch(`jobs/${encodeURIComponent(id)}`).catch(() => null);
  const parts = [make("h2", "", "Job")];
  if (answer?.ok) {
    const job = await answer.json();
    parts.push(card(job));
    if (job.state !== "finished") parts.push(stopButton(job.job_id, open));
  } else {
    parts.push(make("p", "", answer?.status === 404 ? "There is no such job, or it is no longer remembered."
      : "The job could not be fetched."), make("p", "soft", id));
  }
  const close = make("button", "", "Close");
  close.type = "button";
  close.addEventListener("click", () => { box.hidden = true; $("job-id").focus(); });
  box.replaceChildren(...parts, " ", close);
  box.hidden = false;
  box.focus();
}

function listen() {
  const events = new EventSource("events");
  events.onmessage = (event) => take(JSON.parse(event.data));
  events.onerror = () => {
    $("status").className = "pill trouble";
    say($("status"), "disconnected");
    if (events.readyState === EventSource.CLOSED) setTimeout(listen, 2000);
  };
  window.addEventListener("pagehide", () => events.close(), { once: true });
}

$("search").addEventListener("submit", (event) => {
  event.preventDefault();
  open($("job-id").value.trim());
});
window.addEventListener("resize", draw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
document.addEventListener("visibilitychange", draw);
listen();
