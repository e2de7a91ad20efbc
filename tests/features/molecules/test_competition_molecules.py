"""The competition's 146 compounds through a pretrained transformer and through ChemBERTa-10M-MTR's architecture."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("rdkit")

from features.molecules.encoders import ChemBERTaEncoder, molecule_encoder  # noqa: E402
from features.molecules.smiles import canonical_smiles  # noqa: E402
from rapids_pipeline.data.demo import simulate  # noqa: E402

N_COMPOUNDS = 146
NOT_IN_THE_VOCABULARY = set("[]@Hlr")
"""Characters that occur only inside longer tokens of the ChemBERTa-2 vocabulary ("[C@@H]", "Cl", "Br")."""


@pytest.fixture(scope="module")
def compounds():
    """Name to SMILES."""
    table = simulate(0, 1).de_train.drop_duplicates("sm_name")
    return dict(zip(table["sm_name"], table["SMILES"], strict=True))


@pytest.fixture(scope="module")
def similarity(rxn_folder, compounds):
    """Cosine of the pretrained embeddings; the diagonal is -1."""
    smiles = list(compounds.values())
    rows = ChemBERTaEncoder(str(rxn_folder), cache=None).fit(smiles).transform(smiles)
    assert rows.shape == (N_COMPOUNDS, 256)
    assert np.isfinite(rows).all()
    return rows @ rows.T - 2 * np.eye(N_COMPOUNDS)


@pytest.mark.parametrize(
    ("compound", "relative"),
    [
        ("Imatinib", "Masitinib"),  # kinase inhibitors that differ in one heteroaromatic ring
        ("Cabozantinib", "Foretinib"),  # MET and VEGFR inhibitors with one core
        ("Decitabine", "Azacitidine"),  # cytidine analogues
        ("Prednisolone", "Mometasone Furoate"),  # glucocorticoids
        ("Vorinostat", "Ricolinostat"),  # HDAC inhibitors, hydroxamates
        ("ABT-199 (GDC-0199)", "Navitoclax"),  # BCL-2 inhibitors
        ("MLN 2238", "CEP-18770 (Delanzomib)"),  # proteasome inhibitors, boronates
    ],
)
def test_relatives_are_nearest_neighbours(similarity, compounds, compound, relative):
    names = list(compounds)
    assert names[similarity[names.index(compound)].argmax()] == relative


def write_tokenizer(folder):
    """Write a vocabulary of whole SMILES tokens without merges, as DeepChem published it."""
    import tokenizers

    special = ["[PAD]", *(f"[unused{i}]" for i in range(1, 11)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens = [*special, *"cC()=O1N2F3n4#-So5+.s6\\/I7PB8", *"Cl Br [C@@H] [C@H] [nH] [O-] [N+]".split()]
    tokens += [f"[{element}]" for element in "KLM"] + [f"%{number}" for number in range(10, 90)]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    sep, cls = (("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"]))
    bpe.post_processor = tokenizers.processors.RobertaProcessing(sep, cls)
    bpe.save(str(folder / "tokenizer.json"))
    names = {f"{role}_token": f"[{role.upper()}]" for role in ("unk", "sep", "pad", "cls", "mask")}
    names |= {"bos_token": "[CLS]", "eos_token": "[SEP]"}
    (folder / "special_tokens_map.json").write_text(json.dumps(names))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**names, "tokenizer_class": "RobertaTokenizer", "add_prefix_space": False})
    )


@pytest.fixture(scope="module")
def mtr_folder(tmp_path_factory):
    """Random weights in the architecture and the files of DeepChem/ChemBERTa-10M-MTR.

    RobertaForRegression is DeepChem's own class: the checkpoint is a pickle with the encoder under "roberta.",
    a regression head and the targets' normalisation. The vocabulary has whole SMILES tokens, and no merges.
    """
    folder = tmp_path_factory.mktemp("mtr")
    write_tokenizer(folder)
    config = transformers.RobertaConfig(
        vocab_size=600,
        hidden_size=384,
        num_hidden_layers=3,
        num_attention_heads=12,
        intermediate_size=464,
        max_position_embeddings=515,
        type_vocab_size=1,
        hidden_dropout_prob=0.144,
        attention_probs_dropout_prob=0.109,
    )
    document = config.to_dict() | {"architectures": ["RobertaForRegression"], "model_type": "roberta"}
    document |= {"norm_mean": [0.0] * 199, "norm_std": [1.0] * 199}
    (folder / "config.json").write_text(json.dumps(document))
    torch.manual_seed(0)
    encoder = transformers.RobertaModel(config, add_pooling_layer=False)
    state = {f"roberta.{name}": tensor for name, tensor in encoder.state_dict().items()}
    state |= {"norm_mean": torch.zeros(199), "norm_std": torch.ones(199)}
    state |= {"regression.dense.weight": torch.zeros(384, 384), "regression.dense.bias": torch.zeros(384)}
    head = "regression.out_proj"
    state |= {f"{head}.weight": torch.zeros(199, 384), f"{head}.bias": torch.zeros(199)}
    torch.save(state, folder / "pytorch_model.bin")
    torch.save({"learning_rate": 1.0}, folder / "training_args.bin")
    return folder


@pytest.fixture(scope="module")
def mtr(mtr_folder, compounds):
    return molecule_encoder(str(mtr_folder)).set_params(cache=None).fit(compounds.values())


def test_chembertas_architecture_loads_as_published(mtr, mtr_folder):
    loaded = mtr.language_model_
    assert (loaded.width, loaded.max_tokens) == (384, 150)
    widest = ChemBERTaEncoder(str(mtr_folder), max_length=10_000).load().language_model_
    assert widest.max_tokens == 513  # 515 positions, of which RoBERTa's begin at 2
    published = torch.load(mtr_folder / "pytorch_model.bin", weights_only=True)
    weights = {f"roberta.{name}": tensor for name, tensor in loaded.encoder.state_dict().items()}
    used = [name for name in published if name.startswith("roberta.")]
    assert len(used) == 5 + 3 * 16
    assert all(torch.equal(weights[name], published[name]) for name in used)


def test_chembertas_embeddings_equal_the_formula(mtr, mtr_folder, compounds):
    """Characters, looked up one by one, through the encoder alone, one molecule at a time."""
    vocabulary = json.loads((mtr_folder / "vocab.json").read_text())
    state = torch.load(mtr_folder / "pytorch_model.bin", weights_only=True)
    config = transformers.RobertaConfig.from_pretrained(mtr_folder)
    encoder = transformers.RobertaModel(config, add_pooling_layer=False).eval()
    encoder.load_state_dict({name[8:]: t for name, t in state.items() if name.startswith("roberta.")})
    rows = mtr.transform(compounds.values())
    assert rows.shape == (N_COMPOUNDS, 384)
    lengths, expected = [], []
    for smiles in compounds.values():
        known = [c for c in canonical_smiles(smiles) if c not in NOT_IN_THE_VOCABULARY]
        ids = [vocabulary[token] for token in ["[CLS]", *known, "[SEP]"]]
        lengths.append(len(ids))
        if len(ids) > 150:
            ids = [*ids[:149], vocabulary["[SEP]"]]
        with torch.no_grad():
            states = encoder(torch.tensor([ids])).last_hidden_state[0].numpy()
        mean = states.astype(np.float64).mean(axis=0)
        expected.append(mean / np.linalg.norm(mean))
    np.testing.assert_allclose(rows, expected, atol=1e-5)
    assert mtr.n_truncated_ == sum(length > 150 for length in lengths)
    text = "".join(map(canonical_smiles, compounds.values()))
    assert mtr.unknown_share_ == pytest.approx(sum(text.count(c) for c in NOT_IN_THE_VOCABULARY) / len(text))
