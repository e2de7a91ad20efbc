"""Numbers of whole runs, recorded once and compared after a change that should not move them.

    python tests/journeys/golden.py record FOLDER                  run everything and keep what it left
    python tests/journeys/golden.py compare FOLDER [PART …]        run again and compare with what was kept

The parts are `run-DATA-RECIPE` (submission, out-of-fold predictions, every number of scores.json) for the data sets
`lincs` and `demo` (500 genes) and every named recipe, `predict`, `submit`, `cv` and `screen`. A prefix names all parts
that start with it. `compare` prints one line for each part: "same bits", or the largest difference relative to the
spread of the recorded numbers. It ends with exit code 1 where that is above 1e-5 or a number is missing.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

REPOSITORY = Path(__file__).resolve().parents[2]
LINCS = Path(os.environ.get("RAPIDS_PERTURB_DATA", REPOSITORY.parent / "shared" / "data")) / "lincs_lung"
RECIPES = ("best", "standard", "published", "quick")
TOLERANCE = 1e-5
RUNS = [f"run-{data}-{recipe}" for data in ("lincs", "demo") for recipe in RECIPES]
PARTS = [*RUNS, "predict", "submit", "cv", "screen"]


def program(*arguments: str | Path) -> None:
    """Run the command line on a CPU, its numbers from one BLAS thread."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    environment = os.environ | threads | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "rapids_pipeline", *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")


def make(part: str, folder: Path) -> dict[str, np.ndarray]:
    """Run a part in a working folder and return its numbers by name."""
    data = folder / "demo"
    if not data.exists():
        program("demo", "--data-only", "--genes", "500", "--out", data)
    files = {
        "lincs": (LINCS / "de_train.parquet", LINCS / "id_map.csv"),
        "demo": (data / "data" / "de_train.parquet", data / "data" / "id_map.csv"),
    }
    out = folder / part
    common = ("--molecules", "morgan", "--device", "cpu")
    if part.startswith("run-"):
        _, name, recipe = part.split("-")
        train, test = files[name]
        program("run", "--train", train, "--test", test, "--recipe", recipe, "--out", out, *common)
        return run_numbers(out)
    train, test = files["lincs"]
    if part in ("predict", "submit"):
        trained = folder / "run-lincs-best"
        if not (trained / "manifest.json").exists():
            make("run-lincs-best", folder)
        if part == "predict":
            program("predict", "--model", trained / "model", "--pairs", test, "--out", f"{out}.csv")
            return table_numbers(pd.read_csv(f"{out}.csv"))
        program("submit", "--run", trained, "--out", f"{out}.csv.gz")
        return table_numbers(pd.read_csv(f"{out}.csv.gz"))
    if part == "cv":
        program("cv", "--train", train, "--test", test, "--recipe", "quick", "--out", out, *common)
        return json_numbers(json.loads((out / "cv.json").read_text()))
    train, _ = files["demo"]
    sets = "onehot,svr_shared,loo,op2_first_light"
    target = ("--target", "A1BG", "--features", sets, "--molecules", "morgan")
    program("screen", "--train", train, *target, "--out", out)
    return table_numbers(pd.read_csv(out / "screen.csv"))


def run_numbers(out: Path) -> dict[str, np.ndarray]:
    """Return the numbers of a run folder."""
    found = {"submission": table_numbers(pd.read_csv(out / "submission.csv"))}
    found["oof"] = table_numbers(pd.read_parquet(out / "oof.parquet"))
    found["scores"] = json_numbers(json.loads((out / "scores.json").read_text()))
    return {f"{name}/{key}": value for name, values in found.items() for key, value in values.items()}


def table_numbers(table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return the numeric columns of a table."""
    return {str(name): column.to_numpy() for name, column in table.select_dtypes("number").items()}


def json_numbers(content: Any) -> dict[str, np.ndarray]:
    """Return every number of a JSON document by its place, less seconds, sizes and versions."""

    def walk(node: Any, place: str) -> Iterator[tuple[str, float]]:
        if isinstance(node, bool):
            return
        if isinstance(node, dict):
            for key, value in node.items():
                if key not in ("seconds", "provenance", "versions", "settings"):
                    yield from walk(value, f"{place}.{key}")
        elif isinstance(node, list):
            for number, value in enumerate(node):
                yield from walk(value, f"{place}[{number}]")
        elif isinstance(node, int | float):
            yield place, float(node)

    return {place: np.array([value]) for place, value in walk(content, "")}


def difference(kept: dict[str, np.ndarray], found: dict[str, np.ndarray]) -> tuple[str, bool]:
    """Return in words how far numbers are from the recorded ones, and whether that is close enough."""
    kept = {name: values for name, values in kept.items() if name != "seconds"}
    missing = sorted(set(kept) - set(found))
    if missing:
        return f"{len(missing)} numbers are missing, first {missing[0]}", False
    worst, where = 0.0, ""
    for name, old in kept.items():
        new = found[name]
        if old.shape != new.shape:
            return f"{name}: shape {new.shape} instead of {old.shape}", False
        if np.array_equal(old, new, equal_nan=True):
            continue
        spread = max(float(np.nanstd(old)), 1e-3 * (1 + float(np.nanmax(np.abs(old)))))
        away = float(np.nanmax(np.abs(old - new))) / spread
        if not away <= worst:
            worst, where = away, name
    if not where:
        return "same bits", True
    return f"at most {worst:.1e} of the spread, in {where}", worst <= TOLERANCE


def main() -> None:
    """Record or compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("record", "compare"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("parts", nargs="*", help=f"default: {', '.join(PARTS)}")
    options = parser.parse_args()
    parts = [part for part in PARTS if not options.parts or part.startswith(tuple(options.parts))]
    options.folder.mkdir(parents=True, exist_ok=True)
    fine = True
    with tempfile.TemporaryDirectory() as work:
        for part in parts:
            kept = options.folder / f"{part}.npz"
            found = make(part, Path(work))
            if options.what == "record":
                np.savez_compressed(kept, **found)
                print(f"{part}: {len(found)} numbers or columns recorded", flush=True)
                continue
            with np.load(kept) as arrays:
                words, close = difference({name: arrays[name] for name in arrays.files}, found)
            print(f"{part}: {words}", flush=True)
            fine = fine and close
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
