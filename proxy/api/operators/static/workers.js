// All workers in one table, with elements only for the visible rows: thousands of workers cost as much as twenty.

import { $, duration, make, memory, paint, say, shares } from "./dom.js";
import { jobLink } from "./in_flight.js";

const ROW_PX = 32;
const BEYOND = 6;
const AGE = 2;

export class Workers {
  #rows = [];
  #shown = [];
  #states = [];
  #column = AGE;
  #sign = -1;

  constructor() {
    $("worker-scroll").addEventListener("scroll", () => this.#draw(), { passive: true });
    $("worker-filter").addEventListener("change", () => this.#arrange());
    for (const button of document.querySelectorAll("[data-column]")) {
      button.addEventListener("click", () => this.#sortBy(Number(button.dataset.column), button));
    }
    new ResizeObserver(() => this.#draw()).observe($("worker-scroll"));
  }

  /** Take the workers of a snapshot. */
  show(snapshot) {
    if (!this.#states.length) {
      this.#states = snapshot.worker_states;
      $("worker-filter").append(...this.#states.map((state, index) => new Option(state, index)));
    }
    this.#rows = snapshot.workers;
    const counts = Object.fromEntries(this.#states.map((state) => [state, snapshot.workers_by_state[state] ?? 0]));
    shares($("worker-states"), $("worker-legend"), counts);
    const known = this.#rows.filter((row) => row[4] != null);
    const sum = known.reduce((total, row) => total + row[4], 0);
    say($("worker-count"), this.#rows.length);
    say($("memory"), known.length ? `${memory(sum / known.length)} private each` : "");
    this.#arrange();
  }

  #sortBy(column, button) {
    this.#sign = this.#column === column ? -this.#sign : column < 2 ? 1 : -1;
    this.#column = column;
    for (const head of document.querySelectorAll("#worker-scroll th[aria-sort]")) head.ariaSort = "none";
    button.closest("th").ariaSort = this.#sign > 0 ? "ascending" : "descending";
    this.#arrange();
  }

  #arrange() {
    const state = $("worker-filter").value;
    const [column, sign] = [this.#column, this.#sign];
    this.#shown = state === "" ? [...this.#rows] : this.#rows.filter((row) => row[1] === Number(state));
    this.#shown.sort((a, b) => sign * ((a[column] ?? -1) - (b[column] ?? -1)) || a[0] - b[0]);
    this.#draw();
  }

  #draw() {
    const box = $("worker-scroll");
    const first = Math.max(0, Math.floor(box.scrollTop / ROW_PX) - BEYOND);
    const last = Math.min(this.#shown.length, first + Math.ceil(box.clientHeight / ROW_PX) + 2 * BEYOND);
    const body = $("worker-rows");
    const wanted = last - first + 2;
    while (body.childElementCount > wanted) body.lastElementChild.remove();
    while (body.childElementCount < wanted) body.append(make("tr", "", ...Array.from({ length: 6 }, () => make("td"))));
    space(body.firstElementChild, first);
    space(body.lastElementChild, this.#shown.length - last);
    for (let index = first; index < last; index++) this.#fill(body.children[index - first + 1], this.#shown[index]);
  }

  #fill(line, [pid, state, age, done, kib, job]) {
    const cells = line.children;
    line.style.height = "";
    line.removeAttribute("aria-hidden");
    for (const cell of cells) cell.removeAttribute("style"); // it may have been a spacer before
    [0, 2, 3, 4].forEach((column) => (cells[column].className = "number"));
    say(cells[0], pid);
    say(cells[1], this.#states[state]);
    paint(cells[1], this.#states[state]).className = "state";
    say(cells[2], duration(age * 1000));
    say(cells[3], done);
    say(cells[4], memory(kib));
    if (job === null) say(cells[5], "–");
    else if (cells[5].textContent !== job) cells[5].replaceChildren(jobLink(job));
    cells[5].className = "";
  }
}

function space(line, rows) {
  line.style.height = `${rows * ROW_PX}px`;
  line.ariaHidden = "true";
  for (const cell of line.children) {
    if (cell.hasChildNodes()) cell.replaceChildren();
    cell.className = "";
    cell.style.height = "inherit";
    cell.style.border = rows ? "" : "0";
  }
}
