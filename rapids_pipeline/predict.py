"""Prediction of new pairs by a saved model: nothing is fitted, on a CPU whatever the model was trained on."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from rapids_pipeline.ingest import read_pairs, with_smiles
from rapids_pipeline.saved_model import SavedModel, load_model
from rapids_pipeline.submit import require_csv, write_kaggle_csv


@dataclass(frozen=True)
class Predicted:
    """What was predicted: numbers of pairs and genes, and what a reader should know."""

    n_pairs: int
    n_genes: int
    notes: list[str]


def predict_file(folder: Path, pairs_file: Path, out: Path) -> Predicted:
    """Predict the pairs of a file by the model of a folder, and write a Kaggle CSV.

    Parameters
    ----------
    folder : Path
        A run's `DIR/model`.
    pairs_file : Path
        `id, cell_type, sm_name`, and `SMILES` for compounds that the training file did not have.
    out : Path
        .csv or .csv.gz; written whole or not at all.

    Raises
    ------
    InputError, UnavailableError
        As `read_pairs`, `load_model`, `SavedModel.rows` and `write_kaggle_csv`.
    """
    require_csv(out)
    pairs = read_pairs(pairs_file)
    model = load_model(folder)
    pairs = with_smiles(pairs, model.obs, pairs_file)
    predicted, notes = model.predict(pairs)
    write_kaggle_csv(out, list(pairs["id"]), model.genes, predicted)
    return Predicted(len(pairs), len(model.genes), [*unseen_levels(pairs, model), *notes])


def unseen_levels(pairs: pd.DataFrame, model: SavedModel) -> list[str]:
    """Return a sentence for each column with levels that no training row had."""
    notes = []
    for column in ("cell_type", "sm_name"):
        unseen = pairs[column][~pairs[column].isin(model.obs[column])]
        if len(unseen):
            names = list(dict.fromkeys(unseen))
            notes.append(
                f"{len(unseen)} of {len(pairs)} pairs have a {column} the model was not trained on "
                f"({', '.join(names[:3])}{', …' if len(names) > 3 else ''}): expect larger errors there"
            )
    return notes
