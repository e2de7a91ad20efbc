"""Where the time of the shared SVR engines goes.

    python -m benchmarks.svr.parts [--out FILE]

One fold of the demo data (491 training rows), one thread. The engines' own functions run between two readings of
the thread's CPU clock; products are timed by themselves on the same matrices. Prints Markdown and writes JSON.
"""

import time
from collections import defaultdict
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.svr.problem import Problem
from rapids_pipeline.svr import douglas_rachford
from rapids_pipeline.svr.dual import kernel_between, scale_gamma
from rapids_pipeline.svr.smo import kernels, pairs, solver

N_GENES, ROUNDS = 4_096, 5
PARTS = {
    "smo": {
        "inverse and R": (solver.WarmStart, "build"),
        "other tables of K": (solver.SharedGram, "of"),
        "transpose and centre Y": (kernels, "gather_chunk"),
        "start: one Douglas–Rachford step": (solver, "_start"),
        "make β feasible": (kernels, "balance_chunk"),
        "pair steps": (pairs, "descend_chunk"),
        "U − L and intercept": (kernels, "judge_chunk"),
    },
    "douglas-rachford": {
        "pilot that chooses ρ": (douglas_rachford, "choose_rho"),
        "inverse and R": (douglas_rachford.SharedStep, "build"),
        "checks of a few targets": (douglas_rachford.SharedStep, "is_worth_judging"),
        "checks of whole batches, with β made feasible": (douglas_rachford, "judged"),
    },
}


def product_ms(K: np.ndarray) -> float:
    """Return milliseconds per target of one product of K with 512 targets."""
    right = np.random.default_rng(0).normal(size=(512, len(K))).astype(K.dtype)
    turns = harness.by_turns({"product": lambda: right @ K}, 40, clock=time.thread_time)
    return 1e3 * median(turns["product"]) / len(right)


def taken_apart(engine: str, solve: Callable[[], Any]) -> dict[str, Any]:
    """Return medians over rounds of milliseconds per target, in all and of each part, and the iterations."""
    solution = solve()  # compiles and loads
    rounds: list[dict[str, float]] = []
    for _ in range(ROUNDS):
        seconds: dict[str, float] = defaultdict(float)
        originals = [(owner, name, vars(owner)[name]) for owner, name in PARTS[engine].values()]
        nested = [False]
        for part, (owner, name) in PARTS[engine].items():
            setattr(owner, name, clocked(owner, name, seconds, part, nested))
        seconds["in all"] = harness.seconds(solve, clock=time.thread_time)
        for owner, name, original in originals:
            setattr(owner, name, original)
        rounds.append({part: 1e3 * value / N_GENES for part, value in seconds.items()})
    parts = {part: median([r[part] for r in rounds]) for part in (*PARTS[engine], "in all")}
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

    return staticmethod(run) if isinstance(vars(owner)[name], classmethod) else run


def markdown(report: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    products = report["product_ms_per_target"]
    rows: list[tuple[str, ...]] = []
    for engine, found in report["engines"].items():
        parts = dict(found["ms_per_target"])
        total = parts.pop("in all")
        for part, value in {**parts, "everything else": total - sum(parts.values())}.items():
            rows.append((engine, part, f"{value:.4f}", f"{value / total:.0%}"))
        steps = "pair steps" if engine == "smo" else "iterations"
        rows.append((engine, f"in all ({found['mean_iterations']:.0f} {steps} a target)", f"{total:.4f}", ""))
    first = (
        f"One core; {report['rows']} rows, {report['targets']:,} targets. One product with the Gram matrix: "
        f"{products['float32']:.4f} ms a target in float32, {products['float64']:.4f} in float64."
    )
    return "\n".join([first, "", *harness.table(("engine", "part", "ms per target", "share"), rows)])


def main() -> None:
    """Measure, print and write."""
    options = harness.options_of(__doc__, results="svr_parts.json").parse_args()
    harness.on_one_core()
    problem = Problem.load(N_GENES)
    inside, _ = problem.split(0)
    X, Y = problem.X[inside], problem.Y[inside]
    K = kernel_between(X, X, "rbf", scale_gamma(X))
    products = {kind: product_ms(K.astype(kind)) for kind in ("float32", "float64")}
    solve = {
        "smo": lambda: solver.solve(K, Y, n_threads=1),
        "douglas-rachford": lambda: douglas_rachford.solve(K, Y),
    }
    engines = {name: taken_apart(name, work) for name, work in solve.items()}
    report = {"rows": len(inside), "targets": N_GENES, "product_ms_per_target": products, "engines": engines}
    harness.written(options.out, markdown, **report)


if __name__ == "__main__":
    main()
