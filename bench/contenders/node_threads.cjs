// A Node.js worker thread for each request: the thread submits the job and waits for a message with the callback.
"use strict";

const crypto = require("node:crypto");
const http = require("node:http");
const { Worker, isMainThread, parentPort, workerData } = require("node:worker_threads");

if (isMainThread) {
  serve();
} else {
  runJob(workerData);
}

function serve() {
  const workers = new Map();

  const server = http.createServer((request, response) => {
    const chunks = [];
    request.on("data", (chunk) => chunks.push(chunk));
    request.on("end", () => {
      const body = Buffer.concat(chunks).toString();
      if (request.method === "POST" && request.url === "/queueJob") {
        queueJob(body, response);
      } else if (request.method === "POST" && request.url.startsWith("/callback/")) {
        callback(request.url.slice("/callback/".length), body, response);
      } else {
        answer(response, 404, "{}");
      }
    });
  });

  function queueJob(body, response) {
    const token = crypto.randomBytes(32).toString("base64url");
    const callback = `http://127.0.0.1:${server.address().port}/callback/${token}`;
    const job = { ...JSON.parse(body), wait: false, callback };
    const worker = new Worker(__filename, { workerData: { job, url: process.env.JOB_SERVER_URL } });
    workers.set(token, worker);
    const timer = setTimeout(() => worker.terminate(), 30_000);
    let result = null;
    worker.on("message", (message) => { result = message; });
    worker.on("error", () => {});
    worker.on("exit", () => {
      clearTimeout(timer);
      workers.delete(token);
      if (result === null) {
        answer(response, 500, "{}");
      } else {
        answer(response, 200, result);
      }
    });
  }

  function callback(token, body, response) {
    const worker = workers.get(token);
    if (worker === undefined) {
      answer(response, 404, "{}");
    } else {
      worker.postMessage(body);
      answer(response, 200, '{"status": "accepted"}');
    }
  }

  server.listen({ host: "127.0.0.1", port: Number(process.env.PORT), backlog: 4096 }, () => {
    console.log(`listening on http://127.0.0.1:${server.address().port}`);
  });
}

function answer(response, status, body) {
  response.writeHead(status, { "Content-Type": "application/json", "Content-Length": Buffer.byteLength(body) });
  response.end(body);
}

function runJob({ job, url }) {
  parentPort.once("message", (callback) => {
    parentPort.postMessage(callback);
    parentPort.close();
  });
  const headers = { "Content-Type": "application/json", Connection: "close" };
  const request = http.request(url, { method: "POST", headers, agent: false }, (reply) => reply.resume());
  request.end(JSON.stringify(job));
}
