"""Several runs as one submission: the values against a loop, the scores against the metric, every refusal in words."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from rapids_pipeline.backend.files import sha256_of
from rapids_pipeline.data.columns import TableOptions
from rapids_pipeline.data.tables import PerturbationData, read_responses
from rapids_pipeline.evaluation.metrics import mean_rowwise_rmse
from rapids_pipeline.predictions import formats
from rapids_pipeline.predictions.combine import aggregate, out_of_fold_scores
from rapids_pipeline.predictions.formats import write_kaggle_csv
from tests.command_line import error_line, invoke, succeed

GENES = ["A1BG", "A.1", "A", "AACS"]  # "A" is what precedes the dot of another gene
IDS = ["3", "1", "2", "0", "5"]
N_TRAIN = 7


@dataclass
class Runs:
    """Run folders made by hand, what they predict, and the submission to make of them."""

    folders: list[Path]
    test: Path
    train: Path
    Y: np.ndarray  # (n_runs, 5, 4)
    oof: np.ndarray  # (n_runs, 7, 4)
    truth: np.ndarray
    out: Path

    def submit(self, *more):
        runs = [part for folder in self.folders for part in ("--run", folder)]
        return invoke("submit", *runs, "--out", self.out, *more)

    def said(self, *more):
        """Return what the command says on stderr where it writes the submission."""
        result = self.submit(*more)
        assert result.exit_code == 0 and self.out.exists(), result.output
        return result.stderr

    def refused(self, *more):
        """Return what the command says on stderr where it ends with exit code 2 and writes nothing."""
        line = error_line(self.submit(*more))
        assert not self.out.exists()
        return f"{line}\n"


def training_rows():
    names = [f"compound {k}" for k in range(N_TRAIN)]
    return pd.DataFrame(
        {"cell_type": "T", "sm_name": names, "SMILES": ["C" * (k + 1) for k in range(N_TRAIN)]}
    )


def write_oof(path, values):
    pd.concat([training_rows(), pd.DataFrame(values, columns=GENES)], axis=1).to_parquet(path, index=False)


def recorded(path):
    return {"path": str(path), "sha256": sha256_of(path)}


def edit_manifest(run, change):
    path = run / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.fixture
def runs(tmp_path):
    """Four runs, each with its rows and genes in an order of its own."""
    rng = np.random.default_rng(0)
    test, train = tmp_path / "id_map.csv", tmp_path / "de_train.parquet"
    pd.DataFrame({"id": IDS, "cell_type": "B", "sm_name": list("vwxyz")}).to_csv(test, index=False)
    truth = rng.normal(size=(N_TRAIN, 4)).astype(np.float32)
    write_oof(train, truth)
    Y = rng.normal(size=(4, 5, 4)).astype(np.float32)
    oof = (truth + rng.normal(size=(4, N_TRAIN, 4))).astype(np.float32)
    folders = []
    for k in range(4):
        folder = tmp_path / f"seed-{k}"
        folder.mkdir()
        rows, columns = np.roll(np.arange(5), k), np.roll(np.arange(4), k)
        ids, genes = [IDS[row] for row in rows], [GENES[column] for column in columns]
        write_kaggle_csv(folder / "submission.csv", ids, genes, Y[k][rows][:, columns])
        write_oof(folder / "oof.parquet", oof[k])
        manifest = {
            "inputs": {"train": recorded(train), "test": recorded(test)},
            "options": {"layer": "clipped_sign_log10_pval", "metadata_columns": []},
            "config": {"recipe": {"name": "quick"}, "molecules": "morgan", "seed": k},
            "device": "cpu",
        }
        (folder / "manifest.json").write_text(json.dumps(manifest))
        folders.append(folder)
    return Runs(folders, test, train, Y, oof, truth, tmp_path / "s.csv")


def middle_by_loop(tables, how):
    """Return the median or mean, value by value."""
    out = np.empty(tables[0].shape, np.float32)
    for place in np.ndindex(*out.shape):
        values = sorted(float(table[place]) for table in tables)
        n = len(values)
        if how == "mean":
            out[place] = sum(values) / n
        else:
            out[place] = values[n // 2] if n % 2 else (values[n // 2 - 1] + values[n // 2]) / 2
    return out


finite = st.floats(-1e6, 1e6, width=32)


@settings(max_examples=60, deadline=None)
@given(
    arrays.arrays(
        np.float32, st.tuples(st.integers(1, 6), st.integers(1, 4), st.integers(1, 4)), elements=finite
    ),
    st.sampled_from(["median", "mean"]),
    st.randoms(use_true_random=False),
)
def test_every_value_is_that_of_a_loop_whatever_the_order_of_the_runs(tables, how, random):
    found = aggregate(list(tables), how)
    np.testing.assert_allclose(found, middle_by_loop(tables, how), rtol=1e-6, atol=1e-6)
    order = random.sample(range(len(tables)), len(tables))
    np.testing.assert_allclose(aggregate(list(tables[order]), how), found, rtol=1e-6, atol=1e-6)
    assert (found >= tables.min(axis=0)).all() and (found <= tables.max(axis=0)).all()


@pytest.mark.parametrize("how", [None, "median", "mean"])
@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet", ".h5ad"])
def test_runs_are_combined_in_the_order_of_the_first(runs, tmp_path, how, suffix):
    if suffix == ".h5ad":
        pytest.importorskip("anndata")
    runs.out = tmp_path / f"made{suffix}"
    runs.said(*([] if how is None else ["--combine", how]))
    back = read_responses(runs.out, TableOptions(layer="prediction"))
    assert back.obs["id"].astype(str).tolist() == IDS and list(back.genes) == GENES
    np.testing.assert_allclose(back.Y, middle_by_loop(runs.Y, how or "median"), rtol=1e-6)
    succeed("submit", "--check", runs.out, "--run", runs.folders[0])


@pytest.mark.parametrize("how", ["median", "mean"])
def test_each_run_and_the_combination_are_scored(runs, how):
    result = runs.submit("--combine", how)
    lines = result.stdout.splitlines()
    assert lines[0] == "MRRMSE of 7 training rows, out-of-fold:"
    expected = [mean_rowwise_rmse(runs.truth, x) for x in (*runs.oof, middle_by_loop(runs.oof, how))]
    names = [*map(str, runs.folders), f"their {how}"]
    assert [line.rsplit(maxsplit=1)[0].strip() for line in lines[1:6]] == names
    assert [line.rsplit(maxsplit=1)[1] for line in lines[1:6]] == [f"{score:.4f}" for score in expected]
    assert f"their {how} is out-of-fold, too" in lines[6]
    assert lines[7] == f"5 rows × 4 genes written: {runs.out}"
    assert result.stderr == ""


@pytest.mark.parametrize("block", [1, 60, 2**22])
def test_scores_are_the_metrics_whatever_the_blocks(runs, monkeypatch, block):
    monkeypatch.setattr(formats, "BLOCK_VALUES", block)
    truth = PerturbationData(training_rows(), runs.truth, tuple(GENES))
    files = [folder / "oof.parquet" for folder in runs.folders]
    found = out_of_fold_scores(files, truth, runs.train, "median")
    expected = [mean_rowwise_rmse(runs.truth, table) for table in (*runs.oof, np.median(runs.oof, axis=0))]
    np.testing.assert_allclose([*found.single, found.combination], expected, rtol=1e-6)
    assert found.n_rows == N_TRAIN


def test_out_of_fold_scores_count_tested_entries_only(runs):
    runs.truth[2, 1] = runs.truth[4, :3] = np.nan
    truth = PerturbationData(training_rows(), runs.truth, tuple(GENES))
    found = out_of_fold_scores([folder / "oof.parquet" for folder in runs.folders], truth, runs.train, "mean")
    expected = [mean_rowwise_rmse(runs.truth, table) for table in (*runs.oof, np.mean(runs.oof, axis=0))]
    np.testing.assert_allclose([*found.single, found.combination], expected, rtol=1e-6)


def test_one_run_is_submitted_as_it_is(runs):
    runs.folders = runs.folders[:1]
    assert runs.submit("--combine", "mean").stdout == f"5 rows × 4 genes written: {runs.out}\n"
    assert runs.out.read_bytes() == (runs.folders[0] / "submission.csv").read_bytes()


# --- runs that do not go together ---------------------------------------------------------------------------


def give(run, ids=IDS, names="vwxyz", genes=GENES):
    """Make a run one of other ids, pairs or genes."""
    pairs = pd.DataFrame({"id": ids, "cell_type": "B", "sm_name": list(names)})
    path = run.with_name("other.csv")
    pairs.to_csv(path, index=False)
    write_kaggle_csv(run / "submission.csv", ids, genes, np.zeros((len(ids), len(genes)), np.float32))
    edit_manifest(run, lambda content: content["inputs"].update(test=recorded(path)))


SAME = "; runs that are combined must have the same"


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"ids": IDS[:3], "names": "abc"}, f"lacks 2 of the ids of {{first}} ('0', '5'){SAME} ids"),
        ({"ids": [*IDS, "9"], "names": "vwxyza"}, f"has 1 ids that {{first}} lacks ('9'){SAME} ids"),
        (
            {"ids": [*IDS[1:], "9"]},
            f"lacks 1 of the ids of {{first}} ('3') and has 1 ids that {{first}} lacks ('9'){SAME} ids",
        ),
        (
            {"genes": [*GENES[:3], "X"]},
            f"lacks 1 of the genes of {{first}} ('AACS') and has 1 genes that {{first}} lacks ('X'){SAME} genes",
        ),
        (
            {"names": "vwxzy"},
            "id 0 is ('B', 'z'), but ('B', 'y') in {first}; runs that are combined must predict the same pairs under "
            "the same ids",
        ),
    ],
)
def test_other_ids_genes_and_pairs_are_refused(runs, other, words):
    give(runs.folders[2], **other)
    first, third = (runs.folders[k] / "submission.csv" for k in (0, 2))
    assert runs.refused() == f"error: {third}: {words.format(first=first)}\n"


def test_runs_whose_pairs_nobody_knows_are_refused(runs):
    edit_manifest(runs.folders[1], lambda content: content["inputs"]["test"].update(path="/gone.csv"))
    runs.said()  # the hash says that they are the same
    runs.out.unlink()
    edit_manifest(runs.folders[1], lambda content: content["inputs"]["test"].update(sha256="0" * 64))
    assert runs.refused() == (
        f"error: --run {runs.folders[1]}: its pairs cannot be compared with those of {runs.folders[0]} (the run's test "
        "file /gone.csv is gone); put the test files back where the runs read them\n"
    )


def test_without_the_files_they_were_made_from_runs_are_combined_and_not_scored(runs):
    """As where the runs were made in a container, and are combined outside it."""
    runs.test.unlink()
    runs.train.unlink()
    result = runs.submit()
    assert result.exit_code == 0 and result.stdout == f"5 rows × 4 genes written: {runs.out}\n", result.output
    assert f"not scored out-of-fold: the run's train file {runs.train} is gone" in result.stderr
    assert f"the run's test file {runs.test} is gone: ids and their order are those of" in result.stderr
    np.testing.assert_allclose(read_responses(runs.out).Y, np.median(runs.Y, axis=0), rtol=1e-6)


def test_a_run_that_differs_in_more_than_its_seed_is_named(runs):
    def change(content):
        content["config"]["molecules"] = "descriptors"
        content["inputs"]["train"]["sha256"] = "0" * 64

    edit_manifest(runs.folders[2], change)
    assert runs.said().splitlines() == [
        f"{runs.folders[2]} differs from {runs.folders[0]} in more than the seed: training file, molecules",
        f"not scored out-of-fold: {runs.folders[2]} was trained on another file than {runs.folders[0]}",
    ]


def test_a_copy_of_a_run_is_named(runs, tmp_path):
    shutil.copytree(runs.folders[1], tmp_path / "copy")
    assert runs.said("--run", tmp_path / "copy") == (
        f"{tmp_path}/copy has the training file, settings and seed of {runs.folders[1]}: the same run counts twice\n"
    )


def changed(change):
    """Return a damage that writes another table."""
    return lambda path, oof: change(pd.read_parquet(path)).to_parquet(path, index=False)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path, oof: path.write_bytes(b"PAR1" * 9), "cannot be read as Parquet ("),
        (lambda path, oof: path.write_bytes(b""), "the file is empty (0 bytes)"),
        (
            lambda path, oof: write_oof(path, np.where(oof == oof[1, 2], np.nan, oof)),
            "row 2, gene A is nan; it is ",
        ),
        (changed(lambda table: table.iloc[::-1]), "row 1 is ('T', 'compound"),
        (changed(lambda table: table.iloc[1:]), "has 6 rows, "),
        (changed(lambda table: table.drop(columns="A")), "lacks 1 column(s)"),
    ],
)
def test_damaged_out_of_fold_predictions_are_refused(runs, damage, words):
    path = runs.folders[1] / "oof.parquet"
    damage(path, runs.oof[1])
    assert f"error: {path}: {words}" in runs.refused()


def test_a_run_without_out_of_fold_predictions_is_not_scored(runs):
    (runs.folders[3] / "oof.parquet").unlink()
    assert runs.said() == f"not scored out-of-fold: {runs.folders[3]} has no oof.parquet\n"


@pytest.mark.parametrize("more", [[], ["--overwrite"]])
def test_no_runs_result_is_overwritten(runs, more):
    runs.out = runs.folders[1] / "submission.csv"
    before = runs.out.read_bytes()
    assert "is an input or a run's result" in error_line(runs.submit(*more))
    assert runs.out.read_bytes() == before
