"""Where the time of the shared SVR engines goes: the breakdown in docs/svr.md.

    python benchmarks/svr_parts.py

One fold of the demo data (491 training rows), one thread. The engines' own functions run between two readings of
the thread's CPU clock; products are timed by themselves on the same matrices. Prints Markdown and writes
benchmarks/results/svr_parts.json.
"""

# ruff: noqa: E402 (the thread counts must be set before numpy is imported)

import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import json
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from svr import Problem, processor
from threadpoolctl import threadpool_limits

from rapids_pipeline.backend.versions import installed_versions
from rapids_pipeline.svr import douglas_rachford, smo, smo_shared, smo_shared_kernels
from rapids_pipeline.svr.gram import kernel_between, scale_gamma

RESULTS = Path(__file__).parent / "results" / "svr_parts.json"
N_GENES, ROUNDS = 4_096, 5
PARTS = {
    "smo": {
        "inverse and R": (smo_shared.WarmStart, "build"),
        "other tables of K": (smo_shared.SharedGram, "of"),
        "transpose and centre Y": (smo_shared_kernels, "gather_chunk"),
        "start: one Douglas–Rachford step": (smo_shared, "_start"),
        "make β feasible": (smo_shared_kernels, "balance_chunk"),
        "pair steps": (smo_shared_kernels, "descend_chunk"),
        "U − L and intercept": (smo_shared_kernels, "judge_chunk"),
    },
    "douglas-rachford": {
        "pilot that chooses ρ": (douglas_rachford, "choose_rho"),
        "inverse and R": (douglas_rachford._Operators, "build"),
        "checks (U − L of a few or all targets)": (douglas_rachford, "_probe_passes"),
        "checks of whole batches, with β made feasible": (douglas_rachford, "judged"),
    },
}


def main() -> None:
    """Measure, print and write."""
    problem = Problem.load(N_GENES)
    inside = np.flatnonzero(problem.folds != 0)
    K = kernel_between(problem.X[inside], problem.X[inside], "rbf", scale_gamma(problem.X[inside]))
    Y = problem.Y[inside]
    with threadpool_limits(1):
        products = {str(kind.__name__): product_ms(K.astype(kind)) for kind in (np.float32, np.float64)}
        engines = {
            "smo": taken_apart("smo", lambda: smo.solve_dense(K, Y, smo.SmoOptions(n_threads=1))),
            "douglas-rachford": taken_apart("douglas-rachford", lambda: douglas_rachford.solve(K, Y)),
        }
    report = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {"processor": processor(), "cores_used": 1},
        "versions": installed_versions(),
        "rows": len(inside),
        "targets": N_GENES,
        "product_ms_per_target": products,
        "engines": engines,
    }
    RESULTS.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    print(markdown(report))


def product_ms(K: np.ndarray) -> float:
    """Return milliseconds per target of one product of K with 512 targets."""
    right = np.random.default_rng(0).normal(size=(512, len(K))).astype(K.dtype)
    times = []
    for _ in range(40):
        began = time.thread_time()
        right @ K
        times.append(time.thread_time() - began)
    return 1e3 * float(np.median(times)) / len(right)


def taken_apart(engine: str, solve: Callable[[], Any]) -> dict[str, Any]:
    """Return medians over rounds of milliseconds per target, in all and of each part, and the iterations."""
    solve()  # compiles and loads
    rounds: list[dict[str, float]] = []
    for _ in range(ROUNDS):
        seconds: dict[str, float] = defaultdict(float)
        originals = [(owner, name, vars(owner)[name]) for owner, name in PARTS[engine].values()]
        nested = [False]
        for part, (owner, name) in PARTS[engine].items():
            setattr(owner, name, clocked(owner, name, seconds, part, nested))
        began = time.thread_time()
        solution = solve()
        seconds["in all"] = time.thread_time() - began
        for owner, name, original in originals:
            setattr(owner, name, original)
        rounds.append({part: 1e3 * value / N_GENES for part, value in seconds.items()})
    parts = {part: float(np.median([r[part] for r in rounds])) for part in (*PARTS[engine], "in all")}
    return {"ms_per_target": parts, "mean_iterations": float(np.mean(solution.n_iter))}


def clocked(owner: Any, name: str, seconds: dict[str, float], part: str, nested: list[bool]) -> Any:
    """Return a function that adds its time to a part, unless it runs inside another part."""
    function = getattr(owner, name)

    def run(*arguments: Any, **options: Any) -> Any:
        if nested[0]:
            return function(*arguments, **options)
        nested[0] = True
        began = time.thread_time()
        try:
            return function(*arguments, **options)
        finally:
            seconds[part] += time.thread_time() - began
            nested[0] = False

    if isinstance(vars(owner)[name], classmethod):
        return staticmethod(run)
    return run


def markdown(report: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    products = report["product_ms_per_target"]
    lines = [
        f"{report['date']}, {report['machine']['processor']}, one core; {report['rows']} rows, "
        f"{report['targets']:,} targets. One product with the Gram matrix: {products['float32']:.4f} ms a target in "
        f"float32, {products['float64']:.4f} in float64.",
        "",
        "| engine | part | ms per target | share |",
        "|---|---|---|---|",
    ]
    for engine, found in report["engines"].items():
        parts = dict(found["ms_per_target"])
        total = parts.pop("in all")
        rest = (
            "everything else: products, passes over arrays, copies"
            if engine != "smo"
            else "everything else: two products"
        )
        for part, value in {**parts, rest: total - sum(parts.values())}.items():
            lines.append(f"| {engine} | {part} | {value:.4f} | {value / total:.0%} |")
        steps = "pair steps" if engine == "smo" else "iterations"
        label = f"in all ({found['mean_iterations']:.0f} {steps} a target)"
        lines.append(f"| {engine} | {label} | {total:.4f} | |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
