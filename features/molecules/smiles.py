"""SMILES strings: canonical spelling, distinct molecules, salts, scaffolds, and the tokenizers that read them."""

import importlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from rapids_pipeline.backend.arrays import Indices
from rapids_pipeline.backend.errors import InputError, PerturbError, UnavailableError, quoted

VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model")

UNKNOWN_LIMIT = 0.5
"""Largest share of SMILES characters outside the vocabulary that a tokenizer may have.

A tokenizer for other text has 100 %. The ChemBERTa-2 models (10M-MTR among them), whose vocabulary of whole
SMILES tokens comes with a tokenizer that splits into characters, have 9 % on the molecules of the Kaggle data
and 13 % on those of LINCS (they have no '[', '@', 'H', nor the second letter of Cl and Br), and were
published so (https://github.com/deepchem/deepchem/issues/4253).
"""

SMILES_TOKEN = r"\[[^\]]+\]|Br|Cl|%[0-9]{2}|>>|[NOSPFIBCbcnops]|\(|\)|\.|=|#|-|\+|\\|/|:|~|@|\?|>|\*|\$|[0-9]"
"""One SMILES token (Schwaller et al. 2018, "Found in Translation", Chem. Sci. 9, 6091)."""

LONGEST_SMILES = 5000
"""Characters of a SMILES: RDKit takes time by their square, and at some ten thousand atoms its stack overflows."""

PROBE_MOLECULES = ("C1CCCCC1", "c1ccccc1", "CC(=O)O", "CCN", "O=C1CCCN1", "Oc1ccncc1", "FC(F)F", "CS(C)=O")
"""Molecules whose tokens must all differ: a tokenizer that lowers case, for one, merges the first two."""


def rdkit_chem() -> tuple[Any, Any]:
    """Return (rdkit.Chem, context manager that keeps RDKit's log quiet), UnavailableError without RDKit."""
    try:
        from rdkit import Chem, rdBase
    except ImportError as error:
        raise UnavailableError("molecules need RDKit: pip install '.[chem]'") from error
    return Chem, rdBase.BlockLogs


def canonical_smiles(smiles: str) -> str | None:
    """Return RDKit's canonical SMILES of a molecule, None where RDKit cannot read it.

    White space around the string is ignored. The empty string, anything that is not a string, a SMILES followed by a
    name or an extension block, and one of more than `LONGEST_SMILES` characters are invalid.
    """
    rdkit_chem()
    if not isinstance(smiles, str) or not smiles.strip() or len(smiles) > LONGEST_SMILES:
        return None
    return _canonical(smiles.strip())


def told_smiles(smiles: object) -> str:
    """Return a SMILES for a message, and how long it is where that is what is wrong with it."""
    long = isinstance(smiles, str) and len(smiles) > LONGEST_SMILES
    return quoted(smiles) + (
        f" ({len(str(smiles)):,} characters; at most {LONGEST_SMILES:,} are read)" if long else ""
    )


@lru_cache(maxsize=100_000)
def _canonical(smiles: str) -> str | None:
    """Return what `canonical_smiles` does; kept, as the same molecules are asked for again and again."""
    chem, blocked = rdkit_chem()
    options = chem.SmilesParserParams()
    options.parseName = False
    options.allowCXSMILES = False
    with blocked():
        molecule = chem.MolFromSmiles(smiles, options)
        return None if molecule is None else str(chem.MolToSmiles(molecule))


def distinct_molecules(smiles: Iterable[str]) -> tuple[list[str], Indices]:
    """Find the distinct molecules among n SMILES strings.

    Returns
    -------
    distinct : list of m str
        Canonical SMILES, in order of first occurrence.
    row : ndarray of shape (n,), intp
        `distinct[row[i]]` is the molecule of string i.

    Raises
    ------
    InputError
        A string is no valid SMILES; the message names its position (from 0) and the string.
    """
    if isinstance(smiles, str):
        raise InputError("expected a sequence of SMILES strings, got one string")
    strings = list(smiles)
    canonical: dict[str, str] = {}
    numbers: dict[str, int] = {}
    row = np.empty(len(strings), dtype=np.intp)
    for position, string in enumerate(strings):
        if string not in canonical:
            found = canonical_smiles(string)
            if found is None:
                raise InputError(
                    f"SMILES at position {position} (from 0) is not valid: {told_smiles(string)}"
                )
            canonical[string] = found
        row[position] = numbers.setdefault(canonical[string], len(numbers))
    return list(numbers), row


def murcko_scaffolds(smiles: Iterable[str]) -> list[str]:
    """Return the Bemis–Murcko scaffold (ring systems and what links them) of every molecule, as canonical SMILES.

    A molecule without rings has none: it stands for itself. InputError: invalid SMILES.

    Source: Bemis and Murcko, J. Med. Chem. 39 (1996) 2887; RDKit `MurckoScaffold`.
    """
    distinct, row = distinct_molecules(smiles)
    _, blocked = rdkit_chem()
    from rdkit.Chem.Scaffolds import MurckoScaffold

    scaffold_of: Any = MurckoScaffold.MurckoScaffoldSmiles
    with blocked():
        scaffolds = [str(scaffold_of(smiles=whole)) or whole for whole in distinct]
    return [scaffolds[number] for number in row]


def is_salt(canonical: str) -> bool:
    """Say whether a molecule (canonical SMILES) has several fragments: a salt, a solvate or a mixture."""
    return "." in canonical


def largest_fragment(canonical: str) -> str:
    """Return the canonical SMILES of a molecule's largest organic fragment; a single fragment is returned as it is.

    Organic (with carbon) goes before inorganic, then the number of atoms, then the weight. Charges stay: the
    largest fragment of sodium acetate is acetate, not acetic acid.

    Source: RDKit `rdMolStandardize.LargestFragmentChooser(preferOrganic=True)`.
    """
    if not is_salt(canonical):
        return canonical
    chem, blocked = rdkit_chem()
    from rdkit.Chem.MolStandardize import rdMolStandardize

    with blocked():
        chooser = rdMolStandardize.LargestFragmentChooser(preferOrganic=True)
        return str(chem.MolToSmiles(chooser.choose(chem.MolFromSmiles(canonical))))


def load_tokenizer(folder: Path, shown: Path | None = None) -> Any:
    """Load the tokenizer of a model folder (in messages: `shown`) and make sure that it knows SMILES.

    A folder whose only vocabulary is a `vocab.txt` of SMILES tokens (the "SmilesTokenizer" format of DeepChem
    and rxnmapper) goes to `smiles_tokenizer`: transformers' AutoTokenizer would pick a tokenizer by the
    architecture's name, which maps every molecule to one unknown token without a word.

    Raises
    ------
    InputError
        The tokenizer cannot be loaded, has no padding token, or does not know SMILES.
    """
    shown = shown or folder
    if _has_smiles_vocabulary(folder):
        tokenizer = loaded(smiles_tokenizer, shown / "vocab.txt", shown, "tokenizer")
    else:
        auto = require_package("transformers").AutoTokenizer.from_pretrained
        options = {"local_files_only": True, "trust_remote_code": False}
        tokenizer = loaded(auto, str(folder), shown, "tokenizer", **options)
    if not tokenizer.is_fast or tokenizer.pad_token_id is None:
        raise InputError(f"{shown}: cannot use its tokenizer (it gives no character offsets or no padding)")
    tokenizer.padding_side = "right"
    tokenizer.truncation_side = "right"
    require_known(tokenizer, PROBE_MOLECULES, shown)
    if len({tuple(ids) for ids in tokenizer(list(PROBE_MOLECULES))["input_ids"]}) < len(PROBE_MOLECULES):
        raise _does_not_know_smiles(shown, "it gives different molecules the same tokens")
    return tokenizer


def smiles_tokenizer(vocabulary: Path) -> Any:
    """Build the tokenizer of a `vocab.txt` with one SMILES token per line (its line number is its id).

    A molecule becomes [CLS] t_1 ... t_n [SEP] with t_i the matches of `SMILES_TOKEN`, each looked up whole; a
    token outside the vocabulary, and a character that no token matches, becomes [UNK]. The special tokens'
    names may be set by a `special_tokens_map.json` beside the vocabulary.

    Source: DeepChem `SmilesTokenizer` (deepchem/feat/smiles_tokenizer.py), same ids.
    """
    tokenizers = require_package("tokenizers")
    lines = _text(vocabulary).splitlines()
    ids = {token: number for number, token in enumerate(lines)}
    special = _special_tokens(vocabulary.with_name("special_tokens_map.json"))
    for token in special.values():
        if token not in ids:
            raise InputError(f"{vocabulary}: the special token {token} is not in the vocabulary")
    words = tokenizers.models.WordLevel(vocab=ids, unk_token=special["unk_token"])
    tokenizer = tokenizers.Tokenizer(words)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(SMILES_TOKEN), "isolated")
    cls, sep = special["cls_token"], special["sep_token"]
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{cls} $A {sep}", special_tokens=[(cls, ids[cls]), (sep, ids[sep])]
    )
    return require_package("transformers").PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def unknown_share(tokenizer: Any, smiles: Sequence[str]) -> float:
    """Return the share of the characters of `smiles` that no known token covers, in [0, 1].

    Counted in characters, since tokenizers differ in what they do with what they do not know: some give an
    unknown token for it, others (byte-pair vocabularies without an unknown token) drop it.
    """
    if not smiles:
        return 0.0
    encoded = tokenizer(list(smiles), return_offsets_mapping=True)
    known = 0
    for ids, spans in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
        pairs = zip(ids, spans, strict=True)
        known += sum(end - start for token, (start, end) in pairs if token != tokenizer.unk_token_id)
    return 1.0 - known / sum(map(len, smiles))


def require_known(tokenizer: Any, smiles: Sequence[str], source: object) -> float:
    """Return `unknown_share`; raise InputError where it exceeds `UNKNOWN_LIMIT`."""
    with quiet_libraries():
        share = unknown_share(tokenizer, smiles)
    if share > UNKNOWN_LIMIT:
        raise _does_not_know_smiles(source, f"{share:.0%} of the characters are unknown to it")
    return share


def token_counts(tokenizer: Any, smiles: Sequence[str]) -> list[int]:
    """Return the number of tokens of each molecule before truncation, special tokens included."""
    if not smiles:
        return []
    with quiet_libraries():
        return [len(ids) for ids in tokenizer(list(smiles))["input_ids"]]


def _has_smiles_vocabulary(folder: Path) -> bool:
    if not (folder / "vocab.txt").is_file() or any(
        (folder / file).is_file() for file in VOCABULARIES if file != "vocab.txt"
    ):
        return False
    tokens = set(_text(folder / "vocab.txt").splitlines())
    return {"C", "c", "(", ")", "="} <= tokens and not any(token.startswith("##") for token in tokens)


def _special_tokens(path: Path) -> dict[str, str]:
    """Return the special tokens' names: BERT's, changed by a special_tokens_map.json where there is one."""
    special = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "cls", "sep", "pad", "mask")}
    try:
        named = json.loads(_text(path)) if path.is_file() else {}
        for role in special.keys() & named.keys():
            value = named[role]
            special[role] = str(value["content"] if isinstance(value, dict) else value)
    except (json.JSONDecodeError, AttributeError, KeyError) as error:
        raise InputError(f"{path}: not a map of special tokens ({one_line(error)})") from error
    return special


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({one_line(error)})") from error


def _does_not_know_smiles(source: object, evidence: str) -> InputError:
    return InputError(
        f"{source}: its tokenizer does not know SMILES ({evidence}); use a model made for SMILES with its "
        "own tokenizer.json or vocab.txt, or --molecules morgan"
    )


def loaded(loader: Callable[..., Any], source: Any, folder: Path, what: str, **options: Any) -> Any:
    """Return what a loader makes of a source; a failure of its library becomes an InputError that names the folder."""
    try:
        return loader(source, **options)
    except PerturbError:
        raise
    except Exception as error:  # transformers, tokenizers and torch each have their own errors
        raise InputError(f"{folder}: its {what} cannot be loaded ({one_line(error)})") from error


def one_line(error: Exception, kind: bool = True) -> str:
    """Return an error's message, and by default its kind, on one line of at most 200 characters."""
    message = " ".join(str(error).split())
    message = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in message)
    return (f"{type(error).__name__}: {message}" if kind else message)[:200]


def require_package(package: str) -> Any:
    """Import a package of the `chemberta` extra; UnavailableError says how to install it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UnavailableError(
            f"SMILES language models need {package}: pip install '.[chemberta]', or use --molecules morgan"
        ) from error


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep transformers and huggingface_hub from writing to stderr; afterwards they are set as before."""
    loggers = [
        require_package("transformers").utils.logging,
        require_package("huggingface_hub").utils.logging,
    ]
    levels = [logger.get_verbosity() for logger in loggers]
    bars = loggers[0].is_progress_bar_enabled()
    for logger in loggers:
        logger.set_verbosity_error()
    loggers[0].disable_progress_bar()
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.set_verbosity(level)
        if bars:
            loggers[0].enable_progress_bar()
