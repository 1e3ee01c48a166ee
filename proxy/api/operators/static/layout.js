// Shared by all pages: the head with its links, who is logged in, and whether the proxy answers.

import { act, ask } from "./api.js";
import { $, link, make, say, time } from "./dom.js";

const PAGES = { "": "Now", "jobs.html": "Jobs", "patterns.html": "Patterns", "house.html": "System" };
const EVERY_MS = 4000;
const HERE = location.pathname.split("/").pop();

/** The viewer, once known: `{name, role, via, guarded}`. */
export const session = ask("session").catch(() => ({ name: "", role: "look", guarded: false }));

/** Whether the viewer may change anything. */
export const mayAct = session.then(({ role }) => role === "act");

function head() {
  const links = Object.entries(PAGES).map(([page, name]) => {
    const element = link(page || "./", name);
    if (page === HERE) element.ariaCurrent = "page";
    return make("li", "", element);
  });
  links.push(make("li", "", link("metrics", "Metrics")));
  const nav = make("nav", "", make("ul", "", ...links));
  nav.ariaLabel = "Pages";
  const status = make("p", "pill", "connecting");
  status.id = "status";
  status.setAttribute("role", "status");
  const skip = link("#main", "Skip to the content", "skip");
  $("head").append(skip, make("p", "name", "Async job proxy"), status, nav, search());
  const notice = make("p", "notice");
  notice.id = "notice";
  notice.hidden = true;
  notice.setAttribute("role", "status");
  $("head").after(notice);
}

function search() {
  const label = make("label", "unseen", "Find a job");
  label.htmlFor = "search-text";
  const field = make("input");
  Object.assign(field, { id: "search-text", name: "id", autocomplete: "off", spellcheck: false, required: true });
  field.placeholder = "job id, label, key, job server's id";
  const form = make("form", "", label, field, make("button", "", "Find"));
  form.id = "search";
  form.setAttribute("role", "search");
  form.action = "job.html";
  return form;
}

async function who() {
  const { name, role, via, guarded } = await session;
  if (!guarded) return;
  const form = make("form", "who", make("span", "soft", `${name} (${role === "act" ? "may act" : "may look"})`));
  if (via === "session") form.append(make("button", "", "Log out")); // a gateway logs its users out
  form.method = "post";
  form.action = "logout";
  $("head").append(form);
}

let startedAt = null;

/** Show the proxy's state: `{instance, started_at, draining, paused, on_hold, refuses}`; null: it does not answer. */
export function showStatus(status) {
  const [kind, text] = wording(status);
  $("status").className = `pill ${kind}`;
  say($("status"), status?.instance ? `${status.instance}: ${text}` : text);
  if (!status) {
    notice("The proxy does not answer. This page retries by itself; what it shows is out of date.");
    return;
  }
  const restarted = startedAt !== null && status.started_at !== startedAt;
  if (restarted) notice(`The proxy was restarted at ${time(status.started_at)}.`);
  else if ($("notice").dataset.lost) notice(`The proxy answers again, without a restart, since ${time(Date.now() / 1000)}.`);
  delete $("notice").dataset.lost;
  startedAt = status.started_at;
}

function wording(status) {
  if (!status) {
    $("notice").dataset.lost = "yes";
    return ["trouble", "disconnected"];
  }
  if (status.draining) return ["draining", "draining"];
  if (status.paused) return ["draining", "paused"];
  if (status.on_hold) return ["trouble", `no workers: ${status.on_hold}`];
  return status.refuses ? ["trouble", `refuses jobs: ${status.refuses}`] : ["live", "live"];
}

/** Show a notice for the whole page. */
export function notice(text) {
  $("notice").hidden = !text;
  say($("notice"), text);
}

/** Poll the proxy's state, for pages without events; `onReturn` is called when the proxy answers again. */
export async function watch(onReturn = () => {}) {
  let lost = false;
  for (;;) {
    const status = await ask("status").catch(() => null);
    if (status && lost) onReturn();
    lost = !status;
    showStatus(status);
    await new Promise((resolve) => setTimeout(resolve, document.hidden ? EVERY_MS * 5 : EVERY_MS));
  }
}

/** Ask for confirmation; resolves to true or false. The focus is first on the button that cancels. */
export function confirmed(title, { words = [], yes, no = "Cancel", field = null }) {
  const leave = make("button", "", no);
  leave.value = "";
  leave.autofocus = true;
  const go = make("button", "danger", yes);
  go.value = "yes";
  const form = make("form", "", make("h2", "", title), ...words.map((text) => make("p", "", text)),
    ...(field ? [field] : []), make("p", "buttons", leave, go));
  form.method = "dialog";
  form.firstChild.id = "dialog-title";
  const dialog = make("dialog", "", form);
  dialog.setAttribute("aria-labelledby", "dialog-title");
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) =>
    dialog.addEventListener("close", () => { dialog.remove(); resolve(dialog.returnValue === "yes"); }));
}

/** A button that stops a job after a confirmation; `done` gets its id. Hidden from viewers who may only look. */
export function stopButton(id, done) {
  const button = make("button", "", "Stop");
  button.type = "button";
  button.hidden = true;
  mayAct.then((may) => { button.hidden = !may; });
  button.setAttribute("aria-label", `Stop job ${id}`);
  button.addEventListener("click", async () => {
    const words = [id, "Its worker is killed and its client gets “cancelled”. A job that the job server has accepted keeps running there, unless the profile has a call to cancel it."];
    if (!(await confirmed("Stop this job?", { words, yes: "Stop the job", no: "Keep it running" }))) return;
    button.disabled = true;
    await act(`jobs/${encodeURIComponent(id)}/stop`).then(() => done(id), (problem) => {
      if (problem.status === 404) done(id);
      else say(button, "Stopping failed");
    });
    button.disabled = false;
  });
  return button;
}

head();
who();
