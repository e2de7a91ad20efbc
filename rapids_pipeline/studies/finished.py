"""Finished splits on disk, so that an interrupted cross-validation can be continued.

    DIR/.finished/KEY.safetensors

KEY is a hash of all that determines a split's predictions: responses, rows, molecules, the split, the settings, the
device and this package's version. What another cross-validation left there is never taken for this one's, and a
damaged file is made anew.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from features.rows import Rows
from rapids_pipeline import __version__
from rapids_pipeline.backend.devices import DeviceName
from rapids_pipeline.backend.files import written_atomically
from rapids_pipeline.data.tables import PerturbationData
from rapids_pipeline.evaluation.metrics import METRICS
from rapids_pipeline.evaluation.splits import Split
from rapids_pipeline.stack.recipe import RunConfig
from rapids_pipeline.studies.fits import HeldOut

FOLDER = ".finished"


class FinishedSplits:
    """The finished splits of a result folder.

    Parameters
    ----------
    folder : Path
        Made when the first split is kept.
    train, data, config, device
        As `rapids_pipeline.studies.fits.fit_split`.
    baselines : sequence of str
        Names of the baselines that are scored beside the recipe.
    """

    def __init__(
        self,
        folder: Path,
        train: Rows,
        data: PerturbationData,
        config: RunConfig,
        device: DeviceName,
        baselines: Sequence[str],
    ) -> None:
        self._folder, self._n_genes = folder / FOLDER, len(data.genes)
        found = hashlib.sha256()
        for text in (__version__, config.model_dump_json(), device, *baselines, *METRICS, *data.genes):
            found.update(f"{text}\n".encode())
        for column in ("cell_type", "sm_name", "SMILES"):
            found.update("\n".join(map(str, data.obs[column])).encode())
        for name, columns in sorted(train.molecules.items()):
            found.update(f"{name}\n".encode() + np.ascontiguousarray(columns).tobytes())
        found.update(np.ascontiguousarray(data.Y).data)
        self._problem = found.digest()

    def get(self, split: Split) -> HeldOut | None:
        """Return what a split's held-out rows got, None where it is not finished."""
        try:
            with safe_open(self._path(split), framework="numpy") as file:
                methods = json.loads(file.metadata()["methods"])
                predicted, scores, strength = (
                    file.get_tensor(name) for name in ("predicted", "scores", "strength")
                )
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return None
        m = len(split.held_out)
        shapes = predicted.shape, scores.shape, strength.shape
        if shapes != ((m, self._n_genes), (len(methods), len(METRICS), m), (m,)):
            return None
        return HeldOut(predicted, dict(zip(methods, scores, strict=True)), strength)

    def put(self, split: Split, held_out: HeldOut) -> None:
        """Keep what a split's held-out rows got."""
        arrays: dict[str, NDArray[Any]] = {
            "predicted": np.ascontiguousarray(held_out.predicted),
            "scores": np.stack(list(held_out.scores.values())),
            "strength": held_out.strength,
        }
        with written_atomically(self._path(split)) as path:
            save_file(arrays, path, {"methods": json.dumps(list(held_out.scores))})

    def _path(self, split: Split) -> Path:
        key = hashlib.sha256(self._problem)
        for rows in (split.training, split.held_out):
            key.update(np.ascontiguousarray(rows, dtype=np.int64).tobytes() + b"|")
        return self._folder / f"{key.hexdigest()[:32]}.safetensors"
