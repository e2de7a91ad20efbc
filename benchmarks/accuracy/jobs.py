"""What `make bench-accuracy` runs: methods on tasks, each in a process of its own, finished ones kept on disk.

A task is training rows with pairs to predict, once or once a split; a method is a function of the two. A finished
method × task is kept in a store of finished fits (`rapids_pipeline.backend.store`), under a hash of all that can change
it: the method's settings, the sources it runs (for a recipe, this repository's packages), versions, processor, threads,
rows, responses and splits. The truth of test rows is no part of a task's work: `Task.truth` reads it when a table is
made.
"""

import hashlib
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from benchmarks import harness
from benchmarks.accuracy import peers
from features.molecules.encoders import encode_molecules
from features.rows import Rows
from rapids_pipeline.backend.arrays import Float32, Indices
from rapids_pipeline.backend.store import Kept, Store
from rapids_pipeline.data.tables import PerturbationData, read_responses
from rapids_pipeline.evaluation import baselines
from rapids_pipeline.evaluation.splits import Split, random_folds
from rapids_pipeline.stack.fit import fit_stack
from rapids_pipeline.stack.recipe import Recipe, RunConfig

MOLECULES, SEED = "morgan", 0
WARM_ROWS, WARM_GENES, WARM_TREES = 150, 64, 2
PACKAGES = "numpy scipy pandas scikit-learn numba rdkit himalaya xgboost xgboost-cpu catboost".split()

_WARM: set[str] = set()
"""Recipes that were warmed up in this run."""


@dataclass(frozen=True, eq=False)
class Task:
    """Rows to train on and pairs to predict.

    `data` is the training file in canonical order. No row is held out twice by `splits`, which are empty where `pairs`
    are to predict; `truth_file` has the responses of these.
    """

    name: str
    data: PerturbationData
    splits: tuple[Split, ...] = ()
    pairs: pd.DataFrame | None = None
    truth_file: Path | None = None

    def problem(self, fit: int) -> tuple[PerturbationData, pd.DataFrame]:
        """Return the training rows and the pairs of one of the `n_fits` fits."""
        if self.pairs is not None:
            return self.data, self.pairs
        split = self.splits[fit]
        return self.data.take(split.training), self.data.obs.iloc[split.held_out].reset_index(drop=True)

    @property
    def n_fits(self) -> int:
        """How often a method is fitted."""
        return max(1, len(self.splits))

    @property
    def obs(self) -> pd.DataFrame:
        """The predicted rows, (m,), in the order of predictions."""
        return self.data.obs.iloc[self.held_out].reset_index(drop=True) if self.pairs is None else self.pairs

    @property
    def held_out(self) -> Indices:
        """Positions of the predicted rows in `data`, split after split."""
        return np.concatenate([split.held_out for split in self.splits])

    def truth(self) -> Float32:
        """Return the responses of the predicted rows, (m, t)."""
        if self.truth_file is None:
            return self.data.Y[self.held_out]
        found, columns = read_responses(self.truth_file), ["cell_type", "sm_name"]
        place = pd.MultiIndex.from_frame(found.obs[columns].astype(str)).get_indexer(
            pd.MultiIndex.from_frame(self.obs[columns].astype(str))
        )
        genes = pd.Index(found.genes).get_indexer(list(self.data.genes))
        if place.min() < 0 or genes.min() < 0:
            raise SystemExit(f"{self.truth_file}: lacks a pair or gene of task {self.name}")
        return found.Y[np.ix_(place, genes)]


@dataclass(frozen=True)
class Method:
    """A baseline, a peer, or a recipe of this project."""

    name: str
    kind: Literal["baseline", "peer", "recipe"]
    recipe: Recipe | None = None

    @property
    def available(self) -> bool:
        """Whether what it needs is installed."""
        return self.kind != "peer" or find_spec(peers.PEERS[self.name].needs) is not None

    def settings(self) -> Any:
        """Return what it does, as JSON."""
        if self.recipe is not None:
            return {"molecules": MOLECULES, "seed": SEED, "recipe": self.recipe.model_dump(mode="json")}
        return peers.PEERS[self.name].settings if self.kind == "peer" else {"baseline": self.name}

    def predict(self, training: PerturbationData, pairs: pd.DataFrame) -> Float32:
        """Fit to training rows and predict pairs: float32, (n_pairs, n_genes)."""
        if self.recipe is not None:
            return stacked(self.recipe, training, pairs)
        if self.kind == "peer":
            return peers.predicted(self.name, training, pairs)
        return baselines.ALL_BASELINES[self.name](training, pairs)


@dataclass(frozen=True)
class Cost:
    """What a method took on a task: wall and core-seconds of all fits and predictions, the process's peak memory."""

    fits: int
    seconds: float
    core_seconds: float
    peak_memory_gib: float
    date: str


@dataclass(frozen=True, eq=False)
class Finished:
    """Predictions, float32 (m, t), of a method for a task's rows, and what they took."""

    predicted: Float32
    cost: Cost


def stacked(recipe: Recipe, training: PerturbationData, pairs: pd.DataFrame) -> Float32:
    """Return what `rapids-perturb run` with a recipe and `--molecules morgan` predicts for pairs."""
    config = RunConfig(recipe=recipe, molecules=MOLECULES, seed=SEED).resolved()
    smiles = list(training.obs["SMILES"]), list(pairs["SMILES"])
    columns = encode_molecules([config.molecules, *config.recipe.encoders], *smiles)
    rows = Rows(training.obs, columns.training), Rows(pairs, columns.others)
    folds = random_folds(len(training.obs), config.recipe.n_folds, config.seed)
    return fit_stack(*rows, training.Y, folds, config.recipe, config.seed, "cpu").test


def finished(method: Method, task: Task, folder: Path) -> Finished:
    """Return a method's predictions for a task: those kept in `folder`, otherwise made now and kept."""
    store, key = Store(folder, *conditions()), identity(method, task)
    kept = store.get(*key)
    if kept is None:
        if method.recipe is not None:
            warm_up(method.recipe, task)
        in_own_process(work, method, task, folder)
        kept = store.get(*key)
    if kept is None:
        raise SystemExit(f"{method.name} on {task.name}: left no predictions")
    return Finished(kept.arrays["predicted"], Cost(**kept.facts))


def work(method: Method, task: Task, folder: Path) -> None:
    """Fit, predict and keep: the body of a process that does nothing else."""
    if method.kind == "peer":
        __import__(peers.PEERS[method.name].needs)  # loading a library is no part of its time
    problems = [task.problem(fit) for fit in range(task.n_fits)]
    began, used = time.perf_counter(), harness.core_seconds()
    predicted = np.concatenate([method.predict(*problem) for problem in problems])
    cost = Cost(
        fits=len(problems),
        seconds=round(time.perf_counter() - began, 3),
        core_seconds=round(harness.core_seconds() - used, 3),
        peak_memory_gib=round(harness.peak_memory() / 2**30, 3),
        date=datetime.now(UTC).date().isoformat(),
    )
    kept = Kept({"predicted": np.ascontiguousarray(predicted, dtype=np.float32)}, asdict(cost))
    Store(folder, *conditions()).put(kept, *identity(method, task))


def warm_up(recipe: Recipe, task: Task) -> None:
    """Compile what a recipe runs, once a recipe and run: a few rows, genes and trees in a process of their own."""
    if recipe.name in _WARM:
        return
    _WARM.add(recipe.name)
    training, pairs = task.problem(0)
    rows = np.unique(np.linspace(0, len(training.obs) - 1, WARM_ROWS).astype(int))
    few = training.take(rows)
    few = PerturbationData(few.obs, np.ascontiguousarray(few.Y[:, :WARM_GENES]), few.genes[:WARM_GENES])
    quick = (
        member.model_copy(update={"n_estimators": WARM_TREES} if member.kind == "booster" else {})
        for member in recipe.members
    )
    in_own_process(stacked, recipe.with_members(*quick), few, pairs.iloc[:5])


def in_own_process(function: Callable[..., Any], *arguments: Any) -> None:
    """Call a function in a fresh interpreter; SystemExit where it fails (it has printed why)."""
    process = multiprocessing.get_context("spawn").Process(target=function, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"a process of the benchmark failed with status {process.exitcode}")


def conditions() -> tuple[Any, ...]:
    """Return what all finished work depends on besides the method and the task."""
    return harness.processor(), peers.threads(), versions()


def identity(method: Method, task: Task) -> tuple[Any, ...]:
    """Return what a finished method × task depends on, as the store takes it; a recipe's name is no part of it."""
    named = method.name if method.kind == "peer" else ""
    rows = [
        [list(map(str, obs[column])) for column in ("cell_type", "sm_name", "SMILES")]
        for obs in (task.data.obs, task.obs)
    ]
    splits = [[split.training, split.held_out] for split in task.splits]
    what = method.kind, named, method.settings(), sources(method.kind)
    return *what, rows, list(task.data.genes), task.data.Y, splits


@cache
def sources(kind: str) -> str:
    """Return a hash of the code that methods of a kind run, libraries aside."""
    if kind == "recipe":
        folders = (harness.REPOSITORY / name for name in ("rapids_pipeline", "features"))
        files = [path for folder in folders for path in folder.rglob("*.py")]
    else:
        files = [Path(peers.__file__ if kind == "peer" else baselines.__file__)]
    found = hashlib.sha256()
    for path in sorted(files):
        found.update(path.read_bytes())
    return found.hexdigest()


@cache
def versions() -> dict[str, str]:
    """Return the versions of the packages whose numbers are compared."""
    every = harness.all_versions()
    return {name: every[name] for name in ("python", *PACKAGES) if name in every}
