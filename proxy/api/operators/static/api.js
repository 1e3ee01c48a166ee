// Requests to the proxy. All addresses are relative to the page's.

/** An error with a text for people. */
export class Problem extends Error {
  /** `status`: of the answer; 0 if there was none. */
  constructor(status, document = {}) {
    super(document.detail || document.title || `The proxy answered ${status}.`);
    this.status = status;
    this.code = document.code ?? "";
    this.parameter = document.parameter ?? "";
  }
}

/** Return the proxy's answer to `GET address`, as an object. Throws Problem. */
export const ask = (address, signal) => request(address, { signal });

/** Send a command to the proxy and return its answer. Throws Problem. */
export function act(address, body) {
  const headers = { "X-Requested-By": "dashboard" }; // pages of other sites cannot send it
  if (body !== undefined) headers["Content-Type"] = "application/json";
  return request(address, { method: "POST", headers, body: body === undefined ? undefined : JSON.stringify(body) });
}

async function request(address, { headers = {}, ...more }) {
  let answer;
  try {
    answer = await fetch(address, { ...more, headers: { Accept: "application/json", ...headers } });
  } catch (exc) {
    if (exc.name === "AbortError") throw exc;
    throw new Problem(0, { detail: "The proxy does not answer." });
  }
  if (answer.status === 401) logIn();
  const document = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Problem(answer.status, document);
  return document;
}

/** Go to the page for logging in, and come back afterwards. */
function logIn() {
  const page = location.pathname.split("/").pop() + location.search;
  location.assign(`login?next=${encodeURIComponent(page)}`);
}
