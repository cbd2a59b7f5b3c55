"""What every sink of the journal must do, as tests: for whoever writes one.

    class TestMySink(AuditSinkContract):
        @pytest.fixture(autouse=True)
        def _place(self, tmp_path): self.path = tmp_path / "x"
        def make(self): return MySink({"path": str(self.path)})
        def held(self): return read(self.path)

It needs no package of its own: any runner that calls methods named ``test_*`` will do.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from common.domain.audit_chain import START, SealedRecord, seal_all
from common.ports import AuditSink


class AuditSinkContract(ABC):
    """Subclass it, and say how a sink is made and what it holds."""

    __test__ = False

    def __init_subclass__(cls) -> None:
        """A subclass is a test."""
        cls.__test__ = True

    @abstractmethod
    def make(self) -> AuditSink:
        """A new sink on the same place as those before it in this test."""

    @abstractmethod
    def held(self) -> Sequence[SealedRecord]:
        """What is safe in that place by now, in its order."""

    def test_what_is_safe_is_there_whole_and_in_order(self) -> None:
        """``write`` answers with the number of the last one that is safe; in the end that is all."""
        given, sink = _records(40), self.make()
        for start in range(0, 40, 10):
            safe = sink.write(given[start : start + 10])
            _must(
                0 <= safe <= start + 10,
                f"write answered {safe}, and only {start + 10} records had been given",
            )
            _must([*self.held()][:safe] == given[:safe], "what is called safe is not there as it was given")
        _settle(sink, 40)
        _must(list(self.held()) == given, "the records are not there as they were given")
        sink.close()

    def test_nothing_given_is_nothing_done(self) -> None:
        """``write`` is called with no records while nothing comes."""
        sink = self.make()
        _must(sink.write([]) == 0, "nothing was given, so nothing is safe")
        sink.write(_records(3))
        _settle(sink, 3)
        _must(len(self.held()) == 3, "a call without records changed what is there")
        sink.close()

    def test_what_comes_again_is_there_once(self) -> None:
        """The keeper died before it remembered: to the next sink on this place the same records come again."""
        given = _records(30)
        first = self.make()
        first.write(given[:20])
        _settle(first, 20)
        first.close()
        second = self.make()
        second.write(given[10:25])
        second.write(given[20:])
        _settle(second, 30)
        _must(list(self.held()) == given, "what came again was lost, or stands there twice")
        second.close()

    def test_whatever_a_caller_may_have_sent_is_kept(self) -> None:
        """Names hold any character, and as many as a value may have."""
        told = {"kind": "x", "capability": "a\x00b\n\"'\\%s{}\u2028\U0001f600", "detail": "\u00e4" * 500}
        given = seal_all(START, [("1000-0", told), ("1000-1", {"kind": "y"})])
        sink = self.make()
        sink.write(given)
        _settle(sink, 2)
        _must(list(self.held()) == given, "a record did not come out as it was given")
        sink.close()


def _records(count: int) -> list[SealedRecord]:
    return seal_all(
        START, [(f"{number}000-0", {"kind": "x", "detail": str(number)}) for number in range(count)]
    )


def _settle(sink: AuditSink, last: int) -> None:
    """As the keeper does while nothing comes, until all is safe."""
    for _ in range(100):
        safe = sink.write([])
        if safe == last:
            return
    _must(False, f"after many calls without records only {safe} of {last} records are safe")


def _must(true: bool, otherwise: str) -> None:  # noqa: FBT001 - a claim
    if not true:
        raise AssertionError(otherwise)
