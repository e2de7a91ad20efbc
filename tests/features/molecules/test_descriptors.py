import warnings

import numpy as np
import pytest

pytest.importorskip("rdkit")

from rdkit import Chem
from rdkit.Chem import Descriptors
from sklearn.exceptions import NotFittedError
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import StandardScaler

from features.molecules import descriptors
from features.molecules.descriptors import DescriptorEncoder, raw_descriptors
from rapids_pipeline.backend.errors import InputError

ASPIRIN, ASPIRIN_AGAIN = "CC(=O)Oc1ccccc1C(=O)O", "OC(=O)C1=CC=CC=C1OC(C)=O"
CAFFEINE = "Cn1cnc2c1c(=O)n(C)c(=O)n2C"
PLATINUM = "Cl[Pt]Cl"  # no partial charges, no BCUT eigenvalues
OTHERS = "CCO C[C@@H](N)C(=O)O ClCCBr c1ccc2ccccc2c1 CCN(CC)CC".split()
TRAINING = [ASPIRIN, CAFFEINE, *OTHERS, PLATINUM, "CC(C)Cc1ccc(cc1)C(C)C(=O)O"]


@pytest.fixture
def own_folder(monkeypatch, tmp_path):
    """Nothing is remembered, and nothing is in the user's cache yet."""
    monkeypatch.setenv("RAPIDS_PERTURB_CACHE", str(tmp_path))
    descriptors._known.cache_clear()
    yield tmp_path / "descriptors"
    descriptors._known.cache_clear()


@pytest.fixture
def made_up(own_folder, monkeypatch):
    """Replace RDKit's descriptors by functions of our own."""

    def replaced(**functions):
        monkeypatch.setattr(Descriptors, "descList", list(functions.items()))
        descriptors._known.cache_clear()

    return replaced


def test_raw_values_equal_direct_calls_of_rdkit():
    names, values = raw_descriptors([*TRAINING, ASPIRIN_AGAIN])
    assert names == [name for name, _ in Descriptors._descList]
    for row, smiles in zip(values, TRAINING, strict=False):
        molecule = Chem.MolFromSmiles(Chem.CanonSmiles(smiles))
        expected = Descriptors.CalcMolDescriptors(molecule, missingVal=np.nan)
        np.testing.assert_array_equal(row, [expected[name] for name in names])
    np.testing.assert_array_equal(values[-1], values[0])
    assert values[0][names.index("MolWt")] == pytest.approx(180.159)
    assert np.isnan(values[TRAINING.index(PLATINUM)]).sum() >= 8


def test_encoding_equals_scikit_learn_on_distinct_molecules():
    names, values = raw_descriptors(TRAINING)
    values[:, names.index("Ipc")] = np.log1p(values[:, names.index("Ipc")])
    filled = SimpleImputer(strategy="median").fit_transform(values)
    expected = np.clip(StandardScaler().fit_transform(filled), -10, 10)
    repeated = [*TRAINING, ASPIRIN, ASPIRIN_AGAIN, CAFFEINE]  # how often a molecule occurs does not matter
    encoder = DescriptorEncoder().fit(repeated)
    rows = encoder.transform(TRAINING)
    np.testing.assert_allclose(rows, expected, atol=2e-6)
    assert rows.dtype == np.float32
    assert rows.flags.c_contiguous
    assert 0 < encoder.n_imputed_ == np.isnan(values[:, ~encoder.constant_]).sum()
    assert encoder.get_feature_names_out().tolist() == names
    assert encoder.notes() == [
        f"{encoder.n_imputed_} descriptor values could not be computed and were replaced by the median"
    ]


def test_encoding_equals_a_loop_over_columns(made_up):
    values = {"C": 1.0, "CC": np.nan, "CCC": 3.0, "CCCC": 8.0, "CCCCC": np.inf}
    made_up(
        some=lambda m: values[Chem.MolToSmiles(m)],
        atoms=lambda m: m.GetNumAtoms(),
        one=lambda m: 1,
        none=lambda m: float("nan"),
        fails=lambda m: 1 / 0,
    )
    encoder = DescriptorEncoder().fit(["C", "CC", "CCC", "CCCC"])
    rows = encoder.transform(["C", "CC", "CCCCC"])
    filled = [1.0, 3.0, 3.0, 8.0]  # the median of 1, 3, 8 is 3
    mean = sum(filled) / 4
    std = (sum((x - mean) ** 2 for x in filled) / 4) ** 0.5
    np.testing.assert_allclose(rows[:, 0], [(x - mean) / std for x in (1, 3, 3)], rtol=1e-6)
    np.testing.assert_allclose(rows[:, 1], [(x - 2.5) / 1.25**0.5 for x in (1, 2, 5)], rtol=1e-6)
    np.testing.assert_array_equal(rows[:, 2:], 0)
    assert encoder.constant_.tolist() == [False, False, True, True, True]
    assert encoder.n_imputed_ == 2


def test_extreme_values_stay_bounded_and_do_not_hide_the_others(made_up):
    extreme = {1: 1e29, 2: -1e29, 3: 1e200, 4: 0.0, 5: 1.0}
    made_up(wild=lambda m: extreme[m.GetNumAtoms()], atoms=lambda m: m.GetNumAtoms())
    rows = DescriptorEncoder().fit(["C", "CC", "CCC", "CCCC", "CCCCC"]).transform(["C", "CCC", "CCCCC"])
    assert np.isfinite(rows).all()
    far = DescriptorEncoder(clip=4).fit(["CCCC", "CCCCC"]).transform(["C", "CC", "CCC"])
    np.testing.assert_array_equal(far[:2, 0], [4, -4])
    assert far[2, 0] in (-1, 1, 0)  # 1e200 counts as not computed: the median


def test_ipc_of_a_large_molecule_is_a_moderate_number():
    names, values = raw_descriptors(["C" * 300])
    column = names.index("Ipc")
    assert values[0, column] > 1e90
    rows = DescriptorEncoder().fit([*TRAINING, "C" * 300]).transform([*TRAINING, "C" * 300])
    assert 1 < rows[-1, column] < 5
    assert np.ptp(rows[:-1, column]) > 0.05  # in logarithms the others keep their differences
    assert np.isfinite(rows).all()


def test_a_row_depends_on_its_own_molecule_and_the_fitted_ones_only():
    encoder = DescriptorEncoder().fit(TRAINING[:6])
    rows = encoder.transform([*TRAINING, ASPIRIN_AGAIN])
    for row, smiles in zip(rows, [*TRAINING, ASPIRIN_AGAIN], strict=True):
        np.testing.assert_array_equal(row, encoder.transform([smiles])[0])
    np.testing.assert_array_equal(rows[-1], rows[0])
    more = DescriptorEncoder().fit(TRAINING[:7]).transform(TRAINING[:6])
    assert (more != rows[:6]).any()  # what is fitted on matters, so nothing held out may be in it
    assert encoder.transform([]).shape == (0, rows.shape[1])


def test_fitting_again_computes_no_descriptor_again(made_up):
    calls = []
    made_up(atoms=lambda m: calls.append(1) or m.GetNumAtoms())
    DescriptorEncoder().fit(TRAINING).transform(TRAINING)
    for held_out in range(3):
        DescriptorEncoder().fit([s for i, s in enumerate(TRAINING) if i % 3 != held_out]).transform(TRAINING)
    raw_descriptors(TRAINING)
    assert len(calls) == len(TRAINING)


def test_another_process_reads_them_and_computes_only_what_is_new(made_up, own_folder):
    calls = []
    made_up(atoms=lambda m: calls.append(1) or m.GetNumAtoms(), failing=lambda m: 1 / 0)
    _, first = raw_descriptors(TRAINING[:4])
    descriptors._known.cache_clear()  # as a new process
    names, again = raw_descriptors([*TRAINING[:4], "CCCCCCC"])
    assert len(calls) == 5
    assert names == ["atoms", "failing"]
    np.testing.assert_array_equal(again[:4], first)  # NaN, where RDKit fails, is kept, too
    assert again[4, 0] == 7
    made_up(bonds=lambda m: m.GetNumBonds(), failing=lambda m: 1 / 0)
    assert raw_descriptors([CAFFEINE])[1][0, 0] == 15  # other descriptors are another key
    assert len(list(own_folder.glob("*.npz"))) == 2


@pytest.mark.parametrize("unusable", ["no home", "a file where the folder would be", "damaged"])
def test_without_a_usable_cache_they_are_computed(unusable, made_up, own_folder, monkeypatch):
    made_up(atoms=lambda m: m.GetNumAtoms())
    if unusable == "no home":
        monkeypatch.setattr(descriptors, "cache_folder", lambda *_: None)
    elif unusable == "damaged":
        raw_descriptors(TRAINING)
        (file,) = own_folder.glob("*.npz")
        file.write_bytes(file.read_bytes()[:-40])
        descriptors._known.cache_clear()
    else:
        own_folder.write_text("")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert raw_descriptors([CAFFEINE, ASPIRIN])[1].tolist() == [[14], [13]]
    assert [str(w.message).count("descriptors") > 0 for w in caught] == [True] * (unusable != "no home")


def test_many_molecules_are_computed_by_several_processes_to_the_same_bits(own_folder, monkeypatch):
    molecules = ["C" * n + "O" * (n % 3) + "N" for n in range(1, 13)]
    _, alone = raw_descriptors(molecules)
    for file in own_folder.glob("*"):
        file.unlink()
    descriptors._known.cache_clear()
    monkeypatch.setattr(descriptors, "SEVERAL_PROCESSES_FROM", 5)
    monkeypatch.setattr(descriptors, "processor_count", lambda: 2)
    _, together = raw_descriptors(molecules)
    np.testing.assert_array_equal(alone, together)


def test_only_so_many_are_remembered(made_up, monkeypatch):
    calls = []
    made_up(atoms=lambda m: calls.append(1) or m.GetNumAtoms())
    monkeypatch.setattr(descriptors, "cache_folder", lambda *_: None)
    monkeypatch.setattr(descriptors, "REMEMBERED", 3)
    assert raw_descriptors(TRAINING)[1][0, 0] == 13
    raw_descriptors(TRAINING[-3:])
    assert len(calls) == len(TRAINING)
    raw_descriptors(TRAINING[:1])
    assert len(calls) == len(TRAINING) + 1


def test_what_is_remembered_cannot_be_changed_from_outside():
    _, values = raw_descriptors([CAFFEINE])
    expected = values.copy()
    values[:] = 0
    np.testing.assert_array_equal(raw_descriptors([CAFFEINE])[1], expected)


def test_a_desalted_salt_has_its_parents_descriptors():
    encoder = DescriptorEncoder(desalt=True).fit([*TRAINING, "CCN.Cl"])
    salt, parent = encoder.transform(["CCN.Cl", "CCN"])
    np.testing.assert_array_equal(salt, parent)
    assert encoder.n_salts_ == 1
    salt, parent = DescriptorEncoder().fit(TRAINING).transform(["CCN.Cl", "CCN"])
    assert (salt != parent).any()


def test_bad_input_is_refused():
    with pytest.raises(InputError, match=r"position 1 .*'C1CC'"):
        DescriptorEncoder().fit([ASPIRIN, "C1CC"])
    with pytest.raises(InputError, match="there are none"):
        DescriptorEncoder().fit([])
    for clip in (0, -1.0, float("inf"), float("nan")):
        with pytest.raises(InputError, match="clip"):
            DescriptorEncoder(clip=clip).fit(TRAINING)
    with pytest.raises(NotFittedError):
        DescriptorEncoder().transform(TRAINING)
    with pytest.raises(NotFittedError):
        DescriptorEncoder().get_feature_names_out()


def test_computing_is_silent(capfd):
    raw_descriptors([PLATINUM, "[Og]", "*", "[H][H]", "[Na+].[Cl-]"])
    assert capfd.readouterr() == ("", "")
