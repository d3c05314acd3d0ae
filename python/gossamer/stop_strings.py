"""Stop strings on text that arrives in pieces."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

__all__ = ["StopStringMatcher"]


@dataclass(slots=True)
class _Node:
    """A trie node: the text on the path to it is a prefix of a stop string."""

    depth: int = 0
    children: dict[str, _Node] = field(default_factory=dict)
    fallback: _Node | None = None  # node of the longest proper suffix that is in the trie; None at the root
    match: str | None = None  # the longest stop string that ends here


class StopStringMatcher:
    """Finds the first stop string in a text fed in pieces, and says which text can no longer be part of one.

    The match is the occurrence that ends first; of several ending there, the longest. It depends on the text alone, not on where the
    pieces are cut. An Aho-Corasick automaton: the cost is linear in the text, whatever the number of stop strings.

    Parameters
    ----------
    stops : iterable of str
        None may be empty.
    include : bool
        Whether the text given out ends with the stop string, or before it.
    """

    def __init__(self, stops: Iterable[str], include: bool = False) -> None:
        self._root = _Node()
        self._include = include
        for stop in stops:
            if not stop:
                raise ValueError("stop must not hold an empty string")
            self._insert(stop)
        self._link()
        self._node = self._root
        self._held = ""  # fed but not given out: a suffix that may yet become a stop string, as long as the node is deep
        self.matched: str | None = None

    def feed(self, text: str, *, match: bool = True) -> str:
        """Take the next piece; return the text that is now safe to show. After a match it is always "".

        With ``match=False`` (min_tokens not reached) the text passes through and cannot be part of a match.
        """
        if self.matched is not None:
            return ""
        if not match:
            self._node, held = self._root, self._held
            self._held = ""
            return held + text
        text = self._held + text
        position = len(self._held)
        while position < len(text):
            self._advance(text[position])
            position += 1
            if self._node.match is not None:
                self.matched = self._node.match
                self._held = ""
                return text[:position] if self._include else text[: position - len(self.matched)]
        safe = len(text) - self._node.depth
        self._held = text[safe:]
        return text[:safe]

    def flush(self) -> str:
        """Return the text held back: the end has come without a stop string."""
        held, self._held = self._held, ""
        self._node = self._root
        return held

    def _insert(self, stop: str) -> None:
        node = self._root
        for character in stop:
            node = node.children.setdefault(character, _Node(depth=node.depth + 1))
        node.match = stop

    def _link(self) -> None:
        queue = deque(self._root.children.values())
        for child in queue:
            child.fallback = self._root
        while queue:
            node = queue.popleft()
            for character, child in node.children.items():
                child.fallback = self._next(node.fallback or self._root, character)
                child.match = child.match or child.fallback.match
                queue.append(child)

    def _next(self, node: _Node, character: str) -> _Node:
        while character not in node.children:
            if node.fallback is None:
                return node
            node = node.fallback
        return node.children[character]

    def _advance(self, character: str) -> None:
        self._node = self._next(self._node, character)
