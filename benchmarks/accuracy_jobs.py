"""What `make bench-accuracy` runs: methods on tasks, each in a process of its own, finished ones kept on disk.

A task is training rows with pairs to predict, once or once a split; a method is a function of the two. A finished
method × task is kept as CACHE/KEY.safetensors, where KEY is a hash of all that can change it: the method's settings,
the sources it runs (for a recipe, this repository's packages), versions, processor, threads, rows, responses and
splits. The truth of test rows is no part of a task's work: `Task.truth` reads it when a table is made.
"""

import hashlib
import json
import multiprocessing
import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import accuracy_peers
import numpy as np
import pandas as pd
from machine import all_versions, processor
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

import rapids_pipeline
from features.molecules.encoders import encode_molecules
from features.rows import Rows
from rapids_pipeline.backend.files import written_atomically
from rapids_pipeline.data.tables import PerturbationData, read_responses
from rapids_pipeline.evaluation.baselines import ALL_BASELINES
from rapids_pipeline.evaluation.splits import Split, random_folds
from rapids_pipeline.stack.fit import fit_stack
from rapids_pipeline.stack.recipe import Recipe, RunConfig

REPOSITORY = Path(rapids_pipeline.__file__).resolve().parents[1]
MOLECULES, SEED = "morgan", 0
WARM_ROWS, WARM_GENES, WARM_TREES = 150, 64, 2
PACKAGES = "numpy scipy pandas scikit-learn numba rdkit himalaya xgboost xgboost-cpu catboost".split()

Matrix = NDArray[np.float32]

_WARM: set[str] = set()
"""Recipes that were warmed up in this run."""


@dataclass(frozen=True, eq=False)
class Task:
    """Rows to train on and pairs to predict.

    Attributes
    ----------
    name : str
    data : PerturbationData
        The training file, in canonical order.
    splits : tuple of Split
        Of its rows, no row held out twice; empty where `pairs` are to predict.
    pairs : DataFrame, optional
    truth_file : Path, optional
        Their responses.
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
    def held_out(self) -> NDArray[np.intp]:
        """Positions of the predicted rows in `data`, split after split."""
        return np.concatenate([split.held_out for split in self.splits])

    def truth(self) -> Matrix:
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
        return self.kind != "peer" or find_spec(accuracy_peers.PEERS[self.name].needs) is not None

    def settings(self) -> Any:
        """Return what it does, as JSON."""
        if self.recipe is not None:
            return {"molecules": MOLECULES, "seed": SEED, "recipe": self.recipe.model_dump(mode="json")}
        return accuracy_peers.PEERS[self.name].settings if self.kind == "peer" else {"baseline": self.name}

    def predict(self, training: PerturbationData, pairs: pd.DataFrame) -> Matrix:
        """Fit to training rows and predict pairs: float32, (n_pairs, n_genes)."""
        if self.recipe is not None:
            return stacked(self.recipe, training, pairs)
        if self.kind == "peer":
            return accuracy_peers.predicted(self.name, training, pairs)
        return ALL_BASELINES[self.name](training, pairs)


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

    predicted: Matrix
    cost: Cost


def stacked(recipe: Recipe, training: PerturbationData, pairs: pd.DataFrame) -> Matrix:
    """Return what `rapids-perturb run` with a recipe and `--molecules morgan` predicts for pairs."""
    config = RunConfig(recipe=recipe, molecules=MOLECULES, seed=SEED).resolved()
    smiles = list(training.obs["SMILES"]), list(pairs["SMILES"])
    columns = encode_molecules([config.molecules, *config.recipe.encoders], *smiles)
    rows = Rows(training.obs, columns.training), Rows(pairs, columns.others)
    folds = random_folds(len(training.obs), config.recipe.n_folds, config.seed)
    return fit_stack(*rows, training.Y, folds, config.recipe, config.seed, "cpu").test


def finished(method: Method, task: Task, folder: Path) -> Finished:
    """Return a method's predictions for a task: those kept in `folder`, otherwise made now and kept."""
    path = folder / f"{key(method, task)}.safetensors"
    kept = read_finished(path, (len(task.obs), len(task.data.genes)))
    if kept is not None:
        return kept
    folder.mkdir(parents=True, exist_ok=True)
    if method.recipe is not None:
        warm_up(method.recipe, task)
    in_own_process(work, method, task, path)
    made = read_finished(path, (len(task.obs), len(task.data.genes)))
    if made is None:
        raise SystemExit(f"{method.name} on {task.name}: left no predictions")
    return made


def read_finished(path: Path, shape: tuple[int, int]) -> Finished | None:
    """Return what a file holds, None where there is none or it is damaged."""
    try:
        with safe_open(path, framework="numpy") as file:
            predicted, cost = file.get_tensor("predicted"), Cost(**json.loads(file.metadata()["cost"]))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None
    return Finished(predicted, cost) if predicted.shape == shape else None


def work(method: Method, task: Task, path: Path) -> None:
    """Fit, predict and write: the body of a process that does nothing else."""
    if method.kind == "peer":
        __import__(accuracy_peers.PEERS[method.name].needs)  # loading a library is no part of its time
    problems = [task.problem(fit) for fit in range(task.n_fits)]
    began, used = time.perf_counter(), core_seconds()
    predicted = np.concatenate([method.predict(*problem) for problem in problems])
    cost = Cost(
        fits=len(problems),
        seconds=round(time.perf_counter() - began, 3),
        core_seconds=round(core_seconds() - used, 3),
        peak_memory_gib=round(peak_memory() / 2**30, 3),
        date=datetime.now(UTC).date().isoformat(),
    )
    with written_atomically(path) as place:
        arrays = {"predicted": np.ascontiguousarray(predicted, dtype=np.float32)}
        save_file(arrays, place, {"cost": json.dumps(asdict(cost))})


def warm_up(recipe: Recipe, task: Task) -> None:
    """Compile what a recipe runs, once a recipe and run: a few rows, genes and trees in a process of their own."""
    if recipe.name in _WARM:
        return
    _WARM.add(recipe.name)
    training, pairs = task.problem(0)
    rows = np.unique(np.linspace(0, len(training.obs) - 1, WARM_ROWS).astype(int))
    few = training.take(rows)
    few = PerturbationData(few.obs, np.ascontiguousarray(few.Y[:, :WARM_GENES]), few.genes[:WARM_GENES])
    boosting = recipe.boosting and recipe.boosting.model_copy(update={"n_estimators": WARM_TREES})
    in_own_process(stacked, recipe.model_copy(update={"boosting": boosting}), few, pairs.iloc[:5])


def in_own_process(function: Callable[..., Any], *arguments: Any) -> None:
    """Call a function in a fresh interpreter; SystemExit where it fails (it has printed why)."""
    process = multiprocessing.get_context("spawn").Process(target=function, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"a process of the benchmark failed with status {process.exitcode}")


def core_seconds() -> float:
    """Return the processor time of this process and of the children it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def peak_memory() -> int:
    """Return the largest resident memory of this process, in bytes.

    Linux's VmHWM begins with the program; getrusage's ru_maxrss counts what the parent held when it forked.
    """
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def key(method: Method, task: Task) -> str:
    """Return the name under which a finished method × task is kept."""
    what = [
        method.kind,
        method.settings(),
        method.name if method.kind == "peer" else "",
        sources(method.kind),
    ]
    where = [processor(), accuracy_peers.threads(), versions()]
    found = hashlib.sha256(json.dumps([*what, *where]).encode())
    for obs in (task.data.obs, task.obs):
        for column in ("cell_type", "sm_name", "SMILES"):
            found.update("\n".join(map(str, obs[column])).encode() + b"|")
    found.update("\n".join(task.data.genes).encode())
    found.update(np.ascontiguousarray(task.data.Y).data)
    for split in task.splits:
        for rows in (split.training, split.held_out):
            found.update(np.ascontiguousarray(rows, dtype=np.int64).tobytes() + b"|")
    return found.hexdigest()[:32]


@cache
def sources(kind: str) -> str:
    """Return a hash of the code that methods of a kind run, libraries aside."""
    if kind == "peer":
        files = [Path(accuracy_peers.__file__)]
    elif kind == "baseline":
        files = [REPOSITORY / "rapids_pipeline" / "evaluation" / f"{n}baselines.py" for n in ("", "learned_")]
    else:
        files = [
            path for name in ("rapids_pipeline", "features") for path in (REPOSITORY / name).rglob("*.py")
        ]
    found = hashlib.sha256()
    for path in sorted(files):
        found.update(path.read_bytes())
    return found.hexdigest()


@cache
def versions() -> dict[str, str]:
    """Return the versions of the packages whose numbers are compared."""
    every = all_versions()
    return {name: every[name] for name in ("python", *PACKAGES) if name in every}
