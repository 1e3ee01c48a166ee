"""Remembers how often each job has been refused."""

from collections import OrderedDict

from jobserver.faults import Reply
from jobserver.protocol import Submission


class Refusals:
    """Decides which attempts at a submission are refused with Retry-After."""

    def __init__(self, limit: int = 100_000) -> None:
        """Remember at most `limit` jobs; the one not seen for longest is forgotten first."""
        self._limit = limit
        self._times: OrderedDict[str, int] = OrderedDict()

    def refuses(self, submission: Submission) -> bool:
        """Return whether this attempt is refused, and count it if so."""
        match submission.fault.reply:
            case Reply.REFUSE:
                return True
            case Reply.REFUSE_FIRST:
                return self._first(submission.job_key, submission.times)
            case _:
                return False

    def _first(self, job_key: str, times: int) -> bool:
        refused = self._times.pop(job_key, 0)
        if refused >= times:
            # Accepted: a later job with the same name starts from zero.
            return False
        self._times[job_key] = refused + 1
        if len(self._times) > self._limit:
            self._times.popitem(last=False)
        return True
