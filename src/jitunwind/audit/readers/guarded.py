"""What keeps an audit going where a reader does not: it is opened anew, and a state at which it failed is unknown."""

from collections.abc import Callable, Sequence

from jitunwind.audit.readers import Outcome, Reader, Table
from jitunwind.audit.records import Record
from jitunwind.errors import ReaderFailed
from jitunwind.rows import Unknown

_MOST_FAILURES = 5
"""With the same tables: each costs a start, or a wait of some seconds."""
_AT_ONCE = 64


class Guarded:
    """A `Reader`: that which `start` opens, again where it fails. ReaderFailed where it fails with tables alone."""

    def __init__(self, start: Callable[[], Reader]) -> None:
        self._start, self._reader = start, start()
        self.name, self.version = self._reader.name, self._reader.version
        self._told: tuple[Sequence[Table], Sequence[tuple[int, int]]] = ((), ())
        self._failures = 0

    def close(self) -> None:
        self._reader.close()

    def tell(self, tables: Sequence[Table], inside: Sequence[tuple[int, int]]) -> None:
        if set(tables) != set(self._told[0]):
            self._failures = 0
        self._told = tables, inside
        self._reader.tell(tables, inside)

    def _restart(self) -> None:
        self._reader.close()
        self._reader = self._start()
        self._reader.tell(*self._told)

    def ask(
        self, records: Sequence[Record], back: int, memory: Sequence[tuple[int, bytes]]
    ) -> list[Outcome | Unknown]:
        outcomes: list[Outcome | Unknown] = []
        for at in range(0, len(records), _AT_ONCE):
            some = records[at : at + _AT_ONCE]
            try:
                if self._failures < _MOST_FAILURES:
                    outcomes += self._reader.ask(some, back, memory)
                    continue
            except ReaderFailed:
                self._restart()
            outcomes += [self._ask_alone(record, back, memory) for record in some]
        return outcomes

    def _ask_alone(self, record: Record, back: int, memory: Sequence[tuple[int, bytes]]) -> Outcome | Unknown:
        """After one of some has made the reader fail: which one, and how."""
        if self._failures >= _MOST_FAILURES:
            return Unknown(f"{self.name} has failed {_MOST_FAILURES} times, and is asked no more")
        try:
            return self._reader.ask([record], back, memory)[0]
        except ReaderFailed as error:
            self._failures += 1
            self._restart()
            return Unknown(str(error))
