// One job: everything known about it, and its actions. It is polled as long as the job is open.

import { act, ask, Problem } from "./api.js";
import { curlButton } from "./curl.js";
import { $, button, duration, facts, link, make, say, when } from "./dom.js";
import { progressText } from "./in_flight.js";
import { mayAct, stopButton, watch } from "./layout.js";
import { outcome } from "./outcome.js";
import { timeLine } from "./time_line.js";

const EVERY_MS = 1000;
let name = (new URLSearchParams(location.search).get("id") ?? "").trim(); // what was copied may have blanks around it
let shown = "";
let buttonsOf = "";
let following = false;

async function show() {
  try {
    const job = await ask(`jobs/${encodeURIComponent(name)}`);
    if (!job.job_id) throw new Problem(404); // a name such as `patterns` or `..` leads to something else
    $("trouble").hidden = true;
    pin(job.job_id);
    if (JSON.stringify(job) !== shown) draw(job);
    shown = JSON.stringify(job);
    return job.state !== "finished";
  } catch (problem) {
    $("trouble").hidden = false;
    say($("id"), name);
    if (problem.status !== 404) say($("trouble"), problem.message);
    else {
      $("trouble").replaceChildren("No job is found by this name, or it is no longer remembered. ",
        link(`jobs.html?q=${encodeURIComponent(name)}`, "Search all jobs"));
    }
    return problem.status === 0 || problem.status >= 500; // it may pass
  }
}

/** Stay at this job: another one may be found by the same name a moment later. */
function pin(id) {
  if (name === id) return;
  name = id;
  history.replaceState(null, "", `job.html?id=${encodeURIComponent(id)}`);
}

async function follow() {
  if (following) return;
  following = true;
  while (await show()) await new Promise((resolve) => setTimeout(resolve, document.hidden ? EVERY_MS * 10 : EVERY_MS));
  following = false;
}

function draw(job) {
  document.title = `Job ${job.job_id.slice(0, 12)} – async job proxy`;
  say($("id"), job.job_id);
  $("summary").hidden = false;
  if ($("outcome").textContent !== outcome(job).textContent) $("outcome").replaceChildren(outcome(job));
  say($("words"), job.detail ?? "");
  buttons(job);
  $("facts").replaceChildren(facts({
    submitted: job.submitted,
    took: duration(job.total_ms),
    accepted: when(job.accepted_at),
    deadline: when(job.deadline_at),
    finished: job.finished_at == null ? null : when(job.finished_at),
    profile: job.profile,
    instance: job.instance,
    worker: job.worker_pid,
    "worker's end": job.worker_end,
    "cancelled by": job.cancelled_by,
    "idempotency key": job.has_key === undefined ? null : job.has_key ? "yes" : "no",
    trace: job.trace_id,
    recorded: job.recorded === false ? "not yet, or the store cannot be read" : null,
  }), ...(Object.keys(job.labels ?? {}).length ? [facts(job.labels)] : [])); // apart: a label may be called like a fact
  $("life").hidden = !(job.phases?.length || job.events?.length);
  if (!$("life").hidden) $("time-line").replaceChildren(timeLine(job));
  parts(job);
}

function parts(job) {
  const all = [jobServer(job), attempts(job), callbacks(job), body("Sent to the job server", job.sent), body("Received", job.received)];
  $("parts").replaceChildren(...all.filter(Boolean));
}

function section(title, ...children) {
  return make("section", "", make("h2", "", title), ...children);
}

function jobServer(job) {
  const remote = job.remote_id && job.remote_link ? link(job.remote_link, job.remote_id) : job.remote_id;
  if (remote instanceof Node) remote.rel = "noreferrer";
  return section("Job server", facts({
    "its own id": remote,
    "its status": job.remote_status,
    "its message": job.error,
    progress: progressText(job.progress),
    asked: job.calls?.length ? job.calls.map(({ call, answer, count }) => `${call}: ${answer} (${count})`).join(", ") : null,
  }));
}

function attempts({ attempts: made }) {
  if (!made) return null;
  return section("Attempts", facts({
    workers: made.workers,
    "workers lost": made.workers_lost?.join(", "),
    submissions: made.submissions,
    "refused by the job server": made.refused,
  }));
}

function callbacks({ callbacks: came, late, earlier_answer: earlier }) {
  if (!came) return null;
  const parts = [facts({
    accepted: came.accepted, early: came.early, late: came.late, again: came.duplicate, refused: came.refused,
    "why the last one was refused": came.last_refusal,
  })];
  if (late && earlier) parts.push(make("p", "", `The client was answered ${earlier.code} (submitted: ${earlier.submitted}) before the result came: ${earlier.detail}`));
  return section("Callbacks", ...parts);
}

function body(title, recorded) {
  if (!recorded) return null;
  const text = make("pre", "", recorded.body);
  text.tabIndex = 0;
  text.setAttribute("role", "region");
  text.ariaLabel = title;
  const size = `${recorded.bytes.toLocaleString()} bytes${recorded.cut ? ", cut" : ""}${recorded.content_type ? `, ${recorded.content_type}` : ""}`;
  return section(title, make("p", "soft", size), text);
}

/** The buttons are replaced only if others are needed, so that a focused one keeps its focus. */
function buttons(job) {
  const wanted = `${job.job_id} ${job.state === "finished"} ${job.can_ask}`;
  if (wanted === buttonsOf) return;
  buttonsOf = wanted;
  const parts = [curlButton(() => `jobs/${encodeURIComponent(job.job_id)}`)];
  const others = Object.entries(job.labels ?? {}).map(([label, value]) =>
    link(`jobs.html?${new URLSearchParams({ [`label.${label}`]: value })}`, `Jobs with this ${label}`));
  if (job.can_ask) parts.unshift(askButton(job.job_id));
  if (job.state !== "finished") parts.unshift(stopButton(job.job_id, show));
  $("buttons").replaceChildren(...parts, ...others);
}

/** A button that makes the proxy ask the job server about the job at once. */
function askButton(id) {
  const element = button("Ask the job server now", async () => {
    element.disabled = true;
    say($("told"), "The job server is being asked.");
    $("told").hidden = false;
    try {
      const told = await act(`jobs/${encodeURIComponent(id)}/ask`);
      say($("told"), `The job server was asked: ${[told.kind, told.state, told.error].filter(Boolean).join(", ")}.`);
    } catch (problem) {
      say($("told"), problem.message);
    }
    element.disabled = false;
    show();
  });
  element.hidden = true;
  mayAct.then((may) => { element.hidden = !may; });
  return element;
}

follow();
watch(follow);
