"""Makes `import rich` fail in the proxies that the tests start, as for users: only development tools need it.

structlog would load it if it could, which makes each start a quarter slower.
"""

from __future__ import annotations

raise ModuleNotFoundError("No module named 'rich'", name="rich")
