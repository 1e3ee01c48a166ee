// The filters are in the address, so that a view can be shared and "back" works.
// The parameters are those of `GET /jobs`.

import { $, button, count, make, say } from "./dom.js";

/** Filters that take several values, separated by commas. */
const SEVERAL = new Set(["state", "code", "submitted", "profile", "instance"]);
const TITLES = {
  state: "State", outcome: "Outcome", code: "Code", submitted: "Submitted", profile: "Profile", instance: "Instance",
  worker: "Worker's end", cancelled_by: "Cancelled by", q: "Text", key: "Idempotency key", since: "Since", until: "Until",
};
/** Parameters of the address that are not filters. */
const OTHERS = new Set(["after", "sort", "limit", "counts", "bucket", "by"]);
const PERIODS = { "15m": "last 15 minutes", "1h": "last hour", midnight: "since midnight (the proxy's)", "1d": "last day", "7d": "last 7 days" };
/** Any other age, as in the address. */
const AGE = /^\d{1,9}[smhd]$/;

const title = (name) => TITLES[name] ?? name.replace(/^label\./, "");

/** The parameters of the address. */
export const params = () => new URLSearchParams(location.search);

/** The parameters as a readable query string. */
export const query = (some) => some.toString().replaceAll("%2C", ",").replaceAll("%3A", ":");

/** The address of a page with these parameters. */
export const address = (page, some) => (some.size ? `${page}?${query(some)}` : page);

/** The parameters with some replaced; empty ones are removed. */
export function changed(changes, from = params()) {
  const some = new URLSearchParams(from);
  some.delete("after");
  for (const [name, value] of Object.entries(changes)) {
    if (value) some.set(name, value);
    else some.delete(name);
  }
  return some;
}

export class Filters {
  #show;
  #seen = new Map();
  #allTime;
  /** The times of the address that the fields stand for: they stay unless a field is changed, even if it cannot show them. */
  #times = {};

  /** `show` is called whenever the address has changed; `allTime`: the name of an unlimited period. */
  constructor(show, allTime) {
    this.#show = show;
    this.#allTime = allTime;
    this.#form();
    window.addEventListener("popstate", () => this.#changed());
    this.#fill();
  }

  /** Go to this view with these changes. */
  change(changes) {
    const page = location.pathname.split("/").pop();
    history.pushState(null, "", address(page, changed(changes)));
    this.#changed();
  }

  #changed() {
    this.#fill();
    this.#show();
  }

  #form() {
    const form = $("filters");
    const field = (name, text, input) => {
      const label = make("label", "field", text, input);
      input.name = name;
      return label;
    };
    const period = make("select", "", new Option(this.#allTime, ""), ...Object.entries(PERIODS).map(([value, name]) => new Option(name, value)),
      new Option("from … to …", "custom"));
    const moment = () => Object.assign(make("input"), { type: "datetime-local", step: 1 });
    const range = make("span", "range", field("since", "From", moment()), field("until", "To", moment()));
    const text = Object.assign(make("input"), { type: "search", spellcheck: false, autocomplete: "off" });
    const key = Object.assign(make("input"), { spellcheck: false, autocomplete: "off" });
    form.append(field("q", "Text", text), field("period", "Time", period), range, field("key", "Idempotency key", key), make("button", "", "Apply"));
    period.addEventListener("change", () => {
      range.hidden = period.value !== "custom";
      if (range.hidden) this.change({ since: period.value, until: "" });
    });
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const { q, key: itsKey, period: chosen, since, until } = form.elements;
      const typed = (its) => (its.value === its.defaultValue ? this.#times[its.name] : instant(its.value));
      const times = chosen.value === "custom" ? { since: typed(since), until: typed(until) } : { since: chosen.value, until: "" };
      this.change({ q: q.value.trim(), key: itsKey.value.trim(), ...times });
    });
  }

  /** Update the form and the list of filters from the address. */
  #fill() {
    const some = params();
    const { q, key, period, since, until } = $("filters").elements;
    q.value = some.get("q") ?? "";
    key.value = some.get("key") ?? "";
    const [from, to] = [some.get("since") ?? "", some.get("until") ?? ""];
    const named = !to && (from in PERIODS || !from || AGE.test(from));
    if (named && ![...period.options].some(({ value }) => value === from)) period.add(new Option(`last ${from}`, from), period.options.length - 1);
    period.value = named ? from : "custom";
    this.#times = named ? {} : { since: from, until: to };
    for (const its of [since, until]) {
      its.value = local(this.#times[its.name] ?? "");
      its.defaultValue = its.value;
    }
    since.closest(".range").hidden = named;
    const chips = [...some].filter(([name, value]) => !OTHERS.has(name) && value).map(([name, value]) => {
      const chip = button(`${title(name)}: ${value} ✕`, () => this.change({ [name]: "" }), "chip");
      chip.ariaLabel = `Remove the filter ${title(name)}: ${value}`;
      return chip;
    });
    if (chips.length > 1) chips.push(button("Remove all filters", () => this.change(Object.fromEntries([...some.keys()].map((name) => [name, ""])))));
    $("chips").replaceChildren(...chips);
  }

  /** Show the number of jobs for each value, as buttons; `counts` is as in `GET /jobs`. */
  facets(counts) {
    const groups = Object.entries({ ...counts.labels }).map(([name, values]) => [`label.${name}`, values]);
    for (const name of ["state", "outcome", "code", "submitted", "profile", "instance", "worker", "cancelled_by"]) {
      groups.push([name, counts[name] ?? {}]);
    }
    const order = ["state", "outcome", "code", "submitted"];
    groups.sort(([a], [b]) => (order.indexOf(a) + 1 || 9) - (order.indexOf(b) + 1 || 9));
    const focused = document.activeElement?.dataset.facet;
    $("facets").replaceChildren(...groups.map(([name, values]) => this.#facet(name, values)).filter(Boolean));
    if (focused) document.querySelector(`[data-facet="${CSS.escape(focused)}"]`)?.focus();
  }

  #facet(name, values) {
    const chosen = selected(name);
    const seen = this.#seen.get(name) ?? new Set();
    this.#seen.set(name, seen);
    for (const value of [...Object.keys(values), ...chosen]) seen.add(value);
    if (!seen.size) return null;
    const ordered = [...seen].sort((a, b) => (values[b] ?? -1) - (values[a] ?? -1));
    const list = make("ul", "", ...ordered.map((value) => this.#choice(name, value, values[value], chosen)));
    return make("fieldset", "", make("legend", "", title(name)), list);
  }

  #choice(name, value, number, chosen) {
    const box = Object.assign(make("input"), { type: "checkbox", checked: chosen.has(value) });
    box.dataset.facet = `${name}=${value}`;
    box.addEventListener("change", () => {
      const next = new Set(SEVERAL.has(name) ? chosen : []);
      if (box.checked) next.add(value);
      else next.delete(value);
      this.change({ [name]: [...next].join(",") });
    });
    const text = make("span", "value", value);
    text.title = value;
    return make("li", "", make("label", "", box, text, make("span", "soft number", number === undefined ? "" : count(number))));
  }
}

function selected(name) {
  const value = params().get(name);
  if (!value) return new Set();
  return new Set(SEVERAL.has(name) ? value.split(",") : [value]);
}

/** Convert a local time of a form field to the UTC time of the address. */
function instant(value) {
  const moment = value ? new Date(value) : null;
  return moment && !Number.isNaN(moment.valueOf()) ? moment.toISOString().replace(/\.\d+/, "") : "";
}

/** The reverse; empty if it is not a time. As for the proxy, one without a zone is UTC. */
function local(value) {
  const moment = new Date(/^[\d.]+$/.test(value) ? Number(value) * 1000 : value.replace(/[T ][\d:.]+$/, "$&Z"));
  if (!value || Number.isNaN(moment.valueOf())) return "";
  return new Date(moment - moment.getTimezoneOffset() * 60_000).toISOString().slice(0, 19);
}

/** Show why something could not be loaded. */
export function trouble(problem) {
  $("trouble").hidden = !problem;
  if (problem) say($("trouble"), problem.parameter ? `${title(problem.parameter)}: ${problem.message}` : problem.message);
}
