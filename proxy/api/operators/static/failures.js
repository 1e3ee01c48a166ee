// The last failures, newest first; opened ones stay open, and stay.

import { $, duration, facts, make, replaceKeepingFocus, when } from "./dom.js";
import { jobLink, progressText } from "./in_flight.js";
import { timeLine } from "./time_line.js";

export class Failures {
  #shown = "";

  /** Take the failures of a snapshot. A callback may show later that a job was submitted. */
  show(failures) {
    const shown = failures.map(nameOf).join();
    if (shown === this.#shown) return;
    this.#shown = shown;
    const kept = new Map([...$("failure-list").children].map((entry) => [entry.dataset.name, entry]));
    const entries = failures.map((job) => kept.get(nameOf(job)) ?? this.#entry(job));
    const known = new Set(failures.map((job) => job.job_id));
    const read = [...kept.values()].filter((entry) => entry.open && !known.has(entry.dataset.job)); // there are newer ones
    replaceKeepingFocus($("failure-list"), [...entries, ...read]);
    $("no-failures").hidden = failures.length > 0;
    $("failure-list").hidden = !failures.length;
  }

  #entry(job) {
    const moment = when(job.finished_at);
    moment.className = "soft";
    const summary = make("summary", "",
      moment,
      make("span", "code", job.outcome),
      make("span", "", `submitted: ${job.submitted}`),
      make("span", "soft", duration(job.total_ms)),
      make("code", "", job.job_id));
    const entry = make("details", "", summary);
    entry.dataset.job = job.job_id;
    entry.dataset.name = nameOf(job);
    entry.addEventListener("toggle", () => entry.childElementCount === 1 && entry.append(life(job)));
    return entry;
  }
}

function nameOf(job) {
  return `${job.job_id} ${job.submitted}`;
}

function life(job) {
  const parts = [facts({
    job: jobLink(job.job_id),
    worker: job.worker_pid,
    profile: job.profile,
    "job server's id": job.remote_id,
    progress: progressText(job.progress),
  })];
  if (job.detail) parts.push(make("p", "", job.detail));
  if (job.phases.length) parts.push(timeLine(job));
  return make("div", "job", ...parts);
}
