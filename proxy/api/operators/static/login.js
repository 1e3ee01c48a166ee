// Browsers do not send the session's cookie after a link from another site. A request from this page includes it.

const answer = await fetch("session").catch(() => null);
if (answer?.ok) location.replace(location.href);
