"""What the fork server does to its own memory before the first fork, each in an interpreter of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from shared import strict_json

_CAN_BE_IMMORTAL = sys.version_info >= (3, 12)
_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage")


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


def test_code_that_was_called_is_copied_and_does_the_same() -> None:
    """Functions, methods and closures called get a copy of their code; what was not called keeps its own."""
    assert _run(
        """
        from worker.before_fork.gathering import gather

        def outer(a, *, b=2):
            def inner(c): return a + b + c
            return inner
        class Thing:
            def double(self, x): return self.more(x) * 2
            def more(self, x): return x + 1
        def never(): pass
        codes = outer.__code__, Thing.double.__code__, Thing.more.__code__, never.__code__
        def run(): return outer(1)(3), Thing().double(4)
        before = run()
        gather(run)
        now = outer.__code__, Thing.double.__code__, Thing.more.__code__, never.__code__
        print(__import__("json").dumps([before == run(), *(a is b for a, b in zip(codes, now))]))
        """
    ) == [True, False, False, False, True]


def test_what_is_loaded_lies_on_the_heap_and_what_comes_later_does_not() -> None:
    """Memory for small objects comes from the heap until all is loaded; later, it is given back when it is free."""
    assert _run(
        """
        import json
        from worker.before_fork.heap import Heap, _heap

        def share_on_heap(things):
            begin, end = _heap()
            return sum(begin <= id(thing) < end for thing in things) / len(things)
        def resident():
            return int(open("/proc/self/statm").read().split()[1]) * 4096
        before = [object() for _ in range(100_000)]
        heap = Heap()
        loaded = [object() for _ in range(1_000_000)]
        heap.settle()
        size = resident()
        later = [object() for _ in range(2_000_000)]
        shares = share_on_heap(loaded) > 0.9, share_on_heap(later) < 0.1
        grown = resident() - size
        del later
        left = resident() - size
        print(json.dumps([*shares, left < grown / 4]))
        """
    ) == [True, True, True]


def test_new_small_objects_lie_together_whatever_was_freed_before() -> None:
    """Holes that loading left are filled: a hundred objects of many sizes touch few pages."""
    assert _run(
        """
        import json
        from worker.before_fork.heap import Heap

        def pages(): return len({id(thing) >> 12 for thing in [bytes(30 * n % 400) for n in range(100)]})
        heap = Heap()
        loaded = [bytes(30 * n % 400) for n in range(6_000)]
        del loaded[::7]
        with_holes = pages()
        heap.settle()
        print(json.dumps([with_holes > 45, pages() < 35]))
        """
    ) == [True, True]


def test_memory_from_before_between_and_after_can_be_freed_in_any_order() -> None:
    """Arenas that were mapped before, and those that came from malloc, may become empty, also in a child."""
    assert (
        _run(
            """
            import os
            from worker.before_fork.heap import Heap

            before = [[object() for _ in range(300_000)] for _ in range(2)]
            heap = Heap()
            between = [[object() for _ in range(300_000)] for _ in range(2)]
            del before[0], between[0]
            between.append([object() for _ in range(300_000)])
            heap.settle()
            pid = os.fork()
            before.clear()
            between.clear()
            big = [bytes(300_000) for _ in range(100)]
            after = [object() for _ in range(300_000)]
            if pid == 0:
                os._exit(0)
            print(os.waitpid(pid, 0)[1])
            """
        )
        == 0
    )


def test_without_glibc_memory_comes_from_where_it_did() -> None:
    """Another C library has no mallopt: nothing is changed, and nothing fails."""
    assert _run(
        """
        import ctypes, types
        ctypes.CDLL = lambda name: types.SimpleNamespace()
        from worker.before_fork.heap import Heap, _heap
        heap = Heap()
        things = [object() for _ in range(400_000)]
        begin, end = _heap()
        heap.settle()
        print(int(sum(begin <= id(thing) < end for thing in things) < 40_000))
        """
    )


@pytest.mark.skipif(not _HUGE_PAGES.exists(), reason="this kernel has no huge pages")
def test_the_heap_is_made_of_huge_pages() -> None:
    """Most of what was loaded lies in huge pages, as the kernel counts them."""
    assert _run(
        """
        from worker.before_fork.heap import Heap
        heap = Heap()
        things = [object() for _ in range(1_000_000)]
        heap.settle()
        rollup = open("/proc/self/smaps_rollup").read()
        print(int(int(rollup.partition("AnonHugePages:")[2].split()[0]) >= 12_000))
        """
    )
