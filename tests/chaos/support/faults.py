"""The faults of the soak: what a job may ask for, and the answers that its client may then get."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["FAULTS", "Fault"]

_RESULT = frozenset({(200, None)})


@dataclass(frozen=True, slots=True)
class Fault:
    """A job's fields, and the allowed statuses and codes of its answer."""

    fields: dict[str, Any]
    allowed: frozenset[tuple[int, str | None]] = field(default=_RESULT)


def _fails(*codes: str, **fields: Any) -> Fault:
    return Fault(fields, frozenset((500, code) for code in codes))


_OVERDUE = "deadline-exceeded"

FAULTS: dict[str, Fault] = {
    "none": Fault({}),
    "slow": Fault({"duration": 0.8}),
    "early": Fault({"fault": "early"}),
    "duplicate": Fault({"fault": "duplicate"}),
    "many": Fault({"fault": "many", "times": 10}),
    "forged": Fault({"fault": "forged"}),
    "garbage callback": Fault({"fault": "garbage-callback"}),
    "huge callback": Fault({"fault": "huge-callback"}),
    "big result": Fault({"fault": "big-result"}),
    "refused first": Fault({"fault": "refuse-first"}),
    "lost reply": Fault({"fault": "drop-but-run"}),
    "reported failed": _fails("job-failed", fault="failed"),
    "rejected": _fails("job-rejected", fault="reject"),
    "server error": _fails("job-rejected", fault="server-error"),
    "redirect": _fails("job-rejected", fault="redirect"),
    "garbage": _fails("bad-job-server-reply", fault="garbage"),
    "short body": _fails("bad-job-server-reply", fault="short-body"),
    "endless body": _fails("bad-job-server-reply", fault="endless-body"),
    "deep": _fails("bad-job-server-reply", fault="deep-json"),
    "dropped": _fails("job-server-unavailable", fault="drop"),
    "reset": _fails("job-server-unavailable", fault="reset"),
    "never": _fails(_OVERDUE, fault="never"),
    "hang": _fails(_OVERDUE, fault="hang"),
    "late": _fails(_OVERDUE, fault="late", delay=2.5),
    **{
        f"{act} in {phase}": _fails("worker-died", chaos=f"{act}@{phase}", duration=0.4)
        for act in ("sigkill", "sigsegv", "exit0", "exit1")
        for phase in ("p1", "p3", "p4", "p5")
    },
    **{f"{act} in p2": _fails("worker-died", chaos=f"{act}@p2", fault="hang") for act in ("sigkill", "exit0", "exit1")},
    # If the fork server is killed too, its process group is orphaned, and the kernel resumes stopped workers.
    **{
        f"stopped in {phase}": Fault(
            {"chaos": f"sigstop@{phase}", "duration": 0.4}, _RESULT | {(500, _OVERDUE), (500, "worker-died")}
        )
        for phase in ("p1", "p3", "p4", "p5")
    },
    "sigkill in p6": Fault({"chaos": "sigkill@p6"}),
    "out of memory": _fails("worker-died", chaos="memory@p4"),
    "oversize": _fails("worker-died", chaos="oversize@p4"),
    "pickle": _fails("worker-died", chaos="pickle@p4"),
    "child": _fails(_OVERDUE, chaos="child@p3", fault="never"),
}
