"""Versions: which packages, when and on what machine results were made, for whatever records them."""

import os
import platform
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from rapids_pipeline import __version__

PACKAGES = (
    "numpy scipy pandas pyarrow narwhals scikit-learn numba xgboost xgboost-cpu py-boost safetensors rdkit torch "
    "transformers anndata optuna himalaya cupy-cuda12x cupy-cuda13x cudf-cu12 cudf-cu13 cuml-cu12 cuml-cu13"
).split()
"""Packages that can change numbers."""


def installed_version(name: str) -> str | None:
    """Return the version of an installed distribution, None where it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def installed_versions() -> dict[str, str]:
    """Return the versions of Python, of this package and of those of `PACKAGES` that are installed."""
    found = {name: installed_version(name) for name in PACKAGES}
    here = {name: version for name, version in found.items() if version is not None}
    return {"python": platform.python_version(), "rapids-perturb": __version__} | here


def provenance() -> dict[str, Any]:
    """Return when, by which packages and on what machine results are made."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": installed_versions(),
        "machine": {"system": platform.platform(), "processor_count": os.cpu_count()},
    }
