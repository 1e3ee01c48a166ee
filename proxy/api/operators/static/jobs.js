// The list of jobs: one page, the counts of each kind, and the link to the next page.

import { ask } from "./api.js";
import { curlButton } from "./curl.js";
import { $, count, duration, link, make, say, time, when, zone } from "./dom.js";
import { address, changed, Filters, params, query, trouble } from "./filters.js";
import { watch } from "./layout.js";
import { outcome } from "./outcome.js";

const FOLLOW_MS = 5000;
const filters = new Filters(() => show({ moved: true }), "any time");
let asking = new AbortController();
/** The filters whose counts are shown, and the address whose jobs are. */
let counted = null;
let listed = null;

async function show({ moved = false } = {}) {
  asking.abort();
  asking = new AbortController();
  const { signal } = asking;
  const some = params();
  const these = query(changed({ sort: "", limit: "", counts: "" }));
  if (counted !== these) some.set("counts", "yes"); // by default, later pages come without counts
  $("list").ariaBusy = "true";
  heads(some);
  try {
    const answer = await ask(`jobs?${query(some)}`, signal);
    trouble(null);
    draw(answer, moved);
    listed = query(params());
    if (answer.counts) counted = these;
  } catch (problem) {
    if (signal.aborted) return;
    trouble(problem);
    say($("total"), "");
    if (listed !== query(params())) draw({ jobs: [], complete: true, next: null }, false); // those were others
    $("partial").hidden = true;
  }
  $("list").ariaBusy = "false";
}

function draw(answer, moved) {
  const focused = document.activeElement.closest("#rows a")?.href;
  $("rows").replaceChildren(...answer.jobs.map(row));
  if (focused) [...$("rows").querySelectorAll("a")].find(({ href }) => href === focused)?.focus();
  $("table").classList.toggle("alone", answer.jobs.every((job) => job.instance == null));
  if (answer.counts) {
    filters.facets(answer.counts);
    totals(answer.counts);
  }
  partial(answer);
  paging(answer);
  if (moved && params().has("after")) $("list-title").focus();
}

function totals({ total, complete, counted_to: countedTo }) {
  const least = complete ? "" : " or more";
  say($("total"), total === 1 && complete ? "1 job" : `${count(total)}${least} jobs`);
  say($("counted"), complete ? "" : `Counts cover the jobs that ended since ${time(countedTo)}.`);
}

function partial({ jobs, complete, searched_to: searchedTo, looked_at: lookedAt, next }) {
  $("partial").hidden = complete && jobs.length > 0;
  if (lookedAt != null) {
    say($("partial"), `These are the slowest of the ${count(lookedAt)} jobs that ended since ${time(searchedTo)}. Choose a time range for others.`);
    return;
  }
  const way = next ? " “Go on” continues from there." : "";
  const searched = searchedTo == null ? "" : ` The search has reached ${time(searchedTo)}.${way}`;
  say($("partial"), (jobs.length ? "" : complete ? "No jobs match." : "None so far.") + searched);
}

function paging({ next, complete, looked_at: lookedAt }) {
  const parts = [];
  if (params().has("after")) parts.push(link(address("jobs.html", changed({})), "First page"));
  if (next) {
    const some = params();
    some.set("after", next);
    parts.push(link(address("jobs.html", some), complete || lookedAt != null ? "Next page" : "Go on"));
  }
  $("paging").replaceChildren(...parts.map((part) => {
    part.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return; // opens a new tab
      event.preventDefault();
      history.pushState(null, "", part.href);
      show({ moved: true });
    });
    return part;
  }));
}

/** The column heads show the order and change it; the links keep the filters. */
function heads(some) {
  const sort = some.get("sort") ?? "newest";
  $("by-time").closest("th").ariaSort = { newest: "descending", oldest: "ascending" }[sort] ?? "none";
  $("by-length").closest("th").ariaSort = sort === "slowest" ? "descending" : "none";
  const these = changed({ sort: "", limit: "", counts: "" });
  $("patterns").href = address("patterns.html", these);
  $("json").href = address("jobs", these);
}

$("by-time").addEventListener("click", () => filters.change({ sort: (params().get("sort") ?? "newest") === "newest" ? "oldest" : "" }));
$("by-length").addEventListener("click", () => filters.change({ sort: "slowest" }));

function row(job) {
  const id = link(`job.html?id=${encodeURIComponent(job.job_id)}`, job.job_id.slice(0, 12), "id");
  id.title = job.job_id;
  const words = make("span", "words", job.error || job.detail || (job.worker_end ? `worker: ${job.worker_end}` : ""));
  words.title = words.textContent;
  const labels = Object.entries(job.labels ?? {}).map(([name, value]) => `${name}=${value}`).join(" ");
  const cells = [
    job.finished_at == null ? "in flight" : when(job.finished_at, { short: true }),
    id,
    outcome(job),
    job.submitted,
    duration(job.total_ms),
    Object.assign(make("span", "words", labels), { title: labels }),
    words,
    job.profile ?? "–",
    job.instance ?? "–",
  ];
  return make("tr", "", ...cells.map((cell, index) => make("td", index === 4 ? "number" : "", cell)));
}

$("curl").append(curlButton(() => $("json").href));

async function follow() {
  await new Promise((resolve) => setTimeout(resolve, FOLLOW_MS));
  if ($("follow").checked && !document.hidden && !params().has("after")) await show();
  follow();
}

say($("by-time"), `Ended (${zone})`);
$("narrow").open = matchMedia("(min-width: 62rem)").matches;
show();
follow();
watch(() => show());
