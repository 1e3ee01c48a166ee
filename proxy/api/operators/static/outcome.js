// How a job ended, for a person.

import { make } from "./dom.js";

/** How a job ended, by a sign as well as by a colour. */
export function outcome(job) {
  if (job.outcome == null) return make("span", "", `… ${job.state}`);
  const succeeded = job.outcome === "succeeded";
  return make("span", succeeded ? "good" : "code", `${succeeded ? "✓" : "✕"} ${job.outcome}${job.late ? " (late result)" : ""}`);
}
