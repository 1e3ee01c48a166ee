// Node's http module with an agent that keeps connections: `node node_agent.mjs URL BODY PAUSES_MS`.
import http from 'node:http';

const [url, body, pauses] = process.argv.slice(2);
const agent = new http.Agent({ keepAlive: true });

function post() {
  return new Promise((resolve, reject) => {
    const headers = { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(body) };
    const request = http.request(url, { method: 'POST', agent, headers }, (response) => {
      let text = '';
      response.on('data', (piece) => { text += piece; });
      response.on('end', () => resolve(`${response.statusCode} HTTP/${response.httpVersion} ${text.trim()}`));
    });
    request.on('error', reject);
    request.end(body);
  });
}

for (const pause of pauses.split(',')) {
  await new Promise((wake) => setTimeout(wake, Number(pause)));
  console.log(await post());
}
agent.destroy();
