"""The problem: files or the demo in, rows and pairs in canonical order out, and the way back."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.files import sha256_of
from rapids_pipeline.data import demo
from rapids_pipeline.data.columns import TableOptions
from rapids_pipeline.data.problem import (
    PRIOR_REPLICATES,
    ProblemFiles,
    averaged,
    canonical_order,
    open_problem,
    require_pairs,
    without_copies,
)
from rapids_pipeline.data.tables import PerturbationData
from tests.data.tables_example import table, write

PAIRS = pd.DataFrame(
    {"id": list("cab"), "cell_type": ["Z", "B", "Z"], "sm_name": ["benzene", "ethanol", "aspirin"]}
)


@pytest.fixture
def files(tmp_path):
    shuffled = table().sample(frac=1, random_state=0)
    train, test = tmp_path / "t.parquet", tmp_path / "p.csv"
    return ProblemFiles(
        write(shuffled.assign(plate_number=range(6)), train),
        write(PAIRS, test),
        TableOptions(metadata_columns=("plate_number",)),
    )


def test_rows_and_pairs_are_in_canonical_order_and_lead_back_to_the_files(files):
    problem = open_problem(files)
    pairs = list(problem.data.obs[["cell_type", "sm_name"]].itertuples(index=False, name=None))
    assert pairs == sorted(pairs)
    assert problem.asked["id"].tolist() == ["a", "b", "c"]
    assert problem.asked["SMILES"].tolist() == ["CCO", "CC(=O)Oc1ccccc1C(=O)O", "c1ccccc1"]
    assert problem.asked["id"].iloc[problem.pairs_file_order].tolist() == list("cab")
    read = pd.read_parquet(files.train)
    assert problem.data.obs["plate_number"].iloc[problem.file_order].tolist() == read["plate_number"].tolist()
    np.testing.assert_array_equal(problem.data.Y[problem.file_order, 0], read["A1BG"].astype(np.float32))
    assert problem.data.genes == ("A1BG", "A1BG-AS1", "A2M", "ZZZ3")
    assert problem.shape == {"training_rows": 6, "test_rows": 3, "genes": 4}


def test_inputs_are_described_for_a_manifest(files):
    problem = open_problem(files)
    assert problem.source == str(files.train)
    assert {name: found["sha256"] for name, found in problem.inputs.items()} == {
        "train": sha256_of(files.train),
        "test": sha256_of(files.test),
    }


def test_a_problem_may_have_no_pairs(files):
    problem = open_problem(ProblemFiles(files.train, None, files.options))
    assert problem.pairs is None
    assert list(problem.inputs) == ["train"]
    assert problem.shape["test_rows"] == 0
    with pytest.raises(InputError, match="there are no pairs to predict; give a file of them with --test"):
        require_pairs(problem)
    assert list(problem.asked.columns) == ["cell_type", "sm_name", "SMILES", "id"] and not len(problem.asked)


def test_without_a_training_file_the_demo_is_the_problem(files, monkeypatch):
    made = demo.simulate(0, 2)
    monkeypatch.setattr(demo, "simulate", lambda: made)
    problem = open_problem(ProblemFiles(None))
    assert (problem.source, problem.inputs) == ("demo data (simulated)", {})
    assert problem.shape == {"training_rows": 614, "test_rows": 255, "genes": 2}
    ids = problem.asked["id"].iloc[problem.pairs_file_order]
    assert ids.tolist() == made.id_map["id"].tolist()
    other = write(PAIRS.assign(cell_type="B cells", sm_name="Idelalisib"), files.test)
    assert open_problem(ProblemFiles(None, other)).asked["id"].tolist() == list("cab")


def test_canonical_order_is_by_cell_type_then_compound():
    obs = pd.DataFrame({"sm_name": list("baba"), "cell_type": ["Y", "Y", "X", "X"]}, index=[7, 7, 3, 1])
    assert canonical_order(obs).tolist() == [3, 2, 1, 0]


def test_rows_of_one_pair_are_in_order_of_dose_time_batch_and_replicate():
    rows = [
        (None, 2, "a", "1"),
        (1, 24, "a", "1"),
        (1, 2, "b", "1"),
        (1, 2, "a", "2"),
        (1, 2, "a", "1"),
        (0, 9, "z", "9"),
    ]
    obs = pd.DataFrame(rows, columns=["dose_uM", "time_h", "batch", "replicate"]).assign(
        cell_type="A", sm_name="x"
    )
    assert canonical_order(obs).tolist() == [5, 4, 3, 2, 1, 0]
    with pytest.raises(InputError, match="column dose_uM must hold numbers only"):
        canonical_order(obs.assign(dose_uM="1 uM"))


def replicated(**columns):
    """A pair at two doses, three and two times, and one row of another pair, in turn."""
    obs = pd.DataFrame(
        {"cell_type": "A", "sm_name": list("xxxxxy"), "SMILES": "C", "dose_uM": [1, 2, 1, 2, 1, 1.0]}
    )
    rng = np.random.default_rng(0)
    Y = rng.normal(size=(6, 50)).astype(np.float32) * np.array([3, 0.1, 3, 0.1, 3, 1], np.float32)[:, None]
    return PerturbationData(obs.assign(**columns), Y, tuple(f"G{k}" for k in range(50)))


def test_replicates_are_averaged_and_those_few_or_unlike_count_less():
    data = replicated(batch=list("aabaaa"), replicate=list("112231"))
    found = averaged(data)
    assert found.obs["dose_uM"].tolist() == [1, 2, 1] and found.obs["sm_name"].tolist() == list("xxy")
    assert found.obs["batch"].fillna("").tolist() == ["", "a", "a"]
    assert found.obs["replicate"].fillna("").tolist() == ["", "", "1"]
    members = [[0, 2, 4], [1, 3], [5]]
    np.testing.assert_allclose(found.Y, [data.Y[rows].mean(axis=0) for rows in members], atol=1e-6)
    variance = [data.Y[rows].var(axis=0, ddof=1).mean() if len(rows) > 1 else 0.0 for rows in members]
    pooled = (2 * variance[0] + variance[1]) / 3
    noise = [
        (PRIOR_REPLICATES * pooled + (len(rows) - 1) * v) / (PRIOR_REPLICATES + len(rows) - 1)
        for rows, v in zip(members, variance, strict=True)
    ]
    expected = np.array([3, 2, 1]) / noise
    np.testing.assert_allclose(found.weight, expected / expected.mean(), rtol=1e-5)
    noisy, quiet = found.weight[0] / 3, found.weight[1] / 2
    assert noisy < quiet, "replicate noise lowers a row's weight"
    alike = averaged(replace(data, Y=np.ones_like(data.Y)))
    np.testing.assert_allclose(alike.weight, np.array([3, 2, 1]) / 2)


def test_noise_between_replicates_lowers_a_rows_weight():
    """Two pairs of three replicates each; those of one are spread ten times as far."""
    rng = np.random.default_rng(0)
    mean, spread = rng.normal(size=(2, 1, 40)), rng.normal(size=(2, 3, 40))
    spread -= spread.mean(axis=1, keepdims=True)
    Y = (mean + np.array([0.1, 1.0])[:, None, None] * spread).reshape(6, 40).astype(np.float32)
    obs = pd.DataFrame({"cell_type": "A", "sm_name": list("xxxyyy"), "SMILES": "C"})
    quiet, noisy = averaged(PerturbationData(obs, Y, tuple(f"G{k}" for k in range(40)))).weight
    variance = [Y[rows].var(axis=0, ddof=1).mean() for rows in (slice(3), slice(3, 6))]
    drawn = [(PRIOR_REPLICATES * np.mean(variance) + 2 * v) / (PRIOR_REPLICATES + 2) for v in variance]
    assert quiet / noisy == pytest.approx(drawn[1] / drawn[0], rel=1e-4) and quiet / noisy > 1.9


def test_identical_rows_are_copies_and_count_once(tmp_path):
    data = replicated(batch=list("aaaaab"))
    copied = data.take(np.array([0, 1, 0, 2, 3, 4, 5, 4, 4]))
    copied.Y[[0, 2], 3] = 0.0, -0.0
    data.Y[0, 3] = 0.0
    files = {}
    for name, made in (("once", data), ("copied", copied)):
        files[name] = tmp_path / f"{name}.csv"
        pd.concat([made.obs, pd.DataFrame(made.Y, columns=made.genes)], axis=1).to_csv(
            files[name], index=False
        )
    for how in ("mean", "keep"):
        once, found = (open_problem(ProblemFiles(files[name], replicates=how)) for name in ("once", "copied"))
        assert found.data.Y.tobytes() == once.data.Y.tobytes()
        assert how == "keep" or found.data.weight.tobytes() == once.data.weight.tobytes()
        said = (
            "3 rows are identical copies of another row of their compound and context, such as row 3 of row 1; "
            "each is counted once"
        )
        assert found.notes == [said, *once.notes] and "6 rows measure 3 contexts" in once.notes[0]
    gap = copied.take(np.arange(3))
    gap.Y[2, 9] = np.nan
    assert without_copies(gap)[0] is gap, "another gene untested: no copy"
    gap.Y[0, 9] = np.nan
    assert len(without_copies(gap)[0].obs) == 2


def test_replicates_are_weighted_by_their_column_and_untested_genes_left_out():
    data = replicated(n_cells=[10, 1, 30, 1, 60, 5])
    data.Y[0, 7] = np.nan
    data.Y[[1, 3], 8] = np.nan
    found = averaged(data)
    np.testing.assert_allclose(
        found.Y[0, :7], np.average(data.Y[[0, 2, 4], :7], axis=0, weights=[10, 30, 60]), rtol=1e-5
    )
    assert found.Y[0, 7] == pytest.approx(np.average(data.Y[[2, 4], 7], weights=[30, 60]), rel=1e-5)
    assert np.isnan(found.Y[1, 8]) and np.isfinite(found.Y[:, 9:]).all()
    assert found.obs["n_cells"].tolist() == [100, 2, 5]
    by_weight = averaged(replicated(n_cells=1.0, weight=[10, 1, 30, 1, 60, 5]))
    np.testing.assert_allclose(by_weight.Y[0, :7], found.Y[0, :7], rtol=1e-5)
    with pytest.raises(
        InputError, match="column n_cells, row 2: 0 is missing or not above 0, and replicates are"
    ):
        averaged(replicated(n_cells=[1, 0, 1, 1, 1, 1]))


def test_rows_without_replicates_stay_as_they_are():
    data = replicated(time_h=np.arange(6), n_cells=0)
    assert averaged(data) is data and data.weight is None


def test_a_problem_averages_or_keeps_replicates_and_says_so(tmp_path):
    data = replicated()
    train = tmp_path / "t.csv"
    pd.concat([data.obs, pd.DataFrame(data.Y, columns=data.genes)], axis=1).to_csv(train, index=False)
    mean = open_problem(ProblemFiles(train))
    assert len(mean.data.obs) == len(mean.file_order) == 3 and mean.data.weight.mean() == pytest.approx(1)
    assert mean.notes == [
        "6 rows measure 3 contexts (compound, cell type, dose, time): replicates are averaged"
    ]
    kept = open_problem(ProblemFiles(train, replicates="keep"))
    assert len(kept.data.obs) == 6 and kept.data.weight is None and "rows of their own" in kept.notes[0]
    with pytest.raises(InputError, match="--replicates median: choose mean or keep"):
        open_problem(ProblemFiles(train, replicates="median"))
    pairs = pd.DataFrame({"id": [0, 1], "cell_type": "A", "sm_name": "x", "dose_uM": [3.0, np.nan]})
    pairs.to_csv(tmp_path / "p.csv", index=False)
    assert (
        open_problem(ProblemFiles(train, tmp_path / "p.csv"))
        .notes[1]
        .startswith("1 of 2 pairs have no dose_uM, in which the training rows differ")
    )


@given(st.permutations([(c, m) for c in ("B cells", "T cells") for m in ("a", "aa", "B", "é")]))
def test_canonical_order_does_not_depend_on_the_file(pairs):
    obs = pd.DataFrame(pairs, columns=["cell_type", "sm_name"])
    ordered = obs.iloc[canonical_order(obs)]
    assert list(ordered.itertuples(index=False, name=None)) == sorted(pairs)


def test_rows_that_are_all_alike_teach_nothing(tmp_path):
    genes = ["A1BG", "A1BG-AS1", "A2M", "ZZZ3"]
    path = write(table().assign(**dict.fromkeys(genes, 0.0)), tmp_path / "t.parquet")
    with pytest.raises(InputError, match="every gene has one value in all rows, so there is nothing"):
        open_problem(ProblemFiles(path, None))
