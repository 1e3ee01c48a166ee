"""httpx, with a client: `python python_httpx.py URL BODY PAUSES_MS`."""

import sys
import time

import httpx

url, body, pauses = sys.argv[1:]
with httpx.Client(timeout=40, trust_env=False) as client:
    for pause in pauses.split(","):
        time.sleep(int(pause) / 1000)
        response = client.post(url, content=body, headers={"Content-Type": "application/json"})
        print(response.status_code, response.http_version, response.text.strip(), flush=True)
