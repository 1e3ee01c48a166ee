// The jobs in flight: how many are in which state, and the oldest ones.

import { $, duration, link, make, paint, replaceKeepingFocus, say, shares } from "./dom.js";
import { stopButton } from "./layout.js";

/** A job's id as a link to the job. */
export function jobLink(id) {
  return link(`job.html?id=${encodeURIComponent(id)}`, id, "id");
}

/** A job's progress, as last reported by its job server. */
export function progressText(progress) {
  return progress ? `${progress.state || "unnamed"}, ${progress.count} in all` : "";
}

export class InFlight {
  /** Take the jobs of a snapshot. */
  show(snapshot) {
    shares($("job-states"), $("job-legend"), snapshot.in_flight);
    const body = $("oldest");
    const kept = new Map([...body.children].map((line) => [line.dataset.job, line]));
    const lines = snapshot.oldest.map((job) => {
      const line = kept.get(job.job_id) ?? this.#line(job.job_id);
      const [, state, age, , profile, remoteId, progress] = line.children;
      paint(state, job.state);
      say(state, job.state);
      say(age, duration(job.age_s * 1000));
      say(profile, job.profile);
      say(remoteId.firstChild, job.remote_id ?? "");
      say(progress.firstChild, progressText(job.progress));
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
    const line = make("tr", "",
      make("td", "", jobLink(id)),
      make("td", "state"),
      make("td", "number"),
      make("td", "number", stop), // early, to be visible on a phone
      make("td"),
      make("td", "", make("span", "words")),
      make("td", "", make("span", "words")));
    line.dataset.job = id;
    return line;
  }
}
