"""Predictions of blocks of rows, so that memory does not grow with the number of pairs.

Predictions of a row do not depend on the rows beside it, so blocks of any size give the same numbers. What one block
takes is about 4 bytes × rows × genes for each member of the first level and twice more, besides the model itself.
"""

import re
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from features.rows import Rows
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.data.pairs import PairBatch
from rapids_pipeline.stack.model import StackModel
from rapids_pipeline.stack.nested import Matrix
from rapids_pipeline.stack.saved import SavedModel

BLOCK_BYTES = 2**28
"""Bytes of a block by default: predictions, and `VALUES_A_ROW` for features."""
VALUES_A_ROW = 8192
"""float32 values that features and kernel of a row take, about."""
ROWS_AT_ONCE = 512
"""Rows of a block that the second level predicts at once."""
MOLECULES_AT_ONCE = 4096
"""Molecules featurised at once."""
FEATURE_BYTES = 2**27
"""Features of molecules that are kept: of 32,768 molecules with Morgan fingerprints of 1,024 bits."""


def rows_a_block(n_genes: int, asked: int | None = None) -> int:
    """Return `asked`, or how many rows of `n_genes` predictions take `BLOCK_BYTES`; InputError below 1."""
    if asked is not None and asked < 1:
        raise InputError(f"--block-rows {asked}: must be at least 1")
    return asked or max(1, BLOCK_BYTES // (4 * (n_genes + VALUES_A_ROW)))


class MoleculeFeatures:
    """Features of the molecules of a batch, by encoder; each molecule is featurised once.

    Molecules are featurised in the order of their first occurrence, `MOLECULES_AT_ONCE` at a time. What was used
    longest ago is forgotten beyond `FEATURE_BYTES`, and made anew should it be asked for again.
    """

    def __init__(self, model: SavedModel, batch: PairBatch) -> None:
        self._model, self._spelled = model, batch.spelled
        self._notes: dict[int, list[str]] = {}
        self._kept: OrderedDict[int, dict[str, Matrix]] = OrderedDict()

    def of(self, molecule: NDArray[np.intp]) -> dict[str, Matrix]:
        """Return the features of molecules by their place in the batch, (n, p) float32 for each encoder.

        Raises
        ------
        UnavailableError
            A molecule is new to the model, and the weights that would read it are not here.
        """
        found: dict[str, Matrix] = {}
        chunks = molecule // MOLECULES_AT_ONCE
        for chunk in np.unique(chunks):
            rows = np.flatnonzero(chunks == chunk)
            for name, values in self._chunk(int(chunk)).items():
                if name not in found:
                    found[name] = np.empty((len(molecule), values.shape[1]), np.float32)
                found[name][rows] = values[molecule[rows] % MOLECULES_AT_ONCE]
        return found

    def notes(self) -> list[str]:
        """Return what the encoders have said of the molecules so far."""
        return added([note for notes in self._notes.values() for note in notes])

    def _chunk(self, chunk: int) -> dict[str, Matrix]:
        if chunk not in self._kept:
            start = chunk * MOLECULES_AT_ONCE
            spelled = self._spelled[start : start + MOLECULES_AT_ONCE]
            rows, notes = self._model.rows(pd.DataFrame({"SMILES": spelled}))
            self._notes[chunk] = notes
            self._kept[chunk] = dict(rows.molecules)
            while len(self._kept) > 1 and self._bytes() > FEATURE_BYTES:
                self._kept.popitem(last=False)
        self._kept.move_to_end(chunk)
        return self._kept[chunk]

    def _bytes(self) -> int:
        return sum(values.nbytes for kept in self._kept.values() for values in kept.values())


class BlockPredictor:
    """Predicts any rows of a batch by a model.

    Rows that the model cannot tell apart are predicted once: cell types without a training row are all alike to it,
    and so are compounds without one that are the same molecule.
    """

    def __init__(self, model: SavedModel, batch: PairBatch) -> None:
        self.molecules = MoleculeFeatures(model, batch)
        self._model, self._batch = model, batch
        cell = _places(batch.table["cell_type"].to_numpy(object), model.obs["cell_type"])
        name = _places(batch.known_as, model.obs["sm_name"])
        self._alike = ((cell + 1) * (name.max(initial=0) + 2) + name + 1) * len(batch.molecules)
        self._alike += batch.molecule

    def predict(self, rows: slice) -> Matrix:
        """Return the predictions of a block, (m, t) float32.

        Raises
        ------
        UnavailableError
            As `MoleculeFeatures.of`.
        """
        _, first, inverse = np.unique(self._alike[rows], return_index=True, return_inverse=True)
        if len(first) == len(inverse):
            return self._distinct(np.arange(rows.start, rows.start + len(first)))
        return self._distinct(rows.start + first)[inverse]

    def _distinct(self, which: NDArray[np.intp]) -> Matrix:
        some = self._batch.table[["cell_type", "SMILES"]].iloc[which]
        obs = some.assign(sm_name=self._batch.known_as[which]).reset_index(drop=True)
        return blended(self._model.stack, Rows(obs, self.molecules.of(self._batch.molecule[which])))


def blended(stack: StackModel, rows: Rows) -> Matrix:
    """Return `stack.predict(rows)`, the second level `ROWS_AT_ONCE` rows at a time: a third of the memory."""
    first = {name: model.predict(rows) for name, model in stack.first.items()}
    predicted = np.empty((len(rows.obs), len(stack.low)), np.float32)
    for start in range(0, len(predicted), ROWS_AT_ONCE):
        some = slice(start, min(start + ROWS_AT_ONCE, len(predicted)))
        members = {name: values[some] for name, values in first.items()}
        stacked = replace(
            rows.take(np.arange(some.start, some.stop)), predictions=np.hstack(list(members.values()))
        )
        members[stack.booster_name] = stack.boosters.predict(stacked)
        predicted[some] = stack.blend(members)
    return predicted


def added(notes: Iterable[str]) -> list[str]:
    """Return sentences of counts with those made one that differ only in their numbers, which are added."""
    counts: dict[str, list[int]] = {}
    for note in notes:
        found = [int(number) for number in re.findall(r"\d+", note)]
        words = re.sub(r"\d+", "{}", note.replace("{", "{{").replace("}", "}}"))
        counts[words] = [a + b for a, b in zip(counts.get(words, [0] * len(found)), found, strict=True)]
    return [words.format(*found) for words, found in counts.items()]


def _places(values: NDArray[np.object_], training: "pd.Series[str]") -> NDArray[np.intp]:
    """Return the place of each value among the distinct training values, −1 where it is none of them."""
    return pd.Index(pd.unique(training.astype(object))).get_indexer(pd.Index(values, dtype=object))
