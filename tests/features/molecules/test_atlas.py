"""Atlases: which compounds are the same, what absent ones have, and folders that are not what they were."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from features.molecules.atlas import Atlas, Source, inchikey_block, plain_name, read_atlas, write_atlas
from rapids_pipeline.backend.errors import InputError

IMATINIB = "CC1=C(C=C(C=C1)NC(=O)C2=CC=C(C=C2)CN3CCN(CC3)C)NC4=NC=CC(=N4)C5=CN=CC=C5"
NAMES = ["imatinib", "Compound-X", "acetic acid"]


def atlas():
    """Imatinib and acetic acid by structure, and one compound that has only names."""
    spellings = {"imatinib": 0, "gleevec": 0, "compoundx": 1, "aceticacid": 2}
    return Atlas(
        names=tuple(NAMES),
        blocks=(inchikey_block(IMATINIB), "", inchikey_block("CC(=O)O")),
        embeddings=np.array([[1.0, 0.5], [0.0, -2.0], [0.3, 0.0]], np.float32),
        spellings=tuple(spellings),
        spelled=np.array(list(spellings.values()), np.int32),
        cell_types=("a549", "nkcells"),
        measured=np.array([[0, 0], [1, 1], [2, 0]], np.int32),
        sources=(Source("lab.parquet", "0" * 64, 9, 5, 3, 2, 2, 1.5),),
    )


@pytest.mark.parametrize(
    ("name", "smiles", "place"),
    [
        ("whatever", IMATINIB, 0),
        ("imatinib mesylate", f"{IMATINIB}.CS(=O)(=O)O", 0),
        ("sodium acetate", "CC(=O)[O-].[Na+]", 2),
        ("GLEEVEC", "", 0),
        ("compound x", "", 1),
        ("COMPOUND_X", "CCO", 1),  # the atlas has no structure of it
        ("imatinib", "CCO", -1),  # one name, two structures
        ("aspirin", "CC(=O)OC1=CC=CC=C1C(=O)O", -1),
        ("aspirin", "", -1),
    ],
)
def test_a_compound_is_found_by_its_parent_structure_else_by_its_name(name, smiles, place):
    known = atlas()
    assert known.places([name], [smiles]).tolist() == [place]
    expected = np.zeros(2) if place < 0 else known.embeddings[place]
    np.testing.assert_array_equal(known.rows(["aspirin", name], ["", smiles]), [[0, 0], expected])


def test_stereoisomers_and_salts_have_one_block_and_unlike_molecules_have_not():
    assert inchikey_block("C[C@H](N)C(=O)O") == inchikey_block("C[C@@H](N)C(=O)O") == "QNAYBMKLOCPYGJ"
    assert inchikey_block("CCN.Cl") == inchikey_block("CCN") != inchikey_block("CCO")
    assert inchikey_block("no molecule") == inchikey_block("") == ""


def test_plain_names_differ_in_letters_and_in_the_sign_of_a_combination_only():
    assert plain_name("5-Iodo_tubercidin") == plain_name("5 iodotubercidin")
    assert plain_name("A+B") != plain_name("AB")
    assert plain_name("--") == "--"


def test_notes_say_what_the_atlas_has_and_which_pairs_it_measured():
    training = pd.DataFrame(
        {"cell_type": ["A549", "B"], "sm_name": ["gleevec", "aspirin"], "SMILES": ["", ""]}
    )
    asked = pd.DataFrame({"cell_type": ["NK-cells"], "sm_name": ["Compound X"], "SMILES": [""]})
    first, of_training, of_asked, same, same_asked = atlas().notes(training, asked)
    assert "lab.parquet" in first and "InChIKey" in first
    assert "1 of the 2 compounds of the training rows" in of_training
    assert "1 of the 1 compounds of the pairs to predict" in of_asked
    assert "1 of the 2 training rows" in same and "'gleevec'" in same
    assert "1 of the 1 pairs to predict" in same_asked
    assert atlas().has_pairs(training).tolist() == [True, False]


def test_an_atlas_is_the_same_after_a_save(tmp_path):
    write_atlas(tmp_path / "atlas", atlas())
    found = read_atlas(tmp_path / "atlas")
    assert len(found.digest) == 64
    for name in ("names", "blocks", "spellings", "cell_types", "sources"):
        assert getattr(found, name) == getattr(atlas(), name)
    for name in ("embeddings", "spelled", "measured"):
        np.testing.assert_array_equal(getattr(found, name), getattr(atlas(), name))


def _cut(folder):
    path = folder / "atlas.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def _changed(folder):
    path = folder / "atlas.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")


def _edited(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["about"]["sources"] = []
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_cut, "it was cut or changed"),
        (_changed, "its hash does not fit"),
        (_edited, "its seal does not fit"),
        (lambda folder: (folder / "manifest.json").unlink(), "there is no atlas; make one"),
    ],
)
def test_a_damaged_folder_is_refused(damage, said, tmp_path):
    write_atlas(tmp_path / "atlas", atlas())
    damage(tmp_path / "atlas")
    with pytest.raises(InputError, match=said):
        read_atlas(tmp_path / "atlas")


@pytest.mark.parametrize(
    "wrong",
    [
        {"embeddings": np.zeros((3, 2), np.float32)},
        {"blocks": ("", "")},
        {"measured": np.array([[0, 2]], np.int32)},
        {"spelled": np.array([0, 0, 1, 3], np.int32)},
    ],
)
def test_an_atlas_whose_parts_do_not_fit_is_refused(wrong, tmp_path):
    write_atlas(tmp_path / "atlas", replace(atlas(), **wrong))
    with pytest.raises(InputError, match="saved model is damaged"):
        read_atlas(tmp_path / "atlas")
