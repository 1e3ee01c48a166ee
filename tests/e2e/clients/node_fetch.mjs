// Node's fetch: `node node_fetch.mjs URL BODY PAUSES_MS`.
const [url, body, pauses] = process.argv.slice(2);

for (const pause of pauses.split(',')) {
  await new Promise((wake) => setTimeout(wake, Number(pause)));
  const response = await fetch(url, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body });
  console.log(`${response.status} HTTP/1.1 ${(await response.text()).trim()}`);
}
