"""What each ingredient of the composite kernel is worth: the member alone, with one thing changed at a time.

    python -m benchmarks.accuracy.ablation [--data FOLDER] [--out FILE]

Every variant of the recipe `best`'s composite member is fitted to the training rows of the splits scarce, made_scarce,
compound (two repeats each) and cell_type of lincs_lung's training file, and to all of them for the test rows. Prints
a Markdown table of MRRMSE with the difference from the member as it is and its 95 % interval (compounds drawn), and
writes benchmarks/results/accuracy_ablation.json.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.accuracy.compare import TEST_ROWS, test_task
from benchmarks.accuracy.jobs import Cost, Finished, Task, versions
from benchmarks.accuracy.tables import ablation_markdown, compared
from features.molecules.encoders import encode_molecules
from features.rows import Rows
from rapids_pipeline.evaluation.splits import Split, named_splits
from rapids_pipeline.stack.members.composite import CompositeMember
from rapids_pipeline.stack.members.member import TrainingSet
from rapids_pipeline.stack.named_recipes import COMPOSITE

REPEATS = {"scarce": 2, "made_scarce": 2, "compound": 2, "cell_type": 1}
AS_IT_IS = "as it is"


def variants() -> dict[str, CompositeMember]:
    """Return the member and what is made of it, by what is changed."""
    tube = {"engine": "smo", "epsilon": 0.1}
    return {
        AS_IT_IS: COMPOSITE,
        "no response profiles": without("profile"),
        "profiles linear only": without("profile_rbf"),
        "profiles not told apart by cell type": renamed("correlation * profile", "profile"),
        "no structure": without("tanimoto", "rbf("),
        "new compounds without descriptors": changed(
            new={"weights": cut(COMPOSITE.new_compounds.weights, "rbf(")}
        ),
        "model of known compounds for all": COMPOSITE.model_copy(update={"new_compounds": bare(COMPOSITE)}),
        "targets as they are": changed({"transform": "none"}),
        "asinh for new compounds, too": changed(new={"transform": "asinh"}),
        "each gene scaled": changed({"transform": "gene_scale"}),
        "one penalty for all components": changed({"penalty_growth": 0.0}),
        "45 components": changed({"n_components": 45}, {"n_components": 45}),
        "rows equally noisy": changed({"noise_exponent": 0.0}, {"noise_exponent": 0.0}),
        "epsilon-insensitive (SVR)": changed(tube, tube),
        "half the penalties": changed(*({"penalty": m.penalty / 2} for m in COMPOSITE.models)),
        "twice the penalties": changed(*({"penalty": m.penalty * 2} for m in COMPOSITE.models)),
    }


def changed(known: Mapping[str, Any] | None = None, new: Mapping[str, Any] | None = None) -> CompositeMember:
    """Return the member with other settings of its models."""
    models = zip(("known_compounds", "new_compounds"), COMPOSITE.models, (known, new), strict=True)
    return CompositeMember(
        **{name: model.model_dump() | dict(values or {}) for name, model, values in models}
    )


def cut(weights: Mapping[str, float], *factors: str) -> dict[str, float]:
    """Return the weights of the products that none of some factors is in."""
    return {name: weight for name, weight in weights.items() if not any(one in name for one in factors)}


def without(*factors: str) -> CompositeMember:
    """Return the member without some factors, in both models."""
    return changed(*({"weights": cut(model.weights, *factors)} for model in COMPOSITE.models))


def renamed(old: str, new: str) -> CompositeMember:
    """Return the member with other products in the model of known compounds."""
    return changed(
        {"weights": {n.replace(old, new): w for n, w in COMPOSITE.known_compounds.weights.items()}}
    )


def bare(member: CompositeMember) -> Any:
    """Return the model of known compounds less its profiles: what it would make of pairs that have none."""
    return member.known_compounds.model_copy(
        update={"weights": cut(member.known_compounds.weights, "profile")}
    )


def main() -> None:
    """Fit, print and write."""
    parser = harness.options_of(__doc__, results="accuracy_ablation.json")
    lung = harness.DATA / "lincs_lung"
    parser.add_argument("--data", type=Path, default=lung, help="folder of de_train, de_test, id_map")
    chosen = parser.parse_args()
    documents = {name: config.model_dump(mode="json") for name, config in variants().items()}
    harness.written(chosen.out, markdown, versions(), variants=documents, tasks=measured(chosen.data))


def markdown(report: dict[str, Any]) -> str:
    """Return the report's table."""
    return ablation_markdown(report["tasks"])


def measured(folder: Path) -> dict[str, Any]:
    """Return every variant on every task."""
    test = test_task(TEST_ROWS, folder)
    made = {name: dealt(test, name, repeats) for name, repeats in REPEATS.items()}
    both, tasks = rows_of(test), {}
    for name, splits in [*made.items(), (TEST_ROWS, None)]:
        found = {variant: predicted(config, both, test, splits) for variant, config in variants().items()}
        rows = None if splits is None else np.concatenate([split.held_out for split in splits])
        obs = test.pairs if rows is None else test.data.obs.iloc[rows].reset_index(drop=True)
        truth = test.truth() if rows is None else test.data.Y[rows]
        methods = compared(found, truth, obs, AS_IT_IS)
        tasks[name] = {"rows": len(truth), "order": list(found), "reference": AS_IT_IS, "methods": methods}
    return tasks


def dealt(test: Task, name: str, repeats: int) -> list[Split]:
    """Return the splits of all repeats of a named split."""
    every = named_splits(name, test.data.obs, pairs=test.pairs, repeats=repeats)
    return [split for splits in every for split in splits]


def rows_of(test: Task) -> Rows:
    """Return the training rows and the pairs below them."""
    smiles = list(test.data.obs["SMILES"]), list(test.pairs["SMILES"])
    columns = encode_molecules(COMPOSITE.encoders, *smiles)
    return Rows.joined(Rows(test.data.obs, columns.training), Rows(test.pairs, columns.others))


def predicted(config: CompositeMember, both: Rows, test: Task, splits: list[Split] | None) -> Finished:
    """Return a variant's predictions of held-out rows, or of the test rows where there are no splits."""
    n = len(test.data.obs)
    everything = [Split("test", np.arange(n), np.arange(n, len(both.obs)))] if splits is None else splits
    fits = config.prepare(TrainingSet(both, test.data.Y, None, (), 0, "cpu"))
    parts = [fits.fit_predict(split.training, [split.held_out])[0] for split in everything]
    return Finished(np.concatenate(parts), Cost(len(parts), 0.0, 0.0, 0.0, ""))


if __name__ == "__main__":
    main()
