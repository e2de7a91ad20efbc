"""Predictions of a member as scores of components, which take less room than a number for each row and target.

A model that solves k components of the targets predicts a row by k scores, and its target space leads them back
(`rapids_pipeline.stack.target_space`). The scores are kept, and rows are led back where they are read, a block at a
time: with 14,000 rows × 13,000 targets the predictions of a run's fits are 50 MB instead of 5 GB. Of members that
solve the targets themselves a part holds these.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from rapids_pipeline.backend.arrays import Float32, Indices, RowSource, row_blocks
from rapids_pipeline.backend.state import State
from rapids_pipeline.backend.store import Kept
from rapids_pipeline.stack.target_space import TargetSpace


class Part(NamedTuple):
    """Some rows' predictions: scores (m, k) float32 in a space; without one the targets themselves, (m, t).

    The predictions of a row are the sum of those of its parts, each divided by its `over`.
    """

    rows: Indices
    scores: Float32
    space: TargetSpace | None = None
    over: int = 1

    def predicted(self, which: Indices) -> Float32:
        """Return what is predicted of the rows at some places of `rows`, (len(which), t), before it is divided."""
        scores = self.scores[which]
        return scores if self.space is None else self.space.inverse_transform(scores)


@dataclass(frozen=True, eq=False)
class Compact(RowSource):
    """Predictions of n rows by parts.

    Attributes
    ----------
    n_rows, n_targets : int
    parts : sequence of Part
        A row has one or several; without any, it is predicted to be 0.
    """

    n_rows: int
    n_targets: int
    parts: Sequence[Part]

    @classmethod
    def of(cls, predictions: Float32) -> "Compact":
        """Return predictions (n, t) as they are."""
        n, t = predictions.shape
        return cls(n, t, [Part(np.arange(n), predictions)])

    @classmethod
    def placed(
        cls, n_rows: int, n_targets: int, groups: Iterable[tuple[Indices, "Compact", int]]
    ) -> "Compact":
        """Return predictions of n rows from groups: their rows, distinct, their predictions, and what divides these."""
        parts = [
            Part(rows[part.rows], part.scores, part.space, part.over * over)
            for rows, group, over in groups
            for part in group.parts
        ]
        return cls(n_rows, n_targets, parts)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and targets."""
        return self.n_rows, self.n_targets

    def __getitem__(self, rows: slice | Indices) -> Float32:
        """Return the predictions of some rows, all different, (len(rows), n_targets)."""
        wanted = np.arange(self.n_rows)[rows]
        place = np.full(self.n_rows, -1)
        place[wanted] = np.arange(len(wanted))
        found = np.zeros((len(wanted), self.n_targets), dtype=np.float32)
        for part in self.parts:
            there = place[part.rows]
            inside = np.flatnonzero(there >= 0)
            for some in row_blocks(len(inside)):
                predicted = part.predicted(inside[some])
                found[there[inside[some]]] += predicted if part.over == 1 else predicted / part.over
        return found

    def take(self, which: Indices) -> "Compact":
        """Return the predictions of some rows, all different."""
        place = np.full(self.n_rows, -1)
        place[which] = np.arange(len(which))
        parts = []
        for part in self.parts:
            inside = np.flatnonzero(place[part.rows] >= 0)
            if len(inside):
                parts.append(part._replace(rows=place[part.rows[inside]], scores=part.scores[inside]))
        return Compact(len(which), self.n_targets, parts)


@dataclass(frozen=True, eq=False)
class SideBySide(RowSource):
    """Matrices of the same rows beside each other."""

    matrices: Sequence[RowSource]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, and columns of all matrices."""
        return self.matrices[0].shape[0], sum(one.shape[1] for one in self.matrices)

    def __getitem__(self, rows: slice | Indices) -> Float32:
        """Return some rows, all different."""
        return np.hstack([one[rows] for one in self.matrices])

    def take(self, which: Indices) -> "SideBySide":
        """Return some rows, all different."""
        return SideBySide([one.take(which) for one in self.matrices])


def keep(predictions: Sequence[Compact]) -> Kept:
    """Return predictions, group by group, as a finished fit; a space that several share is kept once."""
    spaces: list[TargetSpace] = []
    groups: dict[str, Any] = {}
    for number, group in enumerate(predictions):
        parts = {}
        for place, part in enumerate(group.parts):
            if part.space is not None and part.space not in spaces:
                spaces.append(part.space)
            which = -1 if part.space is None else spaces.index(part.space)
            parts[f"part_{place}"] = {
                "rows": np.asarray(part.rows, np.int64),
                "scores": part.scores,
                "space": which,
            }
        groups[f"group_{number}"] = {"n_rows": group.n_rows, "n_targets": group.n_targets, **parts}
    states = {
        f"space_{number}": {"settings": space.settings(), **space.state()}
        for number, space in enumerate(spaces)
    }
    return Kept.of_state({**groups, **states})


def kept(fit: Kept) -> list[Compact]:
    """Return the predictions of a finished fit that `keep` made."""
    state = fit.state
    names = [name for name in state if name.startswith("space_")]
    spaces = [TargetSpace.from_state(state[f"space_{number}"]) for number in range(len(names))]

    def part(found: State) -> Part:
        which = found["space"]
        return Part(found["rows"], found["scores"], None if which < 0 else spaces[which])

    groups = [state[f"group_{number}"] for number in range(len(state) - len(names))]
    return [
        Compact(
            group["n_rows"],
            group["n_targets"],
            [part(group[f"part_{place}"]) for place in range(len(group) - 2)],
        )
        for group in groups
    ]
