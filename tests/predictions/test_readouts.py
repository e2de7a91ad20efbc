"""Read-outs: the genes of a pair, named as people name it, and the training rows that drive a prediction."""

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.commands.model import PerturbationModel
from rapids_pipeline.predictions.predict import predict_file, predictor_of
from rapids_pipeline.predictions.readouts import (
    ROWS_AT_ONCE,
    Responses,
    drivers,
    gene_table,
    long_tables,
    read_responses_of,
    responses_in,
    strongest,
    strongest_of,
    write_table,
)
from rapids_pipeline.stack.members.composite import CompositeMember
from rapids_pipeline.stack.named_recipes import RECIPES
from tests.command_line import error_line, invoke, succeed

COMMAS = "5-(9-Isopropyl-8-methyl-2-morpholino-9H-purin-6-yl)pyrimidin-2-amine, crude"


def responses(n=4, t=7, seed=0):
    rng = np.random.default_rng(seed)
    cells, names = ["NK cells", "T cells, CD4+", "B cells"], ["Vorinostat", COMMAS, "A, B"]
    pairs = pd.DataFrame({"id": range(n), "cell_type": [cells[k % 3] for k in range(n)]})
    pairs["sm_name"] = [names[k % 3] for k in range(n)]
    Y = rng.normal(size=(n, t)).astype(np.float32)
    return Responses(pairs, tuple(f"G{k}" for k in range(t)), Y, Path("here"))


def test_a_pair_is_found_by_its_names_with_commas_in_them():
    found = responses()
    assert found.rows_of("NK cells,Vorinostat").tolist() == [0, 3]
    assert found.rows_of("NK cells, Vorinostat").tolist() == [0, 3]
    assert found.rows_of(f"T cells, CD4+,{COMMAS}").tolist() == [1]
    assert found.rows_of("B cells,A, B").tolist() == [2]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("Vorinostat", 'give "CELL TYPE,COMPOUND", such as'),
        ("NK cell,Vorinostat", "here has no cell type 'NK cell'; 'NK cells' is the nearest"),
        ("B cells,Vorinostt", "here has no compound 'Vorinostt'; 'Vorinostat' is the nearest"),
        ("B cells,Vorinostat", "here has 'Vorinostat' in NK cells, not in 'B cells'"),
        ("Q,R", "here has no cell type 'Q', such as 'NK cells'"),
    ],
)
def test_a_pair_that_is_not_there(asked, words):
    with pytest.raises(InputError) as refused:
        responses().rows_of(asked)
    assert words in str(refused.value) and str(refused.value).startswith("--pair ")


def test_genes_are_in_order_of_the_size_of_their_response():
    found = responses(1, 50)
    table = gene_table(found, 0)
    naive = sorted(range(50), key=lambda k: (-abs(found.Y[0, k]), k))
    assert table["gene"].tolist() == [f"G{k}" for k in naive]
    assert table["value"].tolist() == [float(found.Y[0, k]) for k in naive]
    assert table["rank"].tolist() == list(range(1, 51))
    assert gene_table(found, 0, 3).equals(table.head(3))


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
def test_a_long_table_has_a_row_a_pair_and_gene(tmp_path, suffix):
    found, out = responses(), tmp_path / f"long{suffix}"
    write_table(out, long_tables(found, np.array([2, 0]), 2))
    if suffix == ".csv.gz":
        assert gzip.decompress(out.read_bytes()).startswith(b'"id",')
    table = pd.read_csv(out)
    assert list(table.columns) == ["id", "cell_type", "sm_name", "gene", "value", "rank"]
    expected = pd.concat(long_tables(found, np.array([2, 0]), 2), ignore_index=True)
    pd.testing.assert_frame_equal(table, expected, check_dtype=False)
    with pytest.raises(InputError, match=r"x.txt: name it .csv or .csv.gz"):
        write_table(tmp_path / "x.txt", long_tables(found, np.array([0])))


def test_the_strongest_pairs():
    found = responses(9)
    size = [float((found.Y[row].astype(float) ** 2).sum()) for row in range(9)]
    order = sorted(range(9), key=lambda row: -size[row])
    assert strongest(found, 4).tolist() == order[:4]
    assert found.chosen([], all_pairs=False).tolist() == order[:1]
    assert found.chosen([], all_pairs=True).tolist() == list(range(9))
    assert found.chosen(["B cells,A, B", "NK cells,Vorinostat"], all_pairs=True).tolist() == [
        2,
        5,
        8,
        0,
        3,
        6,
    ]


def test_predictions_are_read_from_a_run_a_file_and_parts(model, pairs, tmp_path):
    run = model.parent
    found = read_responses_of(run)
    submission = pd.read_csv(run / "submission.csv")
    np.testing.assert_array_equal(found.Y, submission.iloc[:, 1:].to_numpy(np.float32))
    assert found.pairs["id"].tolist() == submission["id"].tolist()
    assert list(found.genes) == list(submission.columns[1:])
    assert found.names[0] == ", ".join(found.pairs.loc[0, ["cell_type", "sm_name"]])
    file = read_responses_of(run / "predictions.parquet")
    np.testing.assert_array_equal(file.Y, found.Y)
    predict_file(model, pairs, tmp_path / "parts", block_rows=10)
    parts = read_responses_of(tmp_path / "parts")
    assert len(parts.Y) == 37 and parts.genes == found.genes and np.isfinite(parts.Y).all()
    assert parts.pairs["compound_known"].dtype == bool


def test_parts_are_read_some_rows_at_a_time_and_must_be_of_one_prediction(tmp_path):
    made, folder = responses(2500, 3), tmp_path / "parts"
    folder.mkdir()
    table = made.pairs.assign(**dict(zip(made.genes, made.Y.T, strict=True)))
    for number, start in enumerate((0, 1200, 2400)):
        part = table[start : start + 1200]
        part[list(part)[:: 1 if number else -1]].to_parquet(
            folder / f"part-{number:05d}.parquet", index=False
        )
    parts = list(responses_in(folder))
    assert max(len(part.Y) for part in parts) <= ROWS_AT_ONCE and all(
        part.Y.flags.c_contiguous for part in parts
    )
    read = [part.Y[:, [part.genes.index(gene) for gene in made.genes]] for part in parts]
    np.testing.assert_array_equal(np.concatenate(read), made.Y)
    table[:5].drop(columns="G0").to_parquet(folder / "part-00003.parquet", index=False)
    with pytest.raises(InputError, match=r"part-00003.parquet: has other columns than .*part-00000.parquet"):
        list(responses_in(folder))


@pytest.mark.parametrize("what", ["nothing", "empty", "other", "damaged"])
def test_what_is_no_prediction_is_refused(tmp_path, what):
    path = tmp_path / "p.parquet"
    if what == "empty":
        path.mkdir()
    elif what == "other":
        pd.DataFrame({"a": [1.0]}).to_parquet(path)
    elif what == "damaged":
        path.write_bytes(b"PAR1 nonsense")
    words = {
        "nothing": "there is no such file or folder",
        "empty": "has neither predictions.parquet nor Parquet parts",
        "other": "missing column cell_type; give a run folder",
        "damaged": "Parquet",
    }
    line = error_line(invoke("genes", "--run", path))
    assert words[what] in line and str(path) in line


def test_the_command_lists_genes(model, tmp_path):
    run = model.parent
    found = read_responses_of(run)
    shown = succeed("genes", "--run", run).stdout
    first = int(strongest(found, 1)[0])
    assert shown.startswith(f"{found.names[first]}: 8 of 8 genes")
    pair = ",".join(found.pairs.loc[3, ["cell_type", "sm_name"]])
    asked = json.loads(succeed("genes", "--run", run, "--pair", pair, "--top", 2, "--json").stdout)
    [told] = asked["pairs"]
    genes = told.pop("genes")
    assert told == found.described(np.array([3])).loc[0].to_dict() and [one["rank"] for one in genes] == [
        1,
        2,
    ]
    assert abs(genes[0]["value"]) == pytest.approx(float(np.abs(found.Y[3]).max()))
    out = tmp_path / "long.csv"
    succeed("genes", "--run", run, "--out", out)
    assert len(pd.read_csv(out)) == found.Y.size
    assert "exists already" in error_line(invoke("genes", "--run", run, "--out", out))
    succeed("genes", "--run", run, "--out", out, "--pair", pair, "--top", 1, "--overwrite")
    assert len(pd.read_csv(out)) == 1


@pytest.mark.parametrize("command", ["genes", "pathways"])
def test_json_has_every_row_of_a_pair(tmp_path, command):
    """Doses and replicates of a pair are rows of their own, which a mapping of names would lose."""
    rows = [("NK cells", "A", 0.1), ("NK cells", "A", 1.0), ("NK cells", "A", 1.0), ("B cells", "A", 1.0)]
    pairs = pd.DataFrame(rows, columns=["cell_type", "sm_name", "dose_uM"])
    pairs.insert(0, "id", list("wxyz"))
    Y = np.random.default_rng(0).normal(size=(4, 9)).astype(np.float32)
    genes = [f"G{k}" for k in range(9)]
    pairs.assign(**dict(zip(genes, Y.T, strict=True))).to_parquet(tmp_path / "p.parquet")
    (tmp_path / "sets.gmt").write_text("\t".join(["first", "", *genes[:5]]))
    gmt = ["--gmt", tmp_path / "sets.gmt"] if command == "pathways" else []
    shown = succeed(command, "--run", tmp_path / "p.parquet", "--pair", "NK cells,A", "--json", *gmt)
    told = json.loads(shown.stdout)["pairs"]
    assert [(one["id"], one["cell_type"], one["sm_name"], one["dose_uM"]) for one in told] == [
        (name, *row) for name, row in zip("wxy", rows[:3], strict=True)
    ]
    if command == "genes":
        for one, y in zip(told, Y, strict=False):
            assert {found["gene"]: found["value"] for found in one["genes"]} == pytest.approx(
                dict(zip(genes, y.tolist(), strict=True))
            )
    else:
        assert len({one["sets"][0]["t"] for one in told}) == 3


# --- the training rows behind a prediction ----------------------------------------------------------------


@pytest.fixture(scope="module", params=["components", "genes"])
def kernels(request, small_files):
    """A fitted composite member of either way to solve the targets."""
    [member, _] = RECIPES["best"].members
    assert isinstance(member, CompositeMember)
    both = {
        name: getattr(member, name).updated(targets=request.param, n_components=5)
        for name in ("known_compounds", "new_compounds")
    }
    recipe = RECIPES["best"].updated(members=(member.updated(**both),), n_folds=3)
    return PerturbationModel(recipe, molecules="morgan").fit(small_files.train)


ASKED = [("NK cells", "Vorinostat", None), ("B cells", "something new", "CCCCO")]


@pytest.mark.parametrize("pair", ASKED)
def test_what_training_rows_contribute_sums_to_the_prediction(kernels, pair):
    work = predictor_of(kernels.model_, pd.DataFrame([pair], columns=["cell_type", "sm_name", "SMILES"]), "m")
    [member] = kernels.model_.stack.models.values()
    predicted = member.predict(work.rows(np.array([0])))[0].astype(np.float64)
    space = member.known_compounds.space if pair[2] is None else member.new_compounds.space
    for place, gene in enumerate(kernels.genes_):
        z = np.arcsinh(predicted[place] / space.unit_[place]) if space.name == "asinh" else predicted[place]
        table = drivers(work, 0, gene)
        assert len(table) == len(kernels.model_.obs)
        assert table["contribution"].sum() + table.attrs["rest"] == pytest.approx(z, abs=1e-5)
        assert table.attrs["whole"] == pytest.approx(z, abs=1e-5)
    table = drivers(work, 0)
    assert table["share"].sum() + table.attrs["rest"] / table.attrs["whole"] == pytest.approx(1, abs=1e-9)
    assert (table["contribution"].abs().diff().dropna() <= 1e-12).all(), "the largest first"


def test_a_training_row_drives_what_it_is_said_to_drive(kernels, small_files):
    """What a row contributes is what goes where its coefficients are 0."""
    [member] = kernels.model_.stack.models.values()
    work = predictor_of(
        kernels.model_, pd.DataFrame([ASKED[0]], columns=["cell_type", "sm_name", "SMILES"]), "m"
    )
    gene = kernels.genes_[2]
    found = drivers(work, 0, gene)
    first = found.iloc[0]
    obs = kernels.model_.obs
    row = np.flatnonzero((obs["cell_type"] == first["cell_type"]) & (obs["sm_name"] == first["sm_name"]))[0]
    kept = member.known_compounds.dual_coef.copy()
    member.known_compounds.dual_coef[row] = 0
    try:
        without = drivers(work, 0, gene)
    finally:
        member.known_compounds.dual_coef[:] = kept
    assert found.attrs["whole"] - without.attrs["whole"] == pytest.approx(first["contribution"], abs=1e-6)


def test_drivers_from_python_and_what_has_none(kernels, model):
    found = kernels.drivers(("NK cells", "Vorinostat"), top=3)
    assert list(found.columns) == ["cell_type", "sm_name", "contribution", "share"] and len(found) == 3
    assert kernels.drivers(("NK cells", "Vorinostat"), kernels.genes_[0], top=None).shape[0] > 3
    with pytest.raises(InputError, match="the model has no gene 'A1BGG'"):
        kernels.drivers(("NK cells", "Vorinostat"), "A1BGG")
    with pytest.raises(InputError, match="the recipe quick has no composite kernels"):
        PerturbationModel.load(model).drivers(("NK cells", "Vorinostat"))


def test_the_strongest_of_parts_are_those_of_all_rows_together():
    rng = np.random.default_rng(8)
    Y = rng.normal(size=(40, 6)).astype(np.float32) * rng.integers(1, 4, size=(40, 1))
    Y[7] = Y[21]
    pairs = pd.DataFrame({"cell_type": "B", "sm_name": [f"c{k}" for k in range(40)]})
    whole = Responses(pairs, tuple("abcdef"), Y, Path("here"))
    for size in (1, 7, 40):
        parts = (whole.take(np.arange(k, min(k + size, 40))) for k in range(0, 40, size))
        kept, seen = strongest_of(parts, 12)
        expected = strongest(whole, 12)
        assert kept.pairs["sm_name"].tolist() == pairs["sm_name"].iloc[expected].tolist()
        np.testing.assert_array_equal(kept.Y, Y[expected])
        pd.testing.assert_frame_equal(seen, pairs)
    with pytest.raises(InputError, match="no predicted pairs"):
        strongest_of([], 3)
