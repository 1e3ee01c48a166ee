"""Makes `import httpx` fail in the proxies that the tests start, as for users: only tests need it.

The AWS SDK would load it if it could, which takes 40 ms of CPU.
"""

from __future__ import annotations

raise ModuleNotFoundError("No module named 'httpx'", name="httpx")
