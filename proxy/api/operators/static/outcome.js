// How a job ended, for people.

import { make } from "./dom.js";

/** How a job ended, with a symbol as well as a colour. */
export function outcome(job) {
  if (job.outcome == null) return make("span", "", `… ${job.state}`);
  const succeeded = job.outcome === "succeeded";
  return make("span", succeeded ? "good" : "code", `${succeeded ? "✓" : "✕"} ${job.outcome}${job.late ? " (late result)" : ""}`);
}
