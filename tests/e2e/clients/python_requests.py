"""requests, with a session: `python python_requests.py URL BODY PAUSES_MS`."""

import sys
import time

import requests

url, body, pauses = sys.argv[1:]
with requests.Session() as session:
    for pause in pauses.split(","):
        time.sleep(int(pause) / 1000)
        response = session.post(url, data=body, headers={"Content-Type": "application/json"}, timeout=40)
        print(response.status_code, "HTTP/1.1", response.text.strip(), flush=True)
