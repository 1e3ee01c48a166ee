// The jobs in flight: how many are in which state, and the oldest of them.

import { $, duration, link, make, paint, say, shares } from "./dom.js";
import { stopButton } from "./layout.js";

/** A job's id that leads to the job. */
export function jobLink(id) {
  return link(`job.html?id=${encodeURIComponent(id)}`, id, "id");
}

export class InFlight {
  /** Take the jobs of a snapshot. */
  show(snapshot) {
    shares($("job-states"), $("job-legend"), snapshot.in_flight);
    const body = $("oldest");
    const kept = new Map([...body.children].map((line) => [line.dataset.job, line]));
    const lines = snapshot.oldest.map(([id, state, age]) => {
      const line = kept.get(id) ?? this.#line(id);
      say(line.children[1], state);
      paint(line.children[1], state);
      say(line.children[2], duration(age * 1000));
      return line;
    });
    if (lines.length !== body.childElementCount || lines.some((line, index) => body.children[index] !== line)) {
      replaceKeepingFocus(body, lines);
    }
    $("no-jobs").hidden = lines.length > 0;
    body.closest(".scroll").hidden = !lines.length;
  }

  #line(id) {
    const stop = stopButton(id, () => {});
    const line = make("tr", "", make("td", "", jobLink(id)), make("td", "state"), make("td", "number"), make("td", "number", stop));
    line.dataset.job = id;
    return line;
  }
}

function replaceKeepingFocus(body, lines) {
  const focused = document.activeElement;
  for (const line of [...body.children]) if (!lines.includes(line)) line.remove();
  lines.forEach((line, index) => body.children[index] !== line && body.insertBefore(line, body.children[index] ?? null));
  if (body.contains(focused)) focused.focus();
}
