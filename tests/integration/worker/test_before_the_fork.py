"""What the fork server does to its own memory before the first fork, each in an interpreter of its own."""

from __future__ import annotations

import subprocess
import sys
from textwrap import dedent

from shared import strict_json

_CAN_BE_IMMORTAL = sys.version_info >= (3, 12)


def _run(code: str) -> object:
    """Run `code` and return what it printed, as JSON."""
    done = subprocess.run([sys.executable, "-c", dedent(code)], capture_output=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return strict_json.loads(done.stdout)


def test_an_object_that_was_there_is_not_counted_any_more() -> None:
    """A reference more changes nothing in it, from Python 3.12 on; objects that come later are counted as ever."""
    assert _run(
        """
        import sys
        from worker.before_fork.immortal import make_immortal

        class Old: pass
        old = Old()
        made = make_immortal()
        before = sys.getrefcount(old), sys.getrefcount(Old), sys.getrefcount(sys)
        more = [old, Old, sys] * 10
        after = sys.getrefcount(old), sys.getrefcount(Old), sys.getrefcount(sys)
        one = Old()
        new = sys.getrefcount(one)
        several = [one] * 10
        print(__import__("json").dumps([made > 1000, before == after, sys.getrefcount(one) - new]))
        """
    ) == [_CAN_BE_IMMORTAL, _CAN_BE_IMMORTAL, 10]


def test_where_objects_are_always_counted_nothing_is_done() -> None:
    """An interpreter whose None is counted has no immortal objects; there, nothing is written anywhere."""
    assert (
        _run(
            """
            from worker.before_fork import immortal
            immortal._count = lambda thing: 1234
            print(immortal.make_immortal())
            """
        )
        == 0
    )
