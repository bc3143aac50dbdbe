"""Calls that an engine keeps ready, by the shape of their arrays."""

from typing import Generic, TypeVar

Key = TypeVar("Key")
Call = TypeVar("Call")

# Calls take turns over few shapes, as a rule two: the usual batch, and what is left at the end. Where they are more,
# one that comes often takes the place of all. A call takes 25 to 90 us to make and saves 5 to 10: with one made each
# time, batches of 1 to 20 rows of 64-100-10 by turns took 89 us forward; so they take 6.
MOST_SHAPES = 8
OFTEN = 64
MOST_COUNTED = 1024


class KeptCalls(Generic[Key, Call]):
    """At most MOST_SHAPES calls."""

    def __init__(self) -> None:
        self._calls: dict[Key, Call] = {}
        self._asked: dict[Key, int] = {}  # how often, while there was no room
        self.get = self._calls.get

    def has_room_for(self, key: Key) -> bool:
        """Whether to make a call for this shape: there is room, or it has been asked for often, which makes room."""
        if key in self._calls or len(self._calls) < MOST_SHAPES:
            return True
        if len(self._asked) >= MOST_COUNTED:  # threads may pass it by one
            self._asked.clear()
        asked = self._asked[key] = self._asked.get(key, 0) + 1
        if asked < OFTEN:
            return False
        self._calls.clear()
        self._asked.clear()
        return True

    def keep(self, key: Key, call: Call) -> None:
        """Keep a call for whose shape there is room."""
        self._calls[key] = call
