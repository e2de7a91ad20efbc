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
from benchmarks.accuracy.jobs import Cost, Finished, versions
from benchmarks.accuracy.tables import MRRMSE, compared, difference
from features.molecules.encoders import encode_molecules
from features.rows import Rows
from rapids_pipeline.backend.arrays import Float32
from rapids_pipeline.evaluation.splits import Split, named_splits
from rapids_pipeline.stack.members.composite import CompositeMember
from rapids_pipeline.stack.members.member import TrainingSet
from rapids_pipeline.stack.named_recipes import COMPOSITE

REPEATS = {"scarce": 2, "made_scarce": 2, "compound": 2, "cell_type": 1}
AS_IT_IS = "as it is"


def variants() -> dict[str, CompositeMember]:
    """Return the member and what is made of it, by what is changed."""
    tube, known = {"engine": "smo", "epsilon": 0.1}, COMPOSITE.known_compounds
    alike = {name.replace("correlation * profile", "profile"): w for name, w in known.weights.items()}
    bare = known.model_copy(
        update={"weights": cut(known.weights, "profile")}
    )  # as for pairs that have no profile
    return {
        AS_IT_IS: COMPOSITE,
        "no response profiles": without("profile"),
        "profiles linear only": without("profile_rbf"),
        "profiles not told apart by cell type": changed({"weights": alike}),
        "no structure": without("tanimoto", "rbf("),
        "new compounds without descriptors": changed(
            new={"weights": cut(COMPOSITE.new_compounds.weights, "rbf(")}
        ),
        "model of known compounds for all": COMPOSITE.model_copy(update={"new_compounds": bare}),
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


def main() -> None:
    """Fit, print and write."""
    chosen = harness.options_of(__doc__, "accuracy_ablation.json", harness.DATA / "lincs_lung").parse_args()
    documents = {name: config.model_dump(mode="json") for name, config in variants().items()}
    harness.written(chosen.out, markdown, versions(), variants=documents, tasks=measured(chosen.data))


def measured(folder: Path) -> dict[str, Any]:
    """Return every variant on every task."""
    test = test_task(TEST_ROWS, folder)
    obs, Y, n = test.data.obs, test.data.Y, len(test.data.obs)
    columns = encode_molecules(COMPOSITE.encoders, list(obs["SMILES"]), list(test.pairs["SMILES"]))
    both = Rows.joined(Rows(obs, columns.training), Rows(test.pairs, columns.others))
    dealt = {
        name: [split for splits in named_splits(name, obs, pairs=test.pairs, repeats=k) for split in splits]
        for name, k in REPEATS.items()
    }
    dealt[TEST_ROWS] = [Split("test", np.arange(n), np.arange(n, len(both.obs)))]
    tasks = {}
    for name, splits in dealt.items():
        found = {variant: predicted(config, both, Y, splits) for variant, config in variants().items()}
        rows = np.concatenate([split.held_out for split in splits])
        truth = test.truth() if name == TEST_ROWS else Y[rows]
        methods = compared(found, truth, both.obs.iloc[rows].reset_index(drop=True), AS_IT_IS)
        tasks[name] = {"rows": len(truth), "order": list(found), "reference": AS_IT_IS, "methods": methods}
    return tasks


def predicted(config: CompositeMember, both: Rows, Y: Float32, splits: list[Split]) -> Finished:
    """Return a variant's predictions of held-out rows; `both` has the pairs to predict below the training rows."""
    fits = config.prepare(TrainingSet(both, Y, None, (), 0, "cpu"))
    parts = [fits.fit_predict(split.training, [split.held_out])[0] for split in splits]
    return Finished(np.concatenate(parts), Cost(len(parts), 0.0, 0.0, 0.0, ""))


def markdown(report: dict[str, Any]) -> str:
    """Return a row a variant and a column a task: MRRMSE, and the difference from the member as it is."""
    tasks, rows = report["tasks"], []
    for name in next(iter(tasks.values()))["order"]:
        found = [task["methods"][name] for task in tasks.values()]
        cells = (
            f"{o['scores'][MRRMSE]:.4f}" + ("" if name == AS_IT_IS else f", {difference(o)}") for o in found
        )
        rows.append((f"`{name}`", *cells))
    heads = (f"{name} ({task['rows']} rows)" for name, task in tasks.items())
    return "\n".join(harness.table((f"recipe, minus `{AS_IT_IS}` (95 % interval)", *heads), rows))


if __name__ == "__main__":
    main()
