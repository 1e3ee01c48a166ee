// The curl command for the data on a page.

import { copyButton, make } from "./dom.js";
import { session } from "./layout.js";

/** A button that copies the command for `address()`, which is called when the button is pressed. */
export function curlButton(address) {
  const place = make("span");
  session.then(({ guarded }) => place.append(copyButton("Copy as curl", () => {
    const key = guarded ? ' -H "Authorization: Bearer $KEY"' : "";
    return `curl${key} '${new URL(address(), location.href).href.replaceAll("'", "%27")}'`;
  })));
  return place;
}
