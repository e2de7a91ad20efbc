"""The problem of a run or a study: its files, read and checked, with rows in an order of their own.

    (data, pairs) = files, both sorted by (cell_type, sm_name)

No result therefore depends on the order of the rows in a file.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rapids_pipeline.backend.arrays import Indices
from rapids_pipeline.backend.devices import DeviceName
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.files import describe_input
from rapids_pipeline.backend.frames import FrameLibrary, library_for
from rapids_pipeline.data import demo
from rapids_pipeline.data.columns import TableOptions
from rapids_pipeline.data.pairs import read_pairs, with_smiles
from rapids_pipeline.data.tables import PerturbationData, read_training, training_from_frame


@dataclass(frozen=True)
class ProblemFiles:
    """The files of a problem and how to read them.

    Attributes
    ----------
    train : Path, optional
        The training file; None stands for the demonstration data, which are simulated.
    test : Path, optional
        The pairs to predict; the demonstration data have their own.
    options : TableOptions
        How they are read.
    """

    train: Path | None
    test: Path | None = None
    options: TableOptions = field(default_factory=TableOptions)


@dataclass(frozen=True, eq=False)
class Problem:
    """Training rows and pairs to predict, both in canonical order (`canonical_order`).

    Attributes
    ----------
    data : PerturbationData
        The n training rows.
    pairs : pandas.DataFrame or None
        The m pairs to predict: `id`, `cell_type`, `sm_name` and `SMILES`; None where no file names any.
    file_order, pairs_file_order : ndarray of intp, (n,) and (m,)
        Positions that lead from canonical order to the order of the files.
    source : str
        Where the training rows are from.
    inputs : dict
        What a manifest says of the files: path, size and SHA-256, by "train" and "test".
    notes : list of str
        What a person should know of how the files were read.
    """

    data: PerturbationData
    pairs: pd.DataFrame | None
    file_order: Indices
    pairs_file_order: Indices
    source: str
    inputs: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def to_predict(self) -> pd.DataFrame:
        """The pairs to predict; InputError where there are none."""
        if self.pairs is None:
            raise InputError("there are no pairs to predict; give a file of them with --test")
        return self.pairs

    @property
    def recorded(self) -> dict[str, Any]:
        """What a report records of the files: `inputs`, and `notes` where there are any."""
        return {"inputs": self.inputs} | ({"notes": self.notes} if self.notes else {})

    @property
    def shape(self) -> dict[str, int]:
        """Training rows, test rows and genes."""
        return {
            "training_rows": len(self.data.obs),
            "test_rows": len(self.pairs_file_order),
            "genes": len(self.data.genes),
        }


def open_problem(files: ProblemFiles, device: DeviceName = "cpu") -> Problem:
    """Read and check the files of a problem by the frame library of a device.

    Raises
    ------
    InputError, UnavailableError
        As `read_training`, `read_pairs` and `with_smiles`.
    """
    library = library_for(device)
    data, pairs = _training(files, library)
    notes = list(data.notes)
    if files.test is not None:
        pairs, said = read_pairs(files.test, data.obs, files.options, library=library)
        notes += said
    elif pairs is not None:
        pairs = with_smiles(pairs, data.obs, Path("the demo's id_map"))
    order = canonical_order(data.obs)
    pairs_order = np.arange(0) if pairs is None else canonical_order(pairs)
    named = {"train": files.train, "test": files.test, "genes": files.options.genes}
    return Problem(
        data.take(order),
        None if pairs is None else pairs.iloc[pairs_order].reset_index(drop=True),
        np.argsort(order),
        np.argsort(pairs_order),
        "demo data (simulated)" if files.train is None else str(files.train),
        {name: describe_input(path) for name, path in named.items() if path is not None},
        notes,
    )


def canonical_order(obs: pd.DataFrame) -> Indices:
    """Return the row order by (cell_type, sm_name) that makes results independent of the file's order."""
    return np.lexsort((obs["sm_name"].to_numpy(str), obs["cell_type"].to_numpy(str)))


def _training(files: ProblemFiles, library: FrameLibrary) -> tuple[PerturbationData, pd.DataFrame | None]:
    """Return the training rows in file order, and the pairs that come with them."""
    if files.train is None:
        made = demo.simulate()
        return training_from_frame(made.de_train, "demo"), made.id_map
    return read_training(files.train, files.options, library=library), None
