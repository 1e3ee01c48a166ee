// The proxy itself: what runs with which settings, the state of its dependencies, and who did what to it.

import { act, ask } from "./api.js";
import { $, count, duration, facts, link, make, memory, say, table, when } from "./dom.js";
import { confirmed, mayAct, watch } from "./layout.js";

const EVERY_MS = 5000;
let house = null;
const drawn = new Map();
let entries = [];

async function show() {
  try {
    house = await ask("house");
    $("trouble").hidden = true;
    draw();
  } catch (problem) {
    $("trouble").hidden = false;
    say($("trouble"), problem.message);
  }
}

function draw() {
  intake(house.intake);
  const { now } = house;
  $("version").replaceChildren(facts({
    version: house.version, Python: house.python, pid: house.pid, instance: house.instance,
    "running for": duration((now - house.started_at) * 1000), since: when(house.started_at),
  }));
  changed(journal, house.journal);
  changed(servers, house.job_servers);
  changed(instances, house.instances, house.journal.kind);
  changed(certificates, house.certificates);
  changed(log, house.log);
  changed(settings, house.settings, $("all-settings").checked);
}

/** Draw a part only if it has changed, so that scroll position, selection and focus stay. */
function changed(part, ...values) {
  const text = JSON.stringify(values);
  if (drawn.get(part) === text) return;
  drawn.set(part, text);
  part(...values);
}

function intake(state) {
  const words = state.draining ? "Draining: the process ends with its last job."
    : state.paused ? `Paused${state.by ? ` by ${state.by}` : ""}${state.reason ? `: ${state.reason}` : ""}. New jobs are refused, jobs in flight continue.`
      : state.refuses ? `New jobs are refused: ${state.refuses}. Jobs in flight continue.`
        : "Open: new jobs are accepted.";
  say($("intake"), `${words} ${count(state.in_flight)} in flight.`);
  $("pause").disabled = state.paused || state.draining;
  $("resume").disabled = !state.paused || state.draining;
  $("drain").disabled = state.draining;
}

function journal({ kind, place, size_bytes: size, oldest_at: oldest, trouble }) {
  $("journal").replaceChildren(facts({
    kind, place, size: size == null ? null : memory(size / 1024),
    "oldest job": oldest == null ? (size == null ? null : "none") : make("span", "", when(oldest), ` (${duration((house.now - oldest) * 1000)} ago)`),
    trouble: trouble && make("span", "code", trouble),
  }));
}

function servers(all) {
  const rows = all.map((one) => [
    one.profile, one.url,
    one.failures_since ? make("span", "code", `✕ ${count(one.failures_since)} failures since`) : one.last_success_at ? make("span", "good", "✓ answers") : "not asked yet",
    when(one.last_success_at), when(one.last_failure_at), one.last_failure,
  ]);
  $("servers").replaceChildren(table("Job servers", ["Profile", "Address", "Health", "Last success", "Last failure", "Reason"], rows));
}

function instances(all, kind) {
  const none = kind === "postgresql" ? "Not known: the database cannot be read." : "This instance is alone: its journal is not a shared database.";
  const rows = all.map((one) => [`${one.name}${one.self ? " (this one)" : ""}`, when(one.started_at), one.beat_s == null ? "–" : duration(one.beat_s * 1000), one.id]);
  $("instances").replaceChildren(all.length ? table("Instances", ["Name", "Since", "Last heartbeat", "Id"], rows, [2])
    : make("p", "", none));
}

function certificates(all) {
  const rows = all.map((one) => [one.setting, one.subject || "–", when(one.ends_at),
    one.trouble ? make("span", "code", one.trouble) : one.left_s == null ? "–" : `${duration(one.left_s * 1000)}${one.expired ? `; ${one.expired} of ${one.count} no longer valid` : ""}`, one.file]);
  $("certificates").replaceChildren(all.length ? table("Certificates", ["Setting", "For", "Until", "Left", "File"], rows)
    : make("p", "", "None: this proxy does not use TLS itself."));
}

function log({ seconds, events, unlisted, dropped }) {
  const rows = events.map((one) => [count(one.count), one.level === "info" ? "info" : make("span", "code", one.level), one.event]);
  const rest = [unlisted ? `${count(unlisted)} other lines` : "", dropped ? `${count(dropped)} lines were lost` : ""].filter(Boolean).join(", ");
  $("log").replaceChildren(table(`Log lines of the last ${duration(seconds * 1000)}`, ["Lines", "Level", "Event"], rows, [0]),
    make("p", "soft", `Of the last ${duration(seconds * 1000)}, the most frequent first.${rest ? ` ${rest}.` : ""}`));
}

function settings(all, everything) {
  const rows = all.filter((one) => everything || one.source !== "default")
    .map((one) => [make("code", "", one.name), one.value === "" ? make("span", "soft", "empty") : one.value, one.source]);
  $("settings").replaceChildren(rows.length ? table("Settings", ["Name", "Value", "From"], rows) : make("p", "", "All are at their defaults."));
}

async function audit({ older = false } = {}) {
  const before = older && entries.length ? `&before=${entries.at(-1).n}` : "";
  try {
    const answer = await ask(`audit?limit=20${before}`);
    const page = answer.entries;
    const [first] = page;
    if (older) entries.push(...page.filter((entry) => entry.n < entries.at(-1).n)); // the button may be pressed twice
    else if (entries.length && (!first || (first.n === entries[0].n && first.at === entries[0].at))) return;
    else {
      const oldest = page.at(-1)?.n;
      const joins = entries.some((entry) => entry.n >= oldest); // or else there may be others in between
      entries = [...page, ...entries.filter((entry) => joins && entry.n < oldest)];
    }
    if (older || entries.length <= page.length) $("older").hidden = answer.next === null;
  } catch (problem) {
    $("audit").replaceChildren(make("p", "trouble", problem.message));
    entries = []; // so that the next answer is shown, even if it has nothing new
    return;
  }
  const rows = entries.map((entry) => [when(entry.at), entry.who || "–", entry.what, /^[0-9a-f]{32}$/.test(entry.of) ? link(`job.html?id=${entry.of}`, entry.of.slice(0, 12), "id") : entry.of || "–",
    entry.outcome === "done" ? "done" : make("span", "code", entry.outcome), entry.detail || "–", entry.via, entry.peer, entry.instance || "–"]);
  $("audit").replaceChildren(rows.length ? table("Who did what, newest first", ["When", "Who", "Action", "Job", "Outcome", "Detail", "By", "From", "Instance"], rows)
    : make("p", "", "There are no entries yet."));
}

async function perform(path, words, body) {
  try {
    const answer = await act(path, body);
    $("done").hidden = false;
    say($("done"), words);
    intake({ ...house.intake, ...answer });
  } catch (problem) {
    $("done").hidden = false;
    say($("done"), problem.message);
  }
  audit();
  show();
}

$("pause").addEventListener("click", async () => {
  const reason = make("input");
  const label = make("label", "field", "Why (operators see it)", reason);
  const words = ["New jobs get 503 until you resume; load balancers send them elsewhere. Jobs in flight continue."];
  if (await confirmed("Pause the intake?", { words, field: label, yes: "Pause", no: "Go on accepting" })) {
    perform("intake/pause", "The intake is paused.", reason.value.trim() ? { reason: reason.value.trim() } : undefined);
  }
});
$("resume").addEventListener("click", async () => {
  if (await confirmed("Accept jobs again?", { yes: "Resume", no: "Stay paused" })) perform("intake/resume", "New jobs are accepted again.");
});
$("drain").addEventListener("click", async () => {
  const words = ["New jobs are refused, those in flight are finished, then the process ends. This cannot be undone from here."];
  if (await confirmed("Drain this proxy and end it?", { words, yes: "Drain and end", no: "Keep it running" })) perform("drain", "The proxy is draining.");
});
$("all-settings").addEventListener("change", () => house && draw());
$("older").addEventListener("click", () => audit({ older: true }));
mayAct.then((may) => { $("acts").hidden = !may; });

async function follow() {
  await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
  if (!document.hidden) await Promise.all([show(), audit()]);
  follow();
}

show();
audit();
follow();
watch(() => { show(); audit(); });
