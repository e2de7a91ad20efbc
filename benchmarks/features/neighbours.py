"""Which compounds a molecule encoder takes for similar: nearest neighbours among the competition's 146 compounds.

    python -m benchmarks.features.neighbours [--out FILE]

The model is the ALBERT of reaction SMILES that the package rxnmapper carries (make venv installs it).
Prints six compounds and means over all of them, beside Morgan fingerprints.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import options_of, table, written
from features.molecules.encoders import ChemBERTaEncoder
from features.molecules.morgan import MorganEncoder, tanimoto
from rapids_pipeline.backend.arrays import Float32
from rapids_pipeline.data.demo import simulate

SHOWN = {
    "Imatinib": "kinase inhibitor (BCR-ABL, KIT)",
    "Vorinostat": "HDAC inhibitor (hydroxamate)",
    "Decitabine": "nucleoside analogue",
    "Mometasone Furoate": "glucocorticoid (steroid)",
    "ABT-199 (GDC-0199)": "BCL-2 inhibitor",
    "Atorvastatin": "statin",
}
N_NEAREST = 3
N_RANDOM = 1000


def main() -> None:
    """Encode, compare, print and write."""
    options = options_of(__doc__, results="features_neighbours.json").parse_args()
    compounds = simulate(0, 1).de_train.drop_duplicates("sm_name")
    names, smiles = compounds["sm_name"].tolist(), compounds["SMILES"].tolist()
    encoder = ChemBERTaEncoder(str(rxnmapper_folder()), cache=None)
    embedding, bits = encoder.fit(smiles).transform(smiles), MorganEncoder().transform(smiles)
    similarities = {"embedding, cosine": embedding @ embedding.T, "Morgan, Tanimoto": tanimoto(bits, bits)}
    written(
        options.out,
        markdown,
        model="rxnmapper, albert_heads_8_uspto_all_1310k",
        n_compounds=len(names),
        neighbours={n: {kind: nearest(s, names, n) for kind, s in similarities.items()} for n in SHOWN},
        mean_tanimoto=structural_likeness(*similarities.values()),
    )


def rxnmapper_folder() -> Path:
    """Return the folder of the weights in the package rxnmapper, which is not imported."""
    found = find_spec("rxnmapper")
    if found is None or found.origin is None:
        raise SystemExit("install rxnmapper: pip install --no-deps rxnmapper==0.4.3")
    return Path(found.origin).parent / "models" / "transformers" / "albert_heads_8_uspto_all_1310k"


def nearest(similarity: Float32, names: list[str], name: str) -> list[tuple[str, float]]:
    """Return the nearest other compounds of one, each with its similarity."""
    row = similarity[names.index(name)]
    order = [i for i in np.argsort(-row, kind="stable") if names[i] != name]
    return [(names[i], round(float(row[i]), 3)) for i in order[:N_NEAREST]]


def structural_likeness(cosine: Float32, likeness: Float32) -> dict[str, float]:
    """Return mean Tanimoto similarities of every compound and another one, chosen in several ways."""
    n = len(cosine)
    rng = np.random.default_rng(0)
    others = (np.arange(n) + rng.integers(1, n, size=(N_RANDOM, n))) % n  # never the compound itself
    random = likeness[np.arange(n), others].mean(axis=1)
    itself = 2 * np.eye(n)
    by_embedding = (cosine - itself).argmax(axis=1)
    means = {
        "to the nearest by embedding": likeness[np.arange(n), by_embedding].mean(),
        "to a random compound": random.mean(),
        f"to a random compound, largest mean of {N_RANDOM} draws": random.max(),
        "to the nearest by Tanimoto itself (the most there is)": (likeness - itself).max(axis=1).mean(),
    }
    return {what: round(float(value), 4) for what, value in means.items()}


def markdown(report: dict[str, Any]) -> str:
    """Return the neighbours and the means as Markdown."""
    kinds = list(next(iter(report["neighbours"].values())))
    rows = []
    for name, found in report["neighbours"].items():
        cells = (", ".join(f"{other} {value:.2f}" for other, value in found[kind]) for kind in kinds)
        rows.append((name, SHOWN[name], *cells))
    means = [f"- {what}: {value:.3f}" for what, value in report["mean_tanimoto"].items()]
    head = "compound", "class", *(f"nearest by {kind}" for kind in kinds)
    return "\n".join([*table(head, rows), "", *means])


if __name__ == "__main__":
    main()
