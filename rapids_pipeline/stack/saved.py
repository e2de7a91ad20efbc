"""A trained stack: it predicts any pair of cell type and compound, and is kept as a folder (`DIR/model/`) of

    about            recipe, seed and molecule encoder of the run, numbers of rows and genes
    pairs            cell type, compound and SMILES of the training rows; the genes
    embeddings       features of the molecules known to the run, for encoders whose weights may not be at hand later,
                     and the hash of these weights: new molecules are read with no others
    table, atlas     the whole table of embeddings and the whole atlas of the run, where it had one
    check            a few training pairs and what the model predicts for them
    untested         cell types and genes that no training row was tested in together, where there are any
    member_…, blend  the members and the weighted sum of them
    contrast         what an objective other than MRRMSE makes of that sum, where there is one

On loading, the model predicts its check pairs again: a package that computes something else than it did at
training (other fingerprints, for one) is noticed before it can spoil a prediction. What a model from a stranger can
and cannot do: docs/methods/trust.md.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import ValidationError

from features.molecules import ATLAS, TABLE, needs_weights
from features.molecules.atlas import Atlas
from features.molecules.smiles import canonical_smiles
from features.molecules.table import EmbeddingTable
from features.molecules.weights import recorded
from features.rows import DOSE, TIME, Rows
from rapids_pipeline.backend.arrays import Float32, Indices, Mask, RowSource, row_blocks
from rapids_pipeline.backend.bundle import read_bundle, write_bundle
from rapids_pipeline.backend.devices import DeviceName
from rapids_pipeline.backend.errors import InputError, PerturbError, UnavailableError
from rapids_pipeline.backend.files import FOLDER
from rapids_pipeline.backend.settings import first_fault
from rapids_pipeline.backend.state import State, StateReader
from rapids_pipeline.stack.blend import Weights, weights_from_state
from rapids_pipeline.stack.contrast import Contrast
from rapids_pipeline.stack.members.member import Model
from rapids_pipeline.stack.recipe import Recipe, RunConfig

CHECK_PAIRS = 3
TOLERANCE = 1e-4
"""How far a loaded model may be from its check predictions, relative to 1 + their size."""
PAIR_COLUMNS = ("cell_type", "sm_name", "SMILES")
DIGEST = re.compile(r"[0-9a-f]{64}")

ROWS_AT_ONCE = 512
"""Rows that the second level predicts at once: its members read all predictions of the first side by side."""

Embeddings = Mapping[str, tuple[list[str], Float32]]
"""Encoder → canonical SMILES and their features."""


@dataclass(frozen=True, eq=False)
class StackModel:
    """Members and blend of a stack of t targets.

    Attributes
    ----------
    models : dict of str to Model
        By the name of the form that was fitted; those that others read come first.
    stacks_on : dict of str to sequence of str
        Whose predictions a model reads, in this order; of the second level only.
    weights : Weights
        Of the members that are blended.
    low, high : ndarray of float32, (t,)
        Bounds of the blend.
    by_names : collection of str
        Members that know pairs by names alone; they count nothing for a new cell type or compound.
    cell_types, compounds : collection of str
        Of the training rows; needed where there are such members.
    contrast : Contrast, optional
        What the weighted sum is mapped by before it is bounded.
    """

    models: Mapping[str, Model]
    stacks_on: Mapping[str, Sequence[str]]
    weights: Weights
    low: Float32
    high: Float32
    by_names: Collection[str] = ()
    cell_types: Collection[str] = ()
    compounds: Collection[str] = ()
    contrast: Contrast | None = None

    def predict(self, rows: Rows) -> Float32:
        """Return the blend's predictions, (m, t) float32, in the unit of the training targets.

        A row's prediction does not depend on the others, to rounding.
        """
        first = {
            name: model.predict(rows) for name, model in self.models.items() if name not in self.stacks_on
        }
        predicted = np.empty((len(rows.obs), len(self.low)), dtype=np.float32)
        for start in range(0, len(predicted), ROWS_AT_ONCE):
            some = np.arange(start, min(start + ROWS_AT_ONCE, len(predicted)))
            members = {name: values[some] for name, values in first.items()}
            for name, read in self.stacks_on.items():
                stacked = np.hstack([members[other] for other in read])
                members[name] = self.models[name].predict(replace(rows.take(some), predictions=stacked))
            predicted[some] = self.blend(members, rows.take(some))
        return predicted

    def blended(self, members: Mapping[str, RowSource], rows: Rows) -> Float32:
        """Return the blend of members' predictions of rows, a block of rows at a time."""
        found = np.empty((len(rows.obs), len(self.low)), dtype=np.float32)
        for some in row_blocks(len(found)):
            asked = rows.take(np.arange(len(found))[some])
            found[some] = self.blend({name: x[some] for name, x in members.items()}, asked)
        return found

    def blend(self, members: Mapping[str, Float32], rows: Rows) -> Float32:
        """Return the bounded weighted sum of members' predictions of rows, with its contrast."""
        new = new_pairs(rows.obs, self.cell_types, self.compounds) if self.by_names else None
        mixed = self.weights.mix(members, new, self.by_names)
        if self.contrast is not None:
            mixed = self.contrast.apply(mixed, rows.obs)
        return np.clip(mixed, self.low, self.high)

    def state(self) -> State:
        """Return what it has learnt, a part for each model."""
        models = {f"member_{number}": model.state() for number, model in enumerate(self.models.values())}
        blend = {
            "models": list(self.models),
            "weights": self.weights.state(),
            "low": self.low,
            "high": self.high,
            **(
                {"cell_types": list(self.cell_types), "compounds": list(self.compounds)}
                if self.by_names
                else {}
            ),
        }
        contrast = {} if self.contrast is None else {"contrast": self.contrast.state()}
        return models | {"blend": blend} | contrast

    @classmethod
    def from_state(cls, recipe: Recipe, n_targets: int, reader: StateReader) -> "StackModel":
        """Make it of its state and the recipe it was fitted by; InputError where they do not fit together."""
        blend = reader.part("blend")
        names, forms = blend.levels("models"), {form.name: form for form in recipe.forms}
        if not set(names) <= set(forms):
            raise blend.fault("the models are not those of the recipe's members")
        models = {
            name: forms[name].member.model_from_state(reader.part(f"member_{number}"))
            for number, name in enumerate(names)
        }
        stacks_on = stacks_on_of(recipe, names)
        if not {read for reads in stacks_on.values() for read in reads} <= set(names):
            raise blend.fault("a model that another reads is missing")
        weights = weights_from_state(blend.part("weights"))
        blended = {forms[name].member.name for name in set(weights.weights) & set(models)}
        if not len(blended) == len(weights.weights) == len(recipe.members):
            raise blend.fault("the weights are not those of the recipe's members")
        low, high = (blend.array(bound, np.float32, (n_targets,)) for bound in ("low", "high"))
        by_names = by_names_of(recipe, list(weights.weights))
        none: tuple[str, ...] = ()
        known = [tuple(blend.levels(name)) if by_names else none for name in ("cell_types", "compounds")]
        if (recipe.blend.objective != "mrrmse") != ("contrast" in reader.names()):
            raise reader.fault("its contrast is not what the recipe's objective asks for")
        contrast = (
            Contrast.from_state(reader.part("contrast"), n_targets) if "contrast" in reader.names() else None
        )
        return cls(models, stacks_on, weights, low, high, by_names, known[0], known[1], contrast)


def stacks_on_of(recipe: Recipe, names: Sequence[str]) -> dict[str, Sequence[str]]:
    """Return whose predictions forms of a recipe read, for those that read any."""
    forms = {form.name: form.member for form in recipe.forms}
    return {name: forms[name].stacks_on for name in names if forms[name].stacks_on}


def new_pairs(asked: pd.DataFrame, cell_types: Collection[str], compounds: Collection[str]) -> Mask:
    """Return which of the pairs `asked` have a cell type or a compound that is not among these, (m,)."""
    known = asked["cell_type"].astype(str).isin(cell_types) & asked["sm_name"].astype(str).isin(compounds)
    return np.asarray(~known, dtype=np.bool_)


def by_names_of(recipe: Recipe, names: Sequence[str]) -> tuple[str, ...]:
    """Return those forms of a recipe that know pairs by names alone."""
    forms = {form.name: form.member for form in recipe.forms}
    return tuple(name for name in names if forms[name].by_names)


@dataclass(frozen=True, eq=False)
class SavedModel:
    """A stack with what it takes to make rows for it.

    Attributes
    ----------
    stack : StackModel
    config : RunConfig
        Resolved: every block of molecules names its encoder.
    genes : tuple of str
    obs : pandas.DataFrame
        `cell_type`, `sm_name` and `SMILES` of the training rows.
    embeddings : mapping of encoder to (canonical SMILES, features)
    never_tested : mapping of cell type to ndarray of int
        Positions of the genes that no training row of the cell type was tested in.
    table : EmbeddingTable or None
        Which a recipe that reads a table needs.
    weights : mapping of encoder to str
        SHA-256 of the weights at training (`features.molecules.weights.content_hash`), of language models.
    atlas : Atlas or None
        Which a recipe that reads an atlas needs.
    """

    stack: StackModel
    config: RunConfig
    genes: tuple[str, ...]
    obs: pd.DataFrame
    embeddings: Embeddings
    never_tested: Mapping[str, Indices] = field(default_factory=dict)
    table: EmbeddingTable | None = None
    weights: Mapping[str, str] = field(default_factory=dict)
    atlas: Atlas | None = None

    def rows(self, pairs: pd.DataFrame, device: DeviceName = "cpu") -> tuple[Rows, list[str]]:
        """Return the rows of pairs (with `cell_type`, `sm_name`, `SMILES`), and what a reader should know of them.

        Raises
        ------
        UnavailableError
            A compound is new to the model, and the weights of the encoder that would read it are not here, or not
            those of training.
        """
        from features.molecules.encoders import encode_molecules  # loads scikit-learn, which takes a second

        smiles, molecules, notes = list(pairs["SMILES"]), {}, []
        for name in self.config.recipe.encoders:
            if name in self.embeddings:
                molecules[name], found = self._embedded(name, smiles, device)
            elif name == TABLE and self.table is not None:
                molecules[name], found = self.table.rows(list(pairs["sm_name"])), []
            elif name == ATLAS and self.atlas is not None:
                molecules[name], found = self.atlas.rows(list(pairs["sm_name"]), smiles), []
            else:
                columns = encode_molecules([name], smiles, (), device)
                molecules[name], found = columns.training[name], columns.notes
            notes.extend(found)
        return Rows(pairs.reset_index(drop=True), molecules), notes

    def notes_on(self, pairs: pd.DataFrame) -> list[str]:
        """Return what a reader should know of what the table and the atlas have of the compounds of pairs."""
        of_table = [] if self.table is None else self.table.notes(list(pairs["sm_name"]))
        return of_table + ([] if self.atlas is None else self.atlas.notes(self.obs.head(0), pairs))

    def predict(self, pairs: pd.DataFrame, device: DeviceName = "cpu") -> tuple[Float32, list[str]]:
        """Return the predictions of pairs, (m, n_genes) float32, and notes."""
        rows, notes = self.rows(pairs, device)
        return self.stack.predict(rows), notes

    def _embedded(self, name: str, smiles: Sequence[str], device: DeviceName) -> tuple[Float32, list[str]]:
        known, features = self.embeddings[name]
        place = {molecule: row for row, molecule in enumerate(known)}
        canonical = [str(canonical_smiles(string)) for string in smiles]
        new = list(dict.fromkeys(molecule for molecule in canonical if molecule not in place))
        notes: list[str] = []
        if new:
            values, notes = self._read(name, new, device)
            if values.shape[1] != features.shape[1]:
                raise InputError(
                    f"{name} gives {values.shape[1]} numbers a molecule here, and {features.shape[1]} when the model "
                    "was trained; use the same weights"
                )
            features = np.vstack([features, values])
            place |= {molecule: len(known) + row for row, molecule in enumerate(new)}
        return features[[place[molecule] for molecule in canonical]], notes

    def _read(self, name: str, new: Sequence[str], device: DeviceName) -> tuple[Float32, list[str]]:
        """Return the features of new molecules by a language model, read with the weights of training, and notes."""
        from features.molecules.encoders import encode_molecules

        try:
            if name not in self.weights:
                raise UnavailableError(
                    f"it does not say which weights of {name[:60]!r} it was trained with: train again"
                )
            folder = str(recorded(name, self.weights[name]))
            columns = encode_molecules([folder], new, (), device)
        except PerturbError as error:
            raise UnavailableError(f"{len(new)} compounds are new to the model, and {error}") from error
        if columns.weights[folder] != self.weights[name]:
            raise UnavailableError(f"{folder}: the weights were changed while they were read; try again")
        said = f"compounds that are new to the model were read by {folder}, with the weights of training (sha256:"
        return columns.training[folder], [*columns.notes, f"{said}{self.weights[name][:12]})"]


def embeddings_of(encoders: Sequence[str], rows: Rows) -> Embeddings:
    """Return the features of the rows' distinct molecules, for the encoders that read them with weights."""
    if not any(map(needs_weights, encoders)):
        return {}
    first: dict[str, int] = {}
    for row, smiles in enumerate(rows.obs["SMILES"]):
        first.setdefault(str(canonical_smiles(smiles)), row)
    known, places = list(first), list(first.values())
    return {name: (known, rows.molecules[name][places]) for name in encoders if needs_weights(name)}


def save_model(folder: Path, model: SavedModel) -> None:
    """Write the folder of a model (which must not exist)."""
    n = len(model.obs)
    check = model.obs.iloc[np.unique(np.linspace(0, n - 1, min(n, CHECK_PAIRS)).round()).astype(int)]
    predicted, _ = model.predict(check)
    state = {
        "pairs": _pairs_state(model.obs),
        "genes": {"names": list(model.genes)},
        "embeddings": {
            f"encoder_{number}": {
                "encoder": name,
                "molecules": known,
                "features": features,
                "weights": model.weights.get(name, ""),
            }
            for number, (name, (known, features)) in enumerate(model.embeddings.items())
        },
        **({} if model.table is None else {"table": model.table.state()}),
        **({} if model.atlas is None else {ATLAS: model.atlas.state()}),
        "check": {**_pairs_state(check), "predicted": predicted},
        **_untested_state(model.never_tested),
        **model.stack.state(),
    }
    about = {
        "config": model.config.model_dump(mode="json"),
        "training_rows": n,
        "genes": len(model.genes),
    }
    write_bundle(folder, state, about)


def load_model(folder: Path) -> SavedModel:
    """Read the folder of a model and check it.

    Raises
    ------
    InputError
        It is no model, was made by a newer version, was changed or damaged, or predicts its check pairs otherwise
        than when it was saved.
    """
    bundle = read_bundle(folder)
    try:
        config = RunConfig.model_validate(bundle.about.get("config"), context={FOLDER: None})
    except ValidationError as error:
        raise InputError(
            f"{folder}: the recipe in its manifest cannot be used: {first_fault(error)}"
        ) from None
    state = bundle.state
    genes = state.part("genes").levels("names")
    stack = StackModel.from_state(config.recipe, len(genes), state)
    obs, (embeddings, weights) = _pairs(state.part("pairs")), _embeddings(state.part("embeddings"))
    lacking = [n for n in config.recipe.encoders if needs_weights(n) and n not in embeddings]
    lacking += [n for n in (TABLE, ATLAS) if n in config.recipe.encoders and n not in state.names()]
    if lacking:
        raise state.fault(f"there are no embeddings of {lacking[0]}")
    never_tested = _untested(state.part("untested"), len(genes)) if "untested" in state.names() else {}
    table = EmbeddingTable.from_state(state.part("table")) if "table" in state.names() else None
    atlas = Atlas.from_state(state.part(ATLAS)) if ATLAS in state.names() else None
    model = SavedModel(stack, config, tuple(genes), obs, embeddings, never_tested, table, weights, atlas)
    _checked(model, state.part("check"))
    return model


def _checked(model: SavedModel, reader: StateReader) -> None:
    """Raise InputError unless the model predicts its check pairs as it did when it was saved."""
    pairs = _pairs(reader)
    expected = reader.array("predicted", np.float32, (len(pairs), len(model.genes)))
    molecules = {canonical_smiles(string) for string in pairs["SMILES"]} if model.embeddings else set()
    if any(not molecules <= set(known) for known, _ in model.embeddings.values()):
        raise reader.fault("its pairs are not among the known molecules")  # loading a model reads no weights
    try:
        predicted, _ = model.predict(pairs)
    except (ValueError, IndexError, TypeError) as error:
        raise reader.fault(f"its parts do not fit together ({' '.join(str(error).split())})") from error
    if predicted.shape != expected.shape or not np.isfinite(predicted).all():
        raise reader.fault("its parts do not fit together")
    difference = np.abs(predicted - expected) / (1 + np.abs(expected))
    if len(pairs) and difference.max() > TOLERANCE:
        raise InputError(
            f"{reader.source}: the model predicts its own check pairs otherwise than when it was saved (by "
            f"{difference.max():.2g}): a package computes something else here; install the versions that its "
            "manifest.json names"
        )


def _untested_state(never_tested: Mapping[str, Indices]) -> State:
    """Return the part `untested`, or none."""
    if not never_tested:
        return {}
    counts = [len(genes) for genes in never_tested.values()]
    return {
        "untested": {
            "cell_types": list(never_tested),
            "cell_type": np.repeat(np.arange(len(counts)), counts).astype(np.int32),
            "gene": np.concatenate(list(never_tested.values())).astype(np.int32),
        }
    }


def _untested(reader: StateReader, n_genes: int) -> dict[str, Indices]:
    """Make `SavedModel.never_tested` of its part."""
    names = reader.levels("cell_types")
    cell_type = reader.codes("cell_type", (None,), len(names))
    gene = reader.codes("gene", (len(cell_type),), n_genes).astype(np.intp)
    return {name: gene[cell_type == place] for place, name in enumerate(names)}


def _pairs_state(obs: pd.DataFrame) -> dict[str, Any]:
    """Return pairs as plain data: text, and doses and times where there are any."""
    state: dict[str, Any] = {name: [str(x) for x in obs[name]] for name in PAIR_COLUMNS}
    return state | {name: obs[name].to_numpy(np.float64) for name in (DOSE, TIME) if name in obs.columns}


def _pairs(reader: StateReader) -> pd.DataFrame:
    columns: dict[str, Any] = {name: reader.strings(name) for name in PAIR_COLUMNS}
    for name in (DOSE, TIME):
        if name in reader.names():
            columns[name] = reader.array(name, np.float64, (None,), finite=False)
    if len({len(values) for values in columns.values()}) > 1:
        raise reader.fault("its columns differ in length")
    return pd.DataFrame(columns)


def _embeddings(reader: StateReader) -> tuple[Embeddings, dict[str, str]]:
    """Make `SavedModel.embeddings` and `SavedModel.weights` of their part."""
    found, weights = {}, {}
    for number in reader.names():
        part = reader.part(number)
        name, known = part.text("encoder"), part.levels("molecules")
        found[name] = (known, part.array("features", np.float32, (len(known), None)))
        digest = part.text("weights") if "weights" in part.names() else ""
        if digest and not DIGEST.fullmatch(digest):
            raise part.fault("weights is no SHA-256")
        if digest:
            weights[name] = digest
    return found, weights
