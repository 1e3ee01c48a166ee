// Patterns of many jobs: over time, by cause of failure, by where the time went.

import { ask } from "./api.js";
import { curlButton } from "./curl.js";
import { $, count, duration, link, make, more, say, table, time, when, zone } from "./dom.js";
import { address, changed, Filters, params, query, trouble } from "./filters.js";
import { heatMap } from "./heat_map.js";
import { watch } from "./layout.js";
import { outcome } from "./outcome.js";
import { columns, sparkline } from "./svg.js";

new Filters(show, "last 24 hours");
let asking = new AbortController();
/** The address whose patterns are shown. */
let shown = null;

async function show() {
  asking.abort();
  asking = new AbortController();
  const { signal } = asking;
  const these = changed({ sort: "", limit: "", counts: "" });
  $("json").href = address("jobs/patterns", these);
  $("patterns").ariaBusy = "true";
  try {
    draw(await ask(`jobs/patterns?${query(these)}`, signal));
    shown = query(these);
    trouble(null);
  } catch (problem) {
    if (signal.aborted) return;
    trouble(problem);
  }
  $("patterns").hidden = shown !== query(these); // those are others
  $("patterns").ariaBusy = "false";
}

function draw(found) {
  const { over_time: over } = found;
  const from = params().get("since") || (params().get("until") ? iso(found.since) : "1d"); // the list has no such default
  $("list").href = address("jobs.html", changed({ since: from, bucket: "", by: "" }));
  const starts = Array.from({ length: found.buckets }, (_, index) => found.since + index * found.bucket_s);
  const part = found.complete ? "" : ` Only jobs that ended since ${time(found.searched_to)} are counted.`;
  say($("total"), `${count(found.jobs)} jobs from ${time(found.since)} to ${time(found.until)}, by ${duration(found.bucket_s * 1000)}.${part}`);
  const rows = starts.map((start, index) => [when(start), count(over.ended[index]), count(over.failed[index])]);
  $("jobs").replaceChildren(columns(over.ended, over.failed), ends(starts, found.until),
    more("In numbers", table("Jobs over time", ["From", "Ended", "Of these failed"], rows.filter((_, index) => over.ended[index]), [1, 2])));
  failures(found);
  $("latency").replaceChildren(heatMap(found.latency, starts));
  phases(found.phases);
  slowest(found);
}

/** The labels below a chart: its start and end. */
const ends = (starts, until) => make("p", "ends soft", make("span", "", time(starts[0] ?? until)), make("span", "", time(until)));

function failures({ failures: groups, failures_complete: complete, since, until, by, failures_to: searchedTo }) {
  const list = (group, more) => address("jobs.html",
    changed({ code: group.code, since: iso(since), until: iso(Math.ceil(until)), bucket: "", by: "", ...more }));
  const rows = groups.map((group) => [
    count(group.count),
    make("span", "code", group.code),
    make("span", "words", group.words || "–"),
    make("span", "words", group.label ?? "–"),
    Object.entries(group.submitted).map(([value, number]) => `${value} ${number}`).join(", "),
    sparkline(group.over_time, `${group.code} over time`),
    when(group.first_at, { short: true }),
    when(group.last_at, { short: true }),
    link(`job.html?id=${encodeURIComponent(group.example)}`, group.example.slice(0, 8)),
    make("span", "", link(list(group, alike(group, by)), "like this"), " · ", link(list(group), "all of this code")),
  ]);
  const part = complete ? [] : [make("p", "soft", `Only jobs that ended since ${time(searchedTo)} are grouped.`)];
  $("failures").replaceChildren(...(rows.length ? [table("Failures by code, label and message",
    ["Jobs", "Code", "Message", "Label", "Submitted", "Over time", `First (${zone})`, "Last", "Example", "List"], rows, [0])]
    : [make("p", "", "No job failed.")]), ...part);
}

const LONGEST = 300; // of a parameter

/** The filters that find a group's jobs: its label, and the longest part of its message without a number or id. */
function alike({ words, label }, by) {
  const parts = words === "(others)" ? [] : words.split("#").map((part) => part.trim());
  const longest = parts.reduce((best, part) => (part.length > best.length ? part : best), "");
  return { q: params().get("q") || longest, ...(label?.length <= LONGEST && { [`label.${by}`]: label }) };
}

const iso = (seconds) => new Date(seconds * 1000).toISOString().replace(/\.\d+/, "");

function phases({ jobs, sampled, quantiles_ms: quantiles, histogram }) {
  say($("phases-of"), `Of ${count(jobs)} jobs${sampled ? ", a sample" : ""}.`);
  const names = Object.keys(quantiles);
  const longest = Math.max(1, ...names.map((name) => quantiles[name].max ?? 0));
  const rows = names.map((name) => {
    const { p50, p90, p99, max } = quantiles[name];
    return [name, span(p50, p90, p99, longest), duration(p50), duration(p90), duration(p99), duration(max)];
  });
  const edges = histogram.edges_ms.map((edge) => duration(edge));
  const heads = [`below ${edges[0]}`, ...edges.map((edge, index) => (index + 1 < edges.length ? `${edge} to ${edges[index + 1]}` : `${edge} or more`))];
  const counts = Object.keys(histogram.counts);
  $("phases").replaceChildren(
    table("How long each phase took", ["Phase", "p50, p90 and p99 (logarithmic scale from 0.1 ms)", "p50", "p90", "p99", "Max"], rows, [2, 3, 4, 5]),
    more("How many jobs took how long, by phase", table("Jobs by phase and duration", ["Took", ...counts],
      heads.map((head, index) => [head, ...counts.map((name) => count(histogram.counts[name][index]))]), counts.map((_, index) => index + 1))));
}

/** From the median to the 99th percentile, on a logarithmic scale: the longer, the lighter. */
function span(p50, p90, p99, longest) {
  const at = (ms) => `${100 * Math.max(0, Math.min(1, Math.log10(Math.max(ms ?? 0.1, 0.1) * 10) / Math.log10(longest * 10)))}%`;
  const box = make("div", "span", ...[[p99, "light"], [p90, "middle"], [p50, "strong"]].map(([ms, strength]) => {
    const part = make("span", strength);
    part.style.width = at(ms);
    return part;
  }));
  box.ariaHidden = "true";
  return box;
}

function slowest({ slowest: jobs, slowest_complete: complete, slowest_to: searchedTo, slowest_of: lookedAt }) {
  const rows = jobs.map((job) => [
    duration(job.total_ms), link(`job.html?id=${encodeURIComponent(job.job_id)}`, job.job_id.slice(0, 12), "id"), outcome(job),
    when(job.finished_at), Object.entries(job.labels ?? {}).map(([name, value]) => `${name}=${value}`).join(" "),
  ].map((cell, index) => (index === 4 ? make("span", "words", cell) : cell)));
  const part = complete ? [] : [make("p", "soft", `Of the ${count(lookedAt)} jobs that ended since ${time(searchedTo)}.`)];
  $("slowest").replaceChildren(...part, table("The slowest jobs", ["Took", "Job", "Outcome", "Ended", "Labels"], rows, [0]));
}

$("curl").append(curlButton(() => $("json").href));
show();
watch(show);
