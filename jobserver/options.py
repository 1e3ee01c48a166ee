"""What the job server can be told when it starts."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How the job server behaves; where it listens is not its own business."""

    #: Seconds a job takes, unless the job says otherwise.
    duration_s: float = 0.5
    #: True: one connection at a time per account, as the real job server has it.
    account_queue: bool = True
    #: Makes ids and proofs repeat from run to run; None: they are different each time.
    seed: int | None = None
    #: How often a callback that got no 2xx is sent again. The real job server never does.
    callback_retries: int = 0
    #: The pause before such a callback is sent again, in seconds.
    callback_retry_pause_s: float = 0.2
    #: How many submissions, and how many callbacks, the ledger keeps.
    ledger_entries: int = 100_000
    #: Whether anybody may see the ledger. It has callback addresses, and who knows one may answer for the job server.
    shows_ledger: bool = True
