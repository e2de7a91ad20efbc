"""Hostile tables: files whose bytes, columns or numbers are not what a table of responses or pairs should have."""

import random
from collections.abc import Iterator

from benchmarks.faults.runner import Case

CELLS = ("B", "NK", "T", "M")
SMILES = {
    **{"ethanol": "CCO", "benzene": "c1ccccc1", "propane": "CCC", "water": "O", "methane": "C"},
    **{"phenol": "Oc1ccccc1", "pyridine": "c1ccncc1", "urea": "NC(N)=O"},
}
GENES = ("A1BG", "TP53", "EGFR")


def training() -> str:
    """Return a training file: 32 rows, 3 genes."""
    lines = [",".join(["cell_type", "sm_name", "SMILES", *GENES])]
    for i, cell in enumerate(CELLS):
        for j, (name, smiles) in enumerate(SMILES.items()):
            lines.append(
                f"{cell},{name},{smiles},{i - j + i * j / 7:.3f},{(i * 3 + j * 5) % 7}.25,{j - 1.5 + i / 3:.3f}"
            )
    return "\n".join(lines) + "\n"


PAIRS = "id,cell_type,sm_name\n0,B,ethanol\n1,T,benzene\n"
DATA = {"train.csv": training(), "id_map.csv": PAIRS}
RUN = "run --train train.csv --test id_map.csv --out out --molecules morgan --device cpu --quick".split()
CV = "cv --train train.csv --out out --molecules morgan --device cpu --quick --folds 2 --split random".split()
SCREEN = (
    "screen --train train.csv --out out --molecules morgan --features onehot --folds 2 --target A1BG".split()
)
EVALUATE = "evaluate --prediction train.csv --truth train.csv".split()
GOOD = [Case("good", argv, DATA) for argv in (RUN, CV, SCREEN, EVALUATE)]
"""Commands on good data."""


def cases(seed: int = 0) -> Iterator[Case]:
    """Yield all cases, in an order that the seed determines."""
    random.Random(seed)
    yield from GOOD
