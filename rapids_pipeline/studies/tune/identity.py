"""All that determines the trials of a study, hashed by what it is, so that a study is continued by its like only."""

import hashlib
import json
from collections.abc import Iterable

import numpy as np

from features.rows import Rows
from rapids_pipeline.backend.versions import installed_versions
from rapids_pipeline.data.tables import PerturbationData
from rapids_pipeline.stack.members.composite import CompositeMember
from rapids_pipeline.studies.tune.task import Duty

PACKAGES = ("rapids-perturb", "numpy", "scipy", "scikit-learn", "rdkit", "optuna")


def versions() -> dict[str, str]:
    """Return the versions of the packages that can change a study."""
    found = installed_versions()
    return {name: found[name] for name in PACKAGES if name in found}


def identity_of(
    data: PerturbationData,
    train: Rows,
    member: CompositeMember,
    duties: Iterable[Duty],
    molecules: str,
    device: str,
    seed: int,
) -> dict[str, str]:
    """Return what determines the trials.

    Parameters
    ----------
    data : PerturbationData
        The training rows with their responses.
    train : Rows
        The same rows, molecules encoded.
    member : CompositeMember
        The recipe's.
    duties : iterable of Duty
    molecules, device : str
    seed : int
    """
    return {
        "data": _hash(_contents_of(data, train)),
        "recipe": _hash([member.model_dump_json().encode(), molecules.encode()]),
        "splits": _hash(_rows_of(duties)),
        "device": device,
        "seed": str(seed),
        "versions": json.dumps(versions()),
    }


def _contents_of(data: PerturbationData, train: Rows) -> Iterable[bytes]:
    yield "\n".join(data.genes).encode()
    for column in ("cell_type", "sm_name", "SMILES"):
        yield "\n".join(map(str, data.obs[column])).encode()
    yield np.ascontiguousarray(data.Y).tobytes()
    for name, columns in sorted(train.molecules.items()):
        yield name.encode()
        yield np.ascontiguousarray(columns).tobytes()


def _rows_of(duties: Iterable[Duty]) -> Iterable[bytes]:
    for duty in duties:
        for lot in duty.lots:
            yield f"{duty.machine} {lot.name}".encode()
            for split in lot.splits:
                for rows in (split.training, split.held_out):
                    yield np.ascontiguousarray(rows, dtype=np.int64).tobytes()


def _hash(parts: Iterable[bytes]) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(f"{len(part)} ".encode() + part)
    return found.hexdigest()
