"""What a file is read as: roles, with good files for each.

A role is a command with "@" in the place of the file, and a table that it can read there. Hostile files are such tables
made worse (`tables`, `matrices`).
"""

import gzip
import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from benchmarks.faults.runner import Case
from benchmarks.harness import REPOSITORY

CELLS = ("B", "NK", "T", "M")
SMILES = {
    **{"ethanol": "CCO", "benzene": "c1ccccc1", "propane": "CCC", "water": "O", "methane": "C"},
    **{"phenol": "Oc1ccccc1", "pyridine": "c1ccncc1", "urea": "NC(N)=O"},
}
GENES = ("A1BG", "TP53", "EGFR")


def training() -> pd.DataFrame:
    """Return training rows: 32 rows, 3 genes."""
    rows = [
        (cell, name, smiles, i - j + i * j / 7, (i * 3 + j * 5) % 7 + 0.25, j - 1.5 + i / 3)
        for i, cell in enumerate(CELLS)
        for j, (name, smiles) in enumerate(SMILES.items())
    ]
    return pd.DataFrame(rows, columns=["cell_type", "sm_name", "SMILES", *GENES])


def pairs() -> pd.DataFrame:
    """Return four pairs to predict."""
    return training().iloc[[0, 9, 18, 27], :3].assign(id=range(4))[["id", "cell_type", "sm_name", "SMILES"]]


def submission() -> pd.DataFrame:
    """Return predictions of the four pairs."""
    return training().iloc[[0, 9, 18, 27], 3:].assign(id=range(4))[["id", *GENES]]


def embeddings() -> pd.DataFrame:
    """Return a row of two numbers for each compound."""
    return pd.DataFrame({"sm_name": [*SMILES], "e1": np.arange(8.0), "e2": np.arange(8.0) % 3})


def csv_of(frame: pd.DataFrame, **how: Any) -> bytes:
    """Return a table as CSV."""
    return frame.to_csv(index=False, **how).encode()


def parquet_of(table: pd.DataFrame | pa.Table, **how: Any) -> bytes:
    """Return a table as Parquet."""
    sink = io.BytesIO()
    made = pa.Table.from_pandas(table, preserve_index=False) if isinstance(table, pd.DataFrame) else table
    parquet.write_table(made, sink, **how)
    return sink.getvalue()


ENCODED: dict[str, Callable[[pd.DataFrame], bytes]] = {
    ".csv": csv_of,
    ".tsv": lambda frame: csv_of(frame, sep="\t"),
    ".csv.gz": lambda frame: gzip.compress(csv_of(frame), mtime=0),
    ".txt": lambda frame: csv_of(frame, sep="\t"),
    ".parquet": parquet_of,
}
"""How a table is written, by suffix."""
DATA: dict[str, bytes] = {
    "train.csv": csv_of(training()),
    "id_map.csv": csv_of(pairs()[["id", "cell_type", "sm_name"]]),
    "submission.csv": csv_of(submission()),
    "genes.txt": "\n".join(GENES).encode(),
    "signature.csv": b"gene,value\nA1BG,1\nTP53,-1\nEGFR,2\n",
}
RUN = "run --train train.csv --test id_map.csv --out out --molecules morgan --device cpu --quick".split()
CV = "cv --train train.csv --out out --molecules morgan --device cpu --quick --folds 2 --split random".split()
SCREEN = (
    "screen --train train.csv --out out --molecules morgan --features onehot --folds 2 --target A1BG".split()
)
ROLES: dict[str, tuple[list[str], Callable[[], pd.DataFrame]]] = {
    "train": (["run", "--train", "@", *RUN[3:]], training),
    "pairs": ([*RUN[:4], "@", *RUN[5:]], pairs),
    "cv": (["cv", "--train", "@", *CV[3:]], training),
    "screen": (["screen", "--train", "@", *SCREEN[3:]], training),
    "prediction": ("evaluate --truth train.csv --prediction @".split(), training),
    "truth": ("evaluate --prediction train.csv --truth @".split(), training),
    "baselines": ("evaluate --prediction train.csv --truth train.csv --train @".split(), training),
    "check": ("submit --id-map id_map.csv --genes genes.txt --check @".split(), submission),
    "id map": ("submit --check submission.csv --genes genes.txt --id-map @".split(), pairs),
    "genes": ("submit --check submission.csv --id-map id_map.csv --genes @".split(), training),
    "embeddings": ([*RUN, "--molecules", "@"], embeddings),
    "measured": ("rank --signature signature.csv --measured @".split(), training),
    "batch": ("predict --model out --out predicted.csv --pairs @".split(), pairs),
    "candidates": ("next --run out --candidates @".split(), pairs),
    "atlas": ("atlas --out atlas --from @".split(), training),
}
"""What a file is read as: the command, in which @ is the file, and a table that it can read."""


def case(
    kind: str, role: str, content: bytes | str, suffix: str, name: str = "bad", **more: bytes | str
) -> Case:
    """Return a case that reads a file in a role; `more` are other files by name."""
    argv, _ = ROLES[role]
    files = {**DATA, f"{name}{suffix}": content, **more, **(model() if "out" in argv[:3] else {})}
    return Case(f"{kind}: {role}{suffix}", [word.replace("@", f"{name}{suffix}") for word in argv], files)


def good() -> list[Case]:
    """Return a case on good data in each role and format."""
    return [
        case("good", role, encoded(table()), suffix, "good")
        for role, (_, table) in ROLES.items()
        for suffix, encoded in ENCODED.items()
        if not (role == "check" and suffix in (".tsv", ".txt")) and not (role == "genes" and suffix == ".txt")
    ]


@cache
def model() -> Mapping[str, bytes]:
    """Return the files of a run of `best` on good data, which the program makes in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in DATA.items():
            (Path(folder) / name).write_bytes(content)
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        argv = [sys.executable, "-m", "rapids_pipeline", *(word for word in RUN if word != "--quick")]
        subprocess.run(argv, cwd=folder, check=True, capture_output=True, env=environment)
        out = Path(folder) / "out"
        return {
            f"out/{path.relative_to(out)}": path.read_bytes() for path in out.rglob("*") if path.is_file()
        }
