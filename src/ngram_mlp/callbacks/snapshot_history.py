"""Keeps summaries of some snapshots until figures are drawn from them."""

from collections.abc import Callable
from typing import Any

from ngram_mlp.diagnostics.snapshot import Snapshot


class SnapshotHistory:
    """Keeps the first snapshot of a run, one from its middle, and the last.

    Args:
        summarize: returns what to keep of a snapshot: tensors in dictionaries, which checkpoints can hold.
    """

    def __init__(self, summarize: Callable[[Snapshot], dict[str, Any]]) -> None:
        self._summarize = summarize
        self.kept: list[tuple[int, dict[str, Any]]] = []  # (update, summary) of the first and the middle one
        self._last: Snapshot | None = None

    def add(self, snapshot: Snapshot, updates: int) -> None:
        """Adds a snapshot of a run of `updates` updates; keeps its summary if it is the first or a middle one."""
        if not self.kept or (len(self.kept) == 1 and updates / 2 <= snapshot.update < updates - 1):
            self.kept.append((snapshot.update, self._summarize(snapshot)))
        self._last = snapshot

    def summaries(self) -> dict[str, dict[str, Any]]:
        """Returns the summaries by heading, such as `update 5,000`."""
        kept = dict(self.kept)
        if self._last is not None and self._last.update not in kept:
            kept[self._last.update] = self._summarize(self._last)
        return {f"update {update:,}": kept[update] for update in sorted(kept)}
