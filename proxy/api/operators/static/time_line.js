// The life of one job: its phases as a bar and as text, and all events in order.

import { duration, make, paint } from "./dom.js";

const MEANING = {
  assign: "assigned to a worker",
  "worker-lost": "the worker was lost before it sent anything",
  connected: "connected to the job server",
  refused: "refused by the job server",
  "reply-read": "the job server replied",
  progress: "the job server reported progress",
  callback: "the callback arrived",
  finish: "finished",
};

/** Return the time line of a job that has phases or events. */
export function timeLine(job) {
  const totalMs = Math.max(1, job.total_ms ?? 0, ...job.events.map(([at]) => at));
  const bar = make("div", "bar", ...job.phases.map(([name, ms]) => {
    const part = paint(make("span", "", `${name} ${duration(ms)}`), name);
    part.style.flex = `${Math.max(ms, totalMs / 200)} 1 0`;
    part.title = `${name} ${duration(ms)}`;
    part.classList.toggle("thin", ms < totalMs * 0.12); // its text would be cut off, and is also below
    return part;
  }));
  bar.ariaHidden = "true";
  const ticks = make("div", "ticks", ...job.events.map(([at, event]) => {
    const tick = make("span");
    tick.style.left = `${Math.min(100, (100 * at) / totalMs)}%`;
    tick.title = `${event} after ${duration(at)}`;
    return tick;
  }));
  ticks.ariaHidden = "true";
  const line = (at, text) => make("li", "", make("span", "at", at), make("span", "", text));
  const events = make("ol", "events", line("0 ms", "accepted"),
    ...job.events.map(([at, event]) => line(duration(at), MEANING[event] ?? event)));
  const phases = make("p", "soft", job.phases.map(([name, ms]) => `${name} ${duration(ms)}`).join(" · "));
  return make("div", "line", ...(job.phases.length ? [bar, ticks, phases] : []), events);
}
