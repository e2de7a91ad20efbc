"""Big batches: does memory stay the same while the number of pairs grows, and how fast do they go through?

    python benchmarks/big_batches.py [--rows N,N,…] [--recipes NAME,…]

Trains recipes on the demo data (18,211 genes), then predicts more and more pairs of new compounds, each batch by
`rapids-perturb predict` in a process of its own, into a folder of Parquet parts. Prints seconds, rows and bytes a
second, the peak memory of the process, and the disk's own speed: the same number of bytes written and synchronised by
nothing but the system, right after. What 100,000 pairs would take is extrapolated from the largest batch, and said to
be. Writes benchmarks/results/big_batches.json with the machine, the date and versions.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pipeline import REPOSITORY, processor

from rapids_pipeline.backend.versions import installed_versions
from rapids_pipeline.data.demo import simulate

RESULTS = Path(__file__).parent / "results" / "big_batches.json"
WANTED = 100_000


def main() -> None:
    """Train, predict, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", default="1000,4000,16000")
    parser.add_argument("--recipes", default="quick,published")
    chosen = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        for recipe in chosen.recipes.split(","):
            command("demo", "--recipe", recipe, "--out", str(out / recipe))
            model = out / recipe / "model"
            warm_up(model, out)
            found[recipe] = [batch(model, int(n), out) for n in chosen.rows.split(",")]
    report = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {"processor": processor(), "cores": len(os.sched_getaffinity(0))},
        "versions": installed_versions(),
        "batches": found,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(report, indent=2) + "\n")
    print(table(report))


def warm_up(model: Path, out: Path) -> None:
    """Compile what is compiled on first use."""
    batch(model, 10, out)


def batch(model: Path, n: int, out: Path) -> dict[str, Any]:
    """Return what predicting n pairs took, and what the disk takes for as many bytes."""
    new_pairs(n).to_csv(out / "pairs.csv", index=False)
    place = out / "predicted"
    began = time.perf_counter()
    arguments = ["--model", str(model), "--pairs", str(out / "pairs.csv"), "--out", str(place)]
    child = subprocess.Popen([sys.executable, "-m", "rapids_pipeline", "predict", *arguments])
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - began
    if status:
        sys.exit(f"rapids-perturb predict failed with status {os.waitstatus_to_exitcode(status)}")
    stages = json.loads((out / "predicted.manifest.json").read_text()).get("seconds", {})
    size = sum(part.stat().st_size for part in place.iterdir())
    parts = len(list(place.iterdir()))
    shutil.rmtree(place)
    (out / "predicted.manifest.json").unlink()
    return {
        "rows": n,
        "seconds": round(seconds, 1),
        "stage_seconds": stages,
        "core_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_memory_gib": round(usage.ru_maxrss / 2**20, 2),
        "bytes": size,
        "parts": parts,
        "disk_bytes_per_second": round(size / disk_seconds(out / "plain", size)),
    }


def new_pairs(n: int) -> pd.DataFrame:
    """Return n pairs of compounds by cell types of the demo, and one that it does not have, again and again.

    The 1,356 compounds of the lincs data where they are at hand, otherwise the demo's.
    """
    made = simulate(0, 1).de_train
    file = REPOSITORY.parent / "shared" / "data" / "lincs_compounds.csv"
    smiles = list(dict.fromkeys(made["SMILES"]))
    if file.exists():
        smiles = list(pd.read_csv(file).filter(regex="(?i)^smiles$").iloc[:, 0].dropna().unique())
    cells = [*sorted(set(made["cell_type"])), "a new cell type"]
    pairs = list(product(smiles, cells))
    rows = np.random.default_rng(0).permutation(len(pairs))
    return pd.DataFrame([pairs[rows[k % len(rows)]] for k in range(n)], columns=["SMILES", "cell_type"])


def disk_seconds(path: Path, size: int) -> float:
    """Return the seconds that the system takes to write and synchronise so many random bytes."""
    block = np.random.default_rng(0).bytes(2**24)
    began = time.perf_counter()
    with path.open("wb") as file:
        for start in range(0, size, len(block)):
            file.write(block[: min(len(block), size - start)])
        os.fsync(file.fileno())
    seconds = time.perf_counter() - began
    path.unlink()
    return seconds


def command(*arguments: str) -> None:
    """Run a subcommand in a process of its own."""
    subprocess.run(
        [sys.executable, "-m", "rapids_pipeline", *arguments], check=True, stdout=subprocess.DEVNULL
    )


def table(report: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    lines = [
        f"{report['date']}, {report['machine']['processor']}, {report['machine']['cores']} cores; 18,211 genes",
        "",
        "| recipe | pairs | seconds | of which predicting | rows/s | MB/s | the disk's MB/s | peak memory | GB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for recipe, batches in report["batches"].items():
        for one in batches:
            written, disk = rate(one) * one["bytes"] / one["rows"] / 1e6, one["disk_bytes_per_second"] / 1e6
            predicting = one["stage_seconds"].get("predict", 0)
            lines.append(
                f"| {recipe} | {one['rows']:,} | {one['seconds']} | {predicting:.1f} | {rate(one):.0f} | {written:.0f} "
                f"| {disk:.0f} | {one['peak_memory_gib']} GiB | {one['bytes'] / 1e9:.2f} |"
            )
        last = batches[-1]
        seconds = last["seconds"] + (WANTED - last["rows"]) / rate(last)
        size = last["bytes"] / last["rows"] * WANTED / 1e9
        lines.append(f"| {recipe} | {WANTED:,} (extrapolated) | {seconds:.0f} | | | | | | {size:.1f} |")
    return "\n".join(lines)


def rate(one: dict[str, Any]) -> float:
    """Return rows a second while predicting and writing."""
    return float(one["rows"] / max(one["stage_seconds"].get("predict", one["seconds"]), 1e-9))


if __name__ == "__main__":
    main()
