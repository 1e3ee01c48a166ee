"""The options of the job server."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How the job server behaves, but not where it listens."""

    #: Seconds a job takes, unless the job says otherwise.
    duration_s: float = 0.5
    #: True: one connection at a time per account, like the real job server.
    account_queue: bool = True
    #: Makes ids and proofs repeat from run to run; None: they are different each time.
    seed: int | None = None
    #: How often a callback that got no 2xx is sent again. The real job server never does.
    callback_retries: int = 0
    #: The pause before such a callback is sent again, in seconds.
    callback_retry_pause_s: float = 0.2
    #: How many submissions, and how many callbacks, the ledger keeps.
    ledger_entries: int = 100_000
    #: Whether anybody may see the ledger. With a callback address from it, one could answer in the job server's place.
    shows_ledger: bool = True
