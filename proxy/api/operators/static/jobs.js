// Jobs: a card with the whole life of one, the list of failures, the oldest in flight, and the button that stops one.

import { $, duration, make, paint, say, shares, time } from "./dom.js";
import { idButton } from "./workers.js";

const MEANING = {
  assign: "assigned to a worker",
  connected: "connected to the job server",
  refused: "refused by the job server",
  "reply-read": "the job server replied",
  progress: "the job server said how far it is",
  callback: "the callback arrived",
  finish: "finished",
};

/** Return everything about one job. */
export function card(job) {
  const facts = {
    job: job.job_id,
    outcome: job.outcome ?? job.state,
    submitted: job.submitted,
    worker: job.worker_pid ?? "–",
    total: duration(job.total_ms),
    finished: job.finished_at ? time(job.finished_at) : "in flight",
    profile: job.profile,
    "job server's id": job.remote_id ?? "–",
    progress: job.progress ? `${job.progress.state ?? "unnamed"}, ${job.progress.count} in all` : "–",
  };
  const list = make("dl", "", ...Object.entries(facts).map(([name, value]) =>
    make("div", "", make("dt", "", name), make("dd", "", String(value)))));
  const parts = [list];
  if (job.detail) parts.push(make("p", "", job.detail));
  if (job.phases.length) parts.push(timeLine(job));
  return make("div", "job", ...parts);
}

function timeLine(job) {
  const bar = make("div", "bar", ...job.phases.map(([name, ms]) => {
    const part = paint(make("span", "", `${name} ${duration(ms)}`), name);
    part.style.flex = `${Math.max(ms, job.total_ms / 200)} 1 0`;
    part.title = `${name} ${duration(ms)}`;
    part.classList.toggle("thin", ms < job.total_ms * 0.12); // its words would be cut off; they stand below as well
    return part;
  }));
  const ticks = make("div", "ticks", ...job.events.map(([at, event]) => {
    const tick = make("span");
    tick.style.left = `${Math.min(100, (100 * at) / (job.total_ms || 1))}%`;
    tick.title = `${event} after ${duration(at)}`;
    return tick;
  }));
  const line = (at, text) => make("li", "", make("span", "at", at), make("span", "", text));
  const events = make("ol", "events", line("0 ms", "accepted"),
    ...job.events.map(([at, event]) => line(duration(at), MEANING[event] ?? event)));
  const phases = make("p", "soft", job.phases.map(([name, ms]) => `${name} ${duration(ms)}`).join(" · "));
  return make("div", "line", bar, ticks, phases, events);
}

/** The last failures, newest first; what a reader has opened stays open. */
export class Failures {
  #newest = "";

  show(failures) {
    const newest = `${failures[0]?.job_id} ${failures.length}`;
    if (newest === this.#newest) return;
    this.#newest = newest;
    const kept = new Map([...$("failure-list").children].map((entry) => [entry.dataset.job, entry]));
    $("failure-list").replaceChildren(...failures.map((job) => kept.get(job.job_id) ?? this.#entry(job)));
    $("no-failures").hidden = failures.length > 0;
  }

  #entry(job) {
    const summary = make("summary", "",
      make("time", "soft", time(job.finished_at)),
      make("span", "code", job.outcome),
      make("span", "", `submitted: ${job.submitted}`),
      make("span", "soft", duration(job.total_ms)),
      make("code", "", job.job_id));
    const entry = make("details", "", summary);
    entry.dataset.job = job.job_id;
    entry.addEventListener("toggle", () => entry.childElementCount === 1 && entry.append(card(job)));
    return entry;
  }
}

/** The jobs in flight: how many are in which state, and the oldest of them. */
export class InFlight {
  #open;

  constructor(open) {
    this.#open = open;
  }

  show(snapshot) {
    shares($("job-states"), $("job-legend"), snapshot.in_flight);
    const body = $("oldest");
    const kept = new Map([...body.children].map((line) => [line.dataset.job, line]));
    const lines = snapshot.oldest.map(([id, state, age]) => {
      const line = kept.get(id) ?? this.#line(id);
      say(line.children[1], state);
      paint(line.children[1], state);
      say(line.children[2], duration(age * 1000));
      return line;
    });
    if (lines.length !== body.childElementCount || lines.some((line, index) => body.children[index] !== line)) {
      replaceKeepingFocus(body, lines);
    }
    $("no-jobs").hidden = lines.length > 0;
    body.closest(".scroll").hidden = !lines.length;
  }

  #line(id) {
    const line = make("tr", "", make("td", "", idButton(id, this.#open)), make("td", "state"), make("td", "number"),
      make("td", "number", stopButton(id, this.#open)));
    line.dataset.job = id;
    return line;
  }
}

function replaceKeepingFocus(body, lines) {
  const focused = document.activeElement;
  for (const line of [...body.children]) if (!lines.includes(line)) line.remove();
  lines.forEach((line, index) => body.children[index] !== line && body.insertBefore(line, body.children[index] ?? null));
  if (body.contains(focused)) focused.focus();
}

/** A button that stops a job, after a question; `done` hears its id. */
export function stopButton(id, done) {
  const button = make("button", "", "Stop");
  button.type = "button";
  button.setAttribute("aria-label", `Stop job ${id}`);
  button.addEventListener("click", async () => {
    if (!(await confirmed(id))) return;
    button.disabled = true;
    const path = `jobs/${encodeURIComponent(id)}/stop`;
    const answer = await fetch(path, { method: "POST", headers: { "X-Requested-By": "dashboard" } }).catch(() => null);
    button.disabled = false;
    if (answer?.ok || answer?.status === 404) done(id);
    else button.textContent = "Stopping failed";
  });
  return button;
}

function confirmed(id) {
  const dialog = $("stop-dialog");
  say($("stop-id"), id);
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) =>
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "stop"), { once: true }));
}
