"""The demonstration data: real layout, reproducible values, published baselines, informative structures."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.svm import SVR

from features.molecules.smiles import canonical_smiles
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.data import demo
from rapids_pipeline.data.demo import DemoData, Size, simulate, write_demo
from rapids_pipeline.data.tables import PerturbationData
from rapids_pipeline.evaluation.baselines import BASELINES
from rapids_pipeline.evaluation.metrics import mean_rowwise_rmse

META = ["cell_type", "sm_name", "sm_lincs_id", "SMILES", "control"]
PUBLISHED = {
    "zeros": 0.918,
    "mean_outcome": 0.899,
    "mean_across_celltypes": 0.8925,
    "mean_across_compounds": 0.943,
}


def values(table: pd.DataFrame) -> np.ndarray:
    return table.drop(columns=["id", *META], errors="ignore").to_numpy()


def training(data: DemoData) -> PerturbationData:
    values_ = np.ascontiguousarray(values(data.de_train))
    return PerturbationData(data.de_train[META], values_, tuple(data.de_train.columns[5:]))


def baselines(data: DemoData) -> dict[str, float]:
    truth, known = values(data.de_test), training(data)
    return {
        name: mean_rowwise_rmse(truth, predict(known, data.id_map)) for name, predict in BASELINES.items()
    }


@pytest.fixture(scope="module")
def small() -> DemoData:
    return simulate(seed=0, n_genes=600)


# --- the layout -------------------------------------------------------------------------------------------


def test_full_size_has_the_shape_of_the_task_and_the_published_baselines() -> None:
    for seed in range(3):
        data = simulate(seed)
        assert data.de_train.shape == (614, 5 + 18211)
        assert data.id_map.shape == (255, 3)
        assert data.de_test.shape == (255, 6 + 18211)
        assert data.de_train["sm_name"].nunique() == 146
        scores = baselines(data)
        assert scores == pytest.approx(PUBLISHED, abs=0.03), f"seed {seed}"
        assert sorted(scores, key=scores.__getitem__) == sorted(PUBLISHED, key=PUBLISHED.__getitem__)
        shrunk = BASELINES["mean_across_compounds"](training(data), data.id_map) / 2
        half = mean_rowwise_rmse(values(data.de_test), shrunk)
        assert half < scores["mean_across_celltypes"] - 0.04  # the compounds are worth knowing, but shrunk


def test_layout_is_the_real_one(shared_data: Path) -> None:
    folder = shared_data / "op2_layout"
    if not folder.exists():
        pytest.skip(f"{folder} is not there")
    data = simulate(seed=1)
    genes = (folder / "genes.txt").read_text().split()
    pairs = pd.read_csv(folder / "de_train_pairs.csv")
    assert list(data.de_train.columns) == META + genes
    assert list(data.de_test.columns) == ["id", *META, *genes]
    pd.testing.assert_frame_equal(data.de_train[META], pairs)
    pd.testing.assert_frame_equal(data.id_map, pd.read_csv(folder / "id_map.csv"))
    pd.testing.assert_frame_equal(data.de_test[["id", "cell_type", "sm_name"]], data.id_map)
    compounds = pairs.drop_duplicates("sm_name").set_index("sm_name")
    expected = compounds.loc[data.de_test["sm_name"], ["sm_lincs_id", "SMILES", "control"]]
    pd.testing.assert_frame_equal(data.de_test[list(expected)], expected.reset_index(drop=True))


def test_stored_keys_are_the_compounds_maccs_keys() -> None:
    chem = pytest.importorskip("rdkit.Chem")
    keys = pytest.importorskip("rdkit.Chem.MACCSkeys")
    layout = demo._read_layout()
    different = total = 0
    for smiles, packed in zip(layout.compounds["SMILES"], layout.maccs, strict=True):
        real = int(keys.GenMACCSKeys(chem.MolFromSmiles(smiles)).ToBitString(), 2)
        different += (real ^ int(packed, 16)).bit_count()
        total += real.bit_count()
    assert different <= 0.01 * total  # another version of RDKit may define a key otherwise


# --- the values -------------------------------------------------------------------------------------------


def test_a_seed_gives_the_same_data_and_another_seed_other_data(small: DemoData) -> None:
    again = simulate(seed=0, n_genes=600)
    for name in ("de_train", "id_map", "de_test"):
        pd.testing.assert_frame_equal(getattr(small, name), getattr(again, name), check_exact=True)
    other = simulate(seed=1, n_genes=600)
    pd.testing.assert_frame_equal(other.id_map, small.id_map)
    correlation = np.corrcoef(values(small.de_train).ravel(), values(other.de_train).ravel())[0, 1]
    assert abs(correlation) < 0.05


@pytest.mark.parametrize("n_genes", [1, 37])
def test_a_gene_does_not_depend_on_how_many_genes_are_kept(small: DemoData, n_genes: int) -> None:
    fewer = simulate(seed=0, n_genes=n_genes)
    assert list(fewer.de_train.columns[5:]) == list(small.de_train.columns[5 : 5 + n_genes])
    assert fewer.de_train.columns[5] == "A1BG"
    np.testing.assert_allclose(values(fewer.de_train), values(small.de_train)[:, :n_genes], atol=1e-4)
    np.testing.assert_allclose(values(fewer.de_test), values(small.de_test)[:, :n_genes], atol=1e-4)


def test_values_are_float32_heavy_tailed_and_clipped(small: DemoData) -> None:
    for table in (small.de_train, small.de_test):
        y = values(table)
        assert y.dtype == np.float32
        assert set(table.dtypes.iloc[-600:]) == {np.dtype("float32")}
        assert np.isfinite(y).all()
        assert y.max() == 4.0
        assert y.min() == -4.0
        assert 0.005 < np.mean(np.abs(y) == 4.0) < 0.05
        rows = np.sqrt(np.mean(y**2, axis=1))
        assert rows.min() < 0.7  # close to a row without effect: 0.61
        assert rows.max() > 2.0


def test_values_are_signed_log10_p_values() -> None:
    z = np.array([[0.0, 0.3, -1.0], [2.0, -3.0, 40.0]], dtype=np.float32)
    naive = [
        [math.copysign(-math.log10(math.erfc(min(abs(v), 9) / math.sqrt(2))), v) for v in row] for row in z
    ]
    np.testing.assert_allclose(demo._signed_log10_p_values(z), np.clip(naive, -4, 4), rtol=1e-5, atol=1e-7)


def test_cell_types_are_related_as_stated() -> None:
    table = np.array(demo.RELATEDNESS)
    np.testing.assert_array_equal(table, table.T)
    loadings = demo._cell_loadings(40, np.random.default_rng(3))
    np.testing.assert_allclose(loadings @ loadings.T / 40, table, atol=1e-10)


def test_centred_similarity_equals_a_naive_loop() -> None:
    packed = ["0f", "3c", "81", "ff"]
    on = [{bit for bit in range(8) if int(keys, 16) >> bit & 1} for keys in packed]
    tanimoto = np.array([[len(a & b) / len(a | b) for b in on] for a in on])
    centring = np.eye(4) - 0.25
    np.testing.assert_allclose(demo._centred_similarity(packed), centring @ tanimoto @ centring, atol=1e-12)


@pytest.mark.parametrize("arguments", [{"n_genes": 0}, {"n_genes": 18212}, {"n_genes": -5}, {"seed": -1}])
def test_what_cannot_be_simulated_is_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(InputError, match=next(iter(arguments))):
        simulate(**arguments)


# --- what a model can learn -------------------------------------------------------------------------------


def test_no_test_pair_is_among_the_training_rows_and_the_map_has_no_values(small: DemoData) -> None:
    pairs = small.de_train[["cell_type", "sm_name"]]
    assert len(pairs.merge(small.id_map)) == 0
    assert list(small.id_map.columns) == ["id", "cell_type", "sm_name"]
    # Noise differs between rows, so even the closest training row is far from a test row.
    distance = values(small.de_test)[:, None, :200] - values(small.de_train)[None, :, :200]
    assert np.sqrt((distance**2).mean(axis=2)).min() > 0.5


def morgan(smiles: pd.Series) -> np.ndarray:
    chem = pytest.importorskip("rdkit.Chem")
    generators = pytest.importorskip("rdkit.Chem.rdFingerprintGenerator")
    generator = generators.GetMorganGenerator(radius=2, fpSize=1024)
    return np.array([generator.GetFingerprintAsNumPy(chem.MolFromSmiles(s)) for s in smiles], dtype=float)


def structure_evidence(data: DemoData, order: np.ndarray) -> tuple[float, float]:
    """Correlation of similarity with response, and the gain over cell-type means for unseen compounds.

    `order` says which compound's structure each compound is given: the identity, or a permutation.
    """
    train = data.de_train
    names = train["sm_name"].unique()
    prints = morgan(train.drop_duplicates("sm_name")["SMILES"])[order]
    shared, count = prints @ prints.T, prints.sum(axis=1)
    similarity = shared / (count[:, None] + count - shared)
    y, cell = values(train).astype(float), train["cell_type"].to_numpy()
    compound = np.array([list(names).index(name) for name in train["sm_name"]])

    response = np.array([y[compound == m].mean(axis=0) for m in range(len(names))])
    related = np.corrcoef(response - response.mean(axis=0))
    pairs = np.triu_indices(len(names), 1)
    correlation = float(np.corrcoef(similarity[pairs], related[pairs])[0, 1])

    fold = np.random.default_rng(0).permutation(len(names))[compound] % 5
    kernel = similarity[np.ix_(compound, compound)] * np.where(cell[:, None] == cell, 1.0, 0.5)
    plain, ridge = np.zeros_like(y), np.zeros_like(y)
    for k in range(5):
        held, kept = fold == k, fold != k
        mean = np.zeros_like(y)
        for c in np.unique(cell):
            mean[cell == c] = y[kept & (cell == c)].mean(axis=0)
        weights = np.linalg.solve(kernel[np.ix_(kept, kept)] + 3.0 * np.eye(kept.sum()), (y - mean)[kept])
        plain[held] = mean[held]
        ridge[held] = mean[held] + kernel[np.ix_(held, kept)] @ weights
    return correlation, mean_rowwise_rmse(y, plain) - mean_rowwise_rmse(y, ridge)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_structure_carries_information_and_permuted_structure_none(seed: int) -> None:
    data = simulate(seed, n_genes=600)
    correlation, gain = structure_evidence(data, np.arange(146))
    assert correlation > 0.1
    assert gain > 0.01
    correlation, gain = structure_evidence(data, np.random.default_rng(seed).permutation(146))
    assert abs(correlation) < 0.06
    assert gain < 0.0


def test_a_plain_svr_clearly_beats_the_best_baseline(small: DemoData) -> None:
    n_genes = 100
    data = DemoData(small.de_train.iloc[:, : 5 + n_genes], small.id_map, small.de_test.iloc[:, : 6 + n_genes])
    rows = pd.concat([data.de_train[META], data.de_test[META]], ignore_index=True)
    x = np.hstack([pd.get_dummies(rows[["cell_type", "sm_name"]]).to_numpy(float), morgan(rows["SMILES"])])
    fit = x[:614]
    gamma = 1.0 / (x.shape[1] * fit.var())
    squared = (x**2).sum(axis=1)[:, None] + (fit**2).sum(axis=1) - 2 * x @ fit.T
    kernel = np.exp(-gamma * squared)
    svr = SVR(kernel="precomputed", C=1.0, epsilon=0.1)
    columns = [svr.fit(kernel[:614], y).predict(kernel[614:]) for y in values(data.de_train).T]
    predicted = np.array(columns).T
    assert mean_rowwise_rmse(values(data.de_test), predicted) < min(baselines(data).values()) - 0.02


# --- files ------------------------------------------------------------------------------------------------


def test_written_files_read_back_and_are_identical_when_written_twice(
    tmp_path: Path, small: DemoData
) -> None:
    written = write_demo(tmp_path / "new" / "folder", seed=0, n_genes=600)
    files = (written.train, written.test, written.truth, written.gene_sets)
    names = ["de_train.parquet", "id_map.csv", "de_test.parquet", "gene_sets.gmt"]
    assert [path.name for path in files] == names
    pd.testing.assert_frame_equal(pd.read_parquet(written.train), small.de_train)
    pd.testing.assert_frame_equal(pd.read_csv(written.test), small.id_map)
    pd.testing.assert_frame_equal(pd.read_parquet(written.truth), small.de_test)
    assert set(written.train.parent.iterdir()) == set(files)
    before = [path.read_bytes() for path in files]
    assert write_demo(tmp_path / "new" / "folder", seed=0, n_genes=600) == written
    assert [path.read_bytes() for path in files] == before
    assert write_demo(tmp_path / "new" / "folder", seed=1, n_genes=3).train.read_bytes() != before[0]


# --- other sizes ------------------------------------------------------------------------------------------


def test_another_size_has_its_pairs_its_cell_types_and_real_compounds() -> None:
    data, real = simulate(3, 40, Size(1000, 20, 90)), simulate(3, 40)
    assert len(data.de_train) == 1000 and len(data.id_map) == len(data.de_test) == 415
    both = pd.concat([data.de_train[["cell_type", "sm_name"]], data.id_map[["cell_type", "sm_name"]]])
    assert not both.duplicated().any() and both["cell_type"].nunique() == 20
    known = dict(zip(real.de_train["sm_name"], real.de_train["SMILES"], strict=True))
    assert data.de_train["sm_name"].nunique() == 90
    assert all(known[row.sm_name] == row.SMILES for row in data.de_train.itertuples())
    assert set(real.de_train["cell_type"]) < set(both["cell_type"]) and "cell type 20" in set(
        both["cell_type"]
    )
    again = simulate(3, 40, Size(1000, 20, 90))
    pd.testing.assert_frame_equal(again.de_train, data.de_train)
    assert not simulate(4, 40, Size(1000, 20, 90)).id_map.equals(data.id_map)


def test_every_compound_to_predict_has_a_training_row() -> None:
    data = simulate(0, 3, Size(150, 20, 146))
    assert set(data.id_map["sm_name"]) <= set(data.de_train["sm_name"])
    assert 0 < len(data.id_map) <= 62 and data.de_train["sm_name"].nunique() < 146


def test_compounds_beyond_the_real_ones_are_relatives_with_structures_of_their_own() -> None:
    data = simulate(0, 300, Size(900, 3, 400))
    frame = pd.concat([data.de_train, data.de_test.drop(columns="id")])
    named = frame.drop_duplicates("sm_name").set_index("sm_name")
    assert 292 < len(named) <= 400 and named["SMILES"].is_unique and "SMILES" not in data.id_map.columns
    assert all(canonical_smiles(smiles) for smiles in named["SMILES"])
    real = list(demo._read_layout().compounds["sm_name"])
    assert all(name.partition(" with ")[0] in real for name in named.index)
    Y = frame.set_index("sm_name").iloc[:, 4:].groupby(level=0).mean()
    Y = Y - Y.mean(axis=0)
    beside = [name for name in Y.index if " with " in name and name.partition(" with ")[0] in Y.index]

    def alike(names: list[str], others: list[str]) -> float:
        return float(
            np.mean([np.corrcoef(Y.loc[a], Y.loc[b])[0, 1] for a, b in zip(names, others, strict=True)])
        )

    own = [name.partition(" with ")[0] for name in beside]
    assert alike(beside, own) > alike(beside, own[1:] + own[:1]) + 0.2


def test_a_single_cell_type_is_asked_for_new_compounds_by_their_structures() -> None:
    data = simulate(0, 3, Size(200, 1, 300))
    assert set(data.id_map["sm_name"]).isdisjoint(data.de_train["sm_name"])
    assert list(data.id_map["SMILES"]) == list(data.de_test["SMILES"]) and (data.id_map["SMILES"] != "").all()


def test_a_further_cell_type_responds_like_its_relative_more_than_others_do() -> None:
    data = simulate(0, 400, Size(2300, 18, 130))
    frame = pd.concat([data.de_train, data.de_test.drop(columns="id")]).set_index(["cell_type", "sm_name"])
    cd4 = demo._read_layout().cell_types[3]

    def alike(other: str) -> float:
        both = frame.loc[cd4].index.intersection(frame.loc[other].index)
        a, b = (frame.loc[cell].loc[both, frame.columns[3:]].to_numpy() for cell in (cd4, other))
        return float(np.corrcoef((a - a.mean(axis=0)).ravel(), (b - b.mean(axis=0)).ravel())[0, 1])

    # Numbers 10 and 16 are relatives of the fourth cell type; 7 and 13 of the first, 8 and 14 of the second.
    relatives, strangers = ([alike(f"cell type {k}") for k in ks] for ks in ((10, 16), (7, 8, 13, 14)))
    assert min(relatives) > max(strangers)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (Size(compounds=14747), "14747 compounds: there are 1 to 14746 structures"),
        (
            Size(876, 6, 146),
            "876 training pairs of 6 cell types and 146 compounds: there are 876 pairs, of which",
        ),
        (
            Size(2, 6, 146),
            "2 training pairs of 6 cell types and 146 compounds: there are 876 pairs, of which",
        ),
    ],
)
def test_a_size_that_cannot_be_had_is_named(size: Size, message: str) -> None:
    with pytest.raises(InputError, match=message):
        simulate(0, 5, size)
