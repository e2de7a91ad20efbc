"""The predictions to submit: those of a run, of several runs combined, or of a saved model."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.run_folder import MANIFEST, OOF, SUBMISSION, recorded_hash, recorded_input
from rapids_pipeline.data.pairs import read_pairs, with_smiles
from rapids_pipeline.data.tables import read_training
from rapids_pipeline.predictions.check import faults_of
from rapids_pipeline.predictions.combination import combined
from rapids_pipeline.predictions.expected import IdMap, id_map_of, read_id_map
from rapids_pipeline.predictions.found import read_found
from rapids_pipeline.predictions.out_of_fold import OutOfFoldScores, out_of_fold_scores
from rapids_pipeline.predictions.recorded import (
    recorded_settings,
    remarks_on,
)
from rapids_pipeline.predictions.selection import Predicted, with_rows
from rapids_pipeline.predictions.table import as_float32


def predictions_of_run(run: Path, *, quiet: bool = False) -> Predicted:
    """Return what a run predicted, in the order of its test file, or of its `submission.csv` where that has gone.

    A note says where it has gone, unless `quiet`.

    Raises
    ------
    InputError
        The folder has no `submission.csv`, or one that no run leaves; its test file has other ids.
    """
    source = run / SUBMISSION
    if not source.is_file():
        raise InputError(f"--run {run}: has no {SUBMISSION}; give the folder of a finished run")
    found = read_found(source)
    faults = faults_of(found, list(dict.fromkeys(found.ids or ())))
    if faults or found.ids is None or found.Y is None:
        raise InputError(f"{source}: {faults[0]}; it is not as a run leaves it")
    predicted = Predicted(source, IdMap(found.ids), source, found.columns, as_float32(found.Y))
    test, obstacle = recorded_input(run / MANIFEST, "test")
    if test is not None:
        return with_rows(predicted, read_id_map(test), test)
    note = f"{obstacle}: ids and their order are those of {source}"
    return predicted if quiet else replace(predicted, notes=[note])


def predictions_of_model(model: Path, pairs_file: Path) -> Predicted:
    """Return what a saved model predicts for the pairs of a file; errors as `load_model` and `read_pairs`."""
    from rapids_pipeline.stack.saved import load_model

    asked = read_pairs(pairs_file)
    loaded = load_model(model)
    values, notes = loaded.predict(with_smiles(asked, loaded.obs, pairs_file))
    return Predicted(model, id_map_of(pairs_file, asked), pairs_file, list(loaded.genes), values, notes)


def predictions_of_runs(
    runs: Sequence[Path], how: str, *, quiet: bool = False
) -> tuple[Predicted, OutOfFoldScores | None]:
    """Return the median (or mean) of what runs predicted, in the order of the first, and their scores.

    One run has its own predictions and no scores. Notes name runs that differ in more than their seed, and say why
    there are no scores where they cannot be had.

    Raises
    ------
    InputError
        As `predictions_of_run`, `combined` and `out_of_fold_scores`; or nothing says which pairs a run predicted.
    """
    first = predictions_of_run(runs[0], quiet=quiet)
    if len(runs) == 1:
        return first, None
    others = [predictions_of_run(run, quiet=True) for run in runs[1:]]
    for run, other in zip(runs[1:], others, strict=True):
        _require_known_pairs(runs[0], first, run, other)
    made = combined([first, *others], how)
    settings = [recorded_settings(run / MANIFEST) for run in runs]
    notes = remarks_on([str(run) for run in runs], settings)
    scores, obstacle = _scores(runs, how)
    notes += [f"not scored out-of-fold: {obstacle}"] if obstacle else []
    return replace(made, notes=[*made.notes, *notes]), scores


def _scores(runs: Sequence[Path], how: str) -> tuple[OutOfFoldScores | None, str]:
    """Return what runs and their combination score on the training rows, or None and why they cannot be scored."""
    without = [run for run in runs if not (run / OOF).is_file()]
    if without:
        return None, f"{without[0]} has no {OOF}"
    train, obstacle = recorded_input(runs[0] / MANIFEST, "train")
    if train is None:
        return None, obstacle
    hashes = [recorded_hash(run / MANIFEST, "train") for run in runs]
    unlike = [run for run, found in zip(runs, hashes, strict=True) if found != hashes[0]]
    if unlike:
        return None, f"{unlike[0]} was trained on another file than {runs[0]}"
    options = recorded_settings(runs[0] / MANIFEST).values
    try:
        layer, extra = str(options["layer"]), [str(name) for name in options["metadata_columns"]]
    except (KeyError, TypeError):
        return None, f"{runs[0] / MANIFEST} does not say how the training file was read"
    truth = read_training(train, layer=layer, extra_metadata=extra)
    return out_of_fold_scores([run / OOF for run in runs], truth, train, how), ""


def _require_known_pairs(first: Path, one: Predicted, run: Path, other: Predicted) -> None:
    """Raise InputError where neither test files nor their hashes say whether two runs predicted the same pairs."""
    if one.rows.pairs is not None and other.rows.pairs is not None:
        return
    recorded = [recorded_hash(folder / MANIFEST, "test") for folder in (first, run)]
    if recorded[0] is not None and recorded[0] == recorded[1]:
        return
    obstacle = next(
        (why for folder in (first, run) if (why := recorded_input(folder / MANIFEST, "test")[1])),
        "a test file has no cell_type and sm_name",
    )
    raise InputError(
        f"--run {run}: its pairs cannot be compared with those of {first} ({obstacle}); put the test files back where "
        "the runs read them"
    )
