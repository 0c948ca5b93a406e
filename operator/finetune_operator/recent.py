"""What was found out of late, so that it is not found out again at every pass."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """Keeps one value for each of the ``most`` keys that came last, and the version of the facts that it was computed from."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: OrderedDict[Key, tuple[Hashable, Value]] = OrderedDict()

    def get(self, key: Key, version: Hashable, compute: Callable[[], Value]) -> Value:
        """Return what is kept of ``key``, computed where nothing is, or where it is of another ``version``."""
        known = self._known.get(key)
        if known is not None and known[0] == version:
            return known[1]
        value = compute()
        self.put(key, version, value)
        return value

    def find(self, key: Key, version: Hashable) -> Value | None:
        """Return what is kept of ``key`` and ``version``, or None."""
        known = self._known.get(key)
        return known[1] if known is not None and known[0] == version else None

    def put(self, key: Key, version: Hashable, value: Value) -> None:
        """Keep ``value``; the key that came first goes where there are too many."""
        self._known[key] = (version, value)
        if len(self._known) > self._most:
            self._known.popitem(last=False)

    def forget(self, key: Key) -> None:
        """Keep nothing of ``key``."""
        self._known.pop(key, None)
