"""Losses of finished candidates on disk, so that an interrupted screen can be continued.

    DIR/.finished/KEY.safetensors

KEY is a hash of all that determines the losses: responses, rows, splits, model, seed, the candidate's blocks and this
package's version. What another screen left there is never taken for this one's, and a damaged file is made anew.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from features.feature_sets import FeatureSet
from rapids_pipeline import __version__
from rapids_pipeline.backend.files import written_atomically
from rapids_pipeline.studies.screen.losses import Losses, Problem

FOLDER = ".finished"


class FinishedCandidates:
    """The finished candidates of a screen's folder.

    Parameters
    ----------
    folder : Path
        Result folder of the screen; made when the first candidate is kept.
    problem : Problem
    """

    def __init__(self, folder: Path, problem: Problem) -> None:
        self._folder = folder / FOLDER
        self._problem = hash_of(problem)
        self._shape = (len(problem.repeats), len(problem.Y)), problem.Y.shape[1]

    def get(self, recipe: FeatureSet | None) -> tuple[Losses, float] | None:
        """Return the losses of a candidate and the seconds they took, None where it is not finished."""
        try:
            found = load_file(self._path(recipe))
        except (OSError, SafetensorError):
            return None
        if found.keys() != {"row_mse", "gene_rmse", "seconds"}:
            return None
        row_mse, gene_rmse, seconds = found["row_mse"], found["gene_rmse"], found["seconds"]
        if (row_mse.shape, len(gene_rmse)) != self._shape or seconds.shape != (1,):
            return None
        return Losses(row_mse, gene_rmse), float(seconds[0])

    def put(self, recipe: FeatureSet | None, losses: Losses, seconds: float) -> None:
        """Keep the losses of a candidate and the seconds they took."""
        arrays = {"row_mse": losses.row_mse, "gene_rmse": losses.gene_rmse, "seconds": np.array([seconds])}
        with written_atomically(self._path(recipe)) as path:
            save_file(arrays, path)

    def _path(self, recipe: FeatureSet | None) -> Path:
        blocks = None if recipe is None else recipe.model_dump(mode="json", include={"blocks"})
        key = hashlib.sha256(f"{self._problem}{json.dumps(blocks, sort_keys=True)}".encode()).hexdigest()
        return self._folder / f"{key[:32]}.safetensors"


def hash_of(problem: Problem) -> str:
    """Return a hash of a problem: what is predicted from what, on which splits, by which model."""
    found = hashlib.sha256()

    def add(name: str, content: Any) -> None:
        found.update(f"{name}\n".encode())
        found.update(
            np.ascontiguousarray(content).data if isinstance(content, np.ndarray) else content.encode()
        )

    add("version", __version__)
    add("Y", problem.Y)
    for column in ("cell_type", "sm_name", "SMILES"):
        add(column, "\n".join(map(str, problem.rows.obs[column])))
    for encoder, columns in sorted(problem.rows.molecules.items()):
        add(encoder, columns)
    for splits in problem.repeats:
        for split in splits:
            add("training", split.training)
            add("held out", split.held_out)
    add("how", f"{problem.model} {problem.seed}")
    return found.hexdigest()
