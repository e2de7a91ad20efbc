"""An atlas: embeddings of compounds by what they did in other data sets, with what it was made from.

    e_c = [ e_c1, …, e_cS ] / √s_c,   e_cs the embedding of compound c by data set s, 0 where s lacks it,
                                      s_c the data sets that have c

so ⟨e_c, e_c'⟩ is a sum over the data sets that have both compounds, and |e_c|² is 1 on average. How a data set gives an
embedding: `rapids_pipeline.data.compound_effects`. A compound that no data set has is a row of zeros; factors of
kernels are 0 between it and any other.

Compounds are the same where the first blocks of their InChIKeys are, of the largest organic fragment (so salts,
charges and stereoisomers count as their parent compound). Where one of the two has no structure, their names decide,
without case, white space and punctuation.
"""

import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from features.molecules.smiles import canonical_smiles, largest_fragment, rdkit_chem
from rapids_pipeline.backend.arrays import Codes, Float32, Indices, Mask
from rapids_pipeline.backend.bundle import ARRAYS, MANIFEST, STATE, read_bundle, write_bundle
from rapids_pipeline.backend.errors import InputError, quoted, shown
from rapids_pipeline.backend.files import refuse_existing, sha256_of
from rapids_pipeline.backend.state import State, StateReader

if TYPE_CHECKING:
    import pandas as pd

KIND = "atlas"
"""What the manifest says that the folder is."""
FILES = {MANIFEST, STATE, f"{KIND}{ARRAYS}"}
"""What the folder holds."""


class Source(NamedTuple):
    """A data set of an atlas: its file and SHA-256, its size, how many components it gave, and κ of its effects."""

    file: str
    sha256: str
    rows: int
    genes: int
    compounds: int
    cell_types: int
    components: int
    kappa: float


@dataclass(frozen=True, eq=False)
class Atlas:
    """Embeddings of q compounds from S data sets.

    Attributes
    ----------
    names : tuple of str
        A name of each compound, the first that was read.
    blocks : tuple of str
        The first block of each compound's InChIKey, "" where no structure is known.
    embeddings : ndarray of float32, (q, p)
        e of each compound.
    spellings, spelled : tuple of str and ndarray of int32, (k,)
        Names as `plain_name` writes them, and the place of the compound of each; a name of several compounds is none.
    cell_types : tuple of str
        Those of the data sets, as `plain_name` writes them.
    measured : ndarray of int32, (r, 2)
        Places of compound and cell type that some data set has a response of.
    sources : tuple of Source
    digest : str
        SHA-256 of the manifest of the folder that it was read from; "" where it was not read yet.
    """

    names: tuple[str, ...]
    blocks: tuple[str, ...]
    embeddings: Float32
    spellings: tuple[str, ...]
    spelled: Codes
    cell_types: tuple[str, ...]
    measured: Codes
    sources: tuple[Source, ...] = ()
    digest: str = ""

    @cached_property
    def _by_block(self) -> dict[str, int]:
        return {block: place for place, block in enumerate(self.blocks) if block}

    @cached_property
    def _by_name(self) -> dict[str, int]:
        return dict(zip(self.spellings, self.spelled.tolist(), strict=True))

    def places(self, names: Sequence[str], smiles: Sequence[str]) -> Indices:
        """Return the place of each of n compounds by name and SMILES ("": not known), −1 where it is absent."""
        asked = list(zip(map(str, names), map(str, smiles), strict=True))
        found = {compound: self._place(*compound) for compound in dict.fromkeys(asked)}
        return np.array([found[compound] for compound in asked], np.intp)

    def _place(self, name: str, smiles: str) -> int:
        block = inchikey_block(smiles)
        if block in self._by_block:
            return self._by_block[block]
        place = self._by_name.get(plain_name(name), -1)
        # one name, two structures: two compounds
        return -1 if block and place >= 0 and self.blocks[place] else place

    def rows(self, names: Sequence[str], smiles: Sequence[str]) -> Float32:
        """Return e of n compounds, (n, p) float32, zeros where one is absent."""
        place = self.places(names, smiles)
        return np.where(place[:, None] >= 0, self.embeddings[place], np.float32(0))

    def notes(self, training: "pd.DataFrame", asked: "pd.DataFrame") -> list[str]:
        """Return what a reader should know of the atlas beside training rows and pairs to predict.

        Both have `cell_type`, `sm_name` and `SMILES`.
        """
        found = [
            f"atlas: {len(self.names):,} compounds of {', '.join(source.file for source in self.sources)} "
            f"(manifest sha256:{self.digest[:12]}); identity by the first block of "
            "the parent compound's InChIKey, else by name"
        ]
        told = (("training rows", training), ("pairs to predict", asked))
        for what, obs in told:
            if not len(obs):
                continue
            compounds = obs.drop_duplicates(["sm_name", "SMILES"])
            known = self.places(list(compounds["sm_name"]), list(compounds["SMILES"])) >= 0
            found.append(f"atlas: it has {known.sum():,} of the {len(known):,} compounds of the {what}")
        for what, obs in told:
            same = np.flatnonzero(self.has_pairs(obs))
            if len(same):
                first = obs.iloc[same[0]]
                found.append(
                    f"atlas: {len(same):,} of the {len(obs):,} {what} have cell type and compound of a response in its "
                    f"data sets, first {quoted(first['cell_type'])}, {quoted(first['sm_name'])}: if that is the same "
                    "measurement, a score on it is too good"
                )
        return found

    def has_pairs(self, obs: "pd.DataFrame") -> Mask:
        """Say of which rows some data set has a response of the same compound in the same cell type, (n,)."""
        compound = self.places(list(obs["sm_name"]), list(obs["SMILES"])).tolist()
        cell_type = {name: place for place, name in enumerate(self.cell_types)}
        cells = [cell_type.get(plain_name(str(name)), -1) for name in obs["cell_type"]]
        measured = set(map(tuple, self.measured.tolist()))
        return np.array([pair in measured for pair in zip(compound, cells, strict=True)], dtype=np.bool_)

    def refuse_source(self, path: Path, digest: str) -> None:
        """Raise InputError where a file of this SHA-256 is one of the data sets."""
        if any(source.sha256 == digest for source in self.sources):
            raise InputError(
                f"{path}: the atlas was made from this very file, so it knows the responses that are held out of it; "
                "make an atlas of other data sets"
            )

    def state(self) -> State:
        """Return the atlas as plain data."""
        return {
            "names": list(self.names),
            "blocks": list(self.blocks),
            "embeddings": self.embeddings,
            "spellings": list(self.spellings),
            "spelled": self.spelled,
            "cell_types": list(self.cell_types),
            "measured": self.measured,
            "sources": {f"source_{k}": source._asdict() for k, source in enumerate(self.sources)},
            "digest": self.digest,
        }

    @classmethod
    def from_state(cls, reader: StateReader) -> "Atlas":
        """Make the atlas of its state; InputError where that is damaged."""
        names, blocks = tuple(reader.strings("names")), tuple(reader.strings("blocks"))
        spellings, cells = tuple(reader.levels("spellings")), tuple(reader.levels("cell_types"))
        embeddings = reader.array("embeddings", np.float32, (len(names), None))
        spelled = reader.codes("spelled", (len(spellings),), len(names))
        measured = reader.codes("measured", (None, 2), max(len(names), len(cells)))
        parts = reader.part("sources")
        sources = tuple(_source(parts.part(name)) for name in parts.names())
        if len(blocks) != len(names) or (measured >= [len(names), len(cells)]).any():
            raise reader.fault("its parts do not fit together")
        if not names or not embeddings.any(axis=1).all():
            raise reader.fault("a compound has no embedding, or there are none")
        return cls(
            names, blocks, embeddings, spellings, spelled, cells, measured, sources, reader.text("digest")
        )


def _source(reader: StateReader) -> Source:
    named = reader.text("file"), reader.text("sha256")
    rows, genes, compounds, cells, components = (reader.integer(name) for name in Source._fields[2:-1])
    return Source(*named, rows, genes, compounds, cells, components, reader.number("kappa"))


def require_place(folder: Path, overwrite: bool) -> None:
    """Raise InputError where a folder that --out names exists, unless an atlas there is to be replaced."""
    refuse_existing(folder, overwrite)
    if folder.exists() and not (folder.is_dir() and {path.name for path in folder.iterdir()} <= FILES):
        raise InputError(
            f"--out {folder}: is no folder of an atlas, so it is not replaced; choose another name"
        )


def write_atlas(folder: Path, atlas: Atlas) -> None:
    """Write an atlas as a folder of JSON and safetensors, which must not exist (`backend.bundle.write_bundle`)."""
    write_bundle(
        folder, {KIND: atlas.state()}, {"kind": KIND, "sources": [one._asdict() for one in atlas.sources]}
    )


def read_atlas(folder: Path) -> Atlas:
    """Read the folder of an atlas.

    Raises
    ------
    InputError
        As `read_bundle`; the folder holds something else.
    """
    if not os.path.isfile(folder / MANIFEST):  # noqa: PTH113 (takes names of any length)
        raise InputError(
            f"--atlas {shown(folder)}: there is no atlas; make one: rapids-perturb atlas --from FILE --out FOLDER"
        )
    bundle = read_bundle(folder)
    if bundle.about.get("kind") != KIND or KIND not in bundle.state.names():
        raise InputError(f"--atlas {folder}: is a model, and no atlas; make one with rapids-perturb atlas")
    found = bundle.state.part(KIND)
    return replace(Atlas.from_state(found), digest=sha256_of(folder / MANIFEST))


def plain_name(name: str) -> str:
    """Return a name without case, white space and punctuation but "+", which joins the parts of a combination.

    A name of nothing else is returned as it is.
    """
    plain = unicodedata.normalize("NFKC", name).casefold()
    return re.sub(r"[^\w+]|_", "", plain) or plain.strip()


@lru_cache(maxsize=100_000)
def inchikey_block(smiles: str) -> str:
    """Return the first block of the InChIKey of a molecule's largest organic fragment, "" where there is none.

    The 14 letters stand for the skeleton: salts, most charges, isotopes and stereoisomers have those of their parent.
    """
    canonical = canonical_smiles(smiles) if smiles else None
    if canonical is None:
        return ""
    chem, blocked = rdkit_chem()
    with blocked():
        return str(chem.MolToInchiKey(chem.MolFromSmiles(largest_fragment(canonical))))[:14]
