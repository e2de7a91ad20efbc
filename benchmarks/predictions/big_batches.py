"""Big batches: does memory stay the same while the number of pairs grows, and how fast do they go through?

    python -m benchmarks.predictions.big_batches [--out FILE] [--rank]

Trains recipes on the demo data (18,211 genes), then predicts more and more pairs of new compounds, each batch by
`rapids-perturb predict` in a process of its own, into a folder of Parquet parts. Prints seconds, rows and bytes a
second, the peak memory of the process, and the disk's own speed: the same number of bytes written and synchronised by
nothing but the system, right after. What 100,000 pairs would take is extrapolated from the largest batch, and the table
says so. Writes benchmarks/results/big_batches.json.

With --rank instead: up to 100,000 random responses of 18,211 genes, in Parquet parts as `predict` writes them (7.3 GB),
are ranked by a signature of 100 genes. Writes benchmarks/results/big_batches_rank.json.
"""

import json
import os
import shutil
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.harness import DATA, RESULTS, command, options_of, seconds, table, written
from rapids_pipeline.backend.devices import installed_versions
from rapids_pipeline.data.demo import simulate
from rapids_pipeline.predictions.parts import PartFolder

RECIPES, ROWS, WANTED = ("quick", "published"), (1_000, 4_000, 16_000), 100_000
RANKED, GENES, ROWS_A_PART = (10_000, 100_000), 18_211, 3_512
"""Pairs that are ranked, their genes, and the rows that `predict` puts into a part of 256 MB."""
HEAD = (
    "recipe",
    "pairs",
    "seconds",
    "of which predicting",
    "rows/s",
    "MB/s",
    "the disk's MB/s",
    "peak memory",
    "GB",
)


def batch(model: Path, n: int, out: Path) -> dict[str, Any]:
    """Return what predicting n pairs took, and what the disk takes for as many bytes."""
    place, manifest = out / "predicted", out / "predicted.manifest.json"
    new_pairs(n).to_csv(out / "pairs.csv", index=False)
    files = ["--model", str(model), "--pairs", str(out / "pairs.csv"), "--out", str(place)]
    taken, parts = command("predict", *files), list(place.iterdir())
    size, stages = sum(part.stat().st_size for part in parts), json.loads(manifest.read_text())["seconds"]
    shutil.rmtree(place)
    disk = seconds(lambda: fill(out / "plain", size))
    written_by_us = {"stage_seconds": stages, "bytes": size, "parts": len(parts)}
    return {"rows": n, **taken, **written_by_us, "disk_bytes_per_second": round(size / disk)}


def new_pairs(n: int) -> pd.DataFrame:
    """Return n pairs of compounds by cell types of the demo, and one that it does not have, again and again.

    The 1,356 compounds of the lincs data where they are at hand, otherwise the demo's.
    """
    made, file = simulate(0, 1).de_train, DATA / "lincs_compounds.csv"
    smiles = list(dict.fromkeys(made["SMILES"]))
    if file.exists():
        smiles = list(pd.read_csv(file).filter(regex="(?i)^smiles$").iloc[:, 0].dropna().unique())
    pairs = list(product(smiles, [*sorted(set(made["cell_type"])), "a new cell type"]))
    rows = np.random.default_rng(0).permutation(len(pairs))
    return pd.DataFrame([pairs[rows[k % len(rows)]] for k in range(n)], columns=["SMILES", "cell_type"])


def fill(path: Path, size: int) -> None:
    """Write and synchronise so many random bytes, and remove them."""
    block = np.random.default_rng(0).bytes(2**24)
    with path.open("wb") as file:
        for start in range(0, size, len(block)):
            file.write(block[: min(len(block), size - start)])
        os.fsync(file.fileno())
    path.unlink()


def rate(one: dict[str, Any]) -> float:
    """Return rows a second while predicting and writing."""
    return float(one["rows"] / max(one["stage_seconds"].get("predict", one["seconds"]), 1e-9))


def markdown(report: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    rows: list[tuple[Any, ...]] = []
    for recipe, batches in report["batches"].items():
        for one in batches:
            bytes_a_row = one["bytes"] / one["rows"]
            speeds = rate(one), rate(one) * bytes_a_row / 1e6, one["disk_bytes_per_second"] / 1e6
            predicting = f"{one['stage_seconds'].get('predict', 0):.1f}"
            taken = one["seconds"], predicting, *(f"{speed:.0f}" for speed in speeds)
            memory = f"{one['peak_memory_gib']} GiB"
            rows.append((recipe, f"{one['rows']:,}", *taken, memory, f"{one['bytes'] / 1e9:.2f}"))
        whole = one["seconds"] + (WANTED - one["rows"]) / rate(one)
        empty, size = [""] * 5, f"{bytes_a_row * WANTED / 1e9:.1f}"
        rows.append((recipe, f"{WANTED:,} (extrapolated)", f"{whole:.0f}", *empty, size))
    return "\n".join(table(HEAD, rows))


def random_parts(n: int, out: Path) -> list[str]:
    """Write n random responses as parts into a folder, and return the names of their genes."""
    rng, genes = np.random.default_rng(n), [f"G{k}" for k in range(GENES)]
    folder = PartFolder(out, {"rows": n}, n, ROWS_A_PART, GENES)
    for number in folder.missing():
        ids = np.arange(n)[folder.parts[number]]
        pairs = pd.DataFrame({"id": ids, "cell_type": "NK cells", "sm_name": [f"compound {k}" for k in ids]})
        folder.write(number, pairs, genes, rng.standard_normal((len(ids), GENES), dtype=np.float32))
    folder.publish({})
    return genes


def ranking(n: int, out: Path) -> dict[str, Any]:
    """Return what ranking n random responses by a signature takes."""
    genes, signature = random_parts(n, out / "parts"), out / "signature.csv"
    signs = np.resize([1, -1], 100)
    pd.DataFrame({"gene": genes[: len(signs)], "value": signs}).to_csv(signature, index=False)
    size = sum(part.stat().st_size for part in (out / "parts").iterdir())
    asked = ["--signature", str(signature), "--run", str(out / "parts"), "--out", str(out / "rank.csv")]
    taken = command("rank", *asked, "--overwrite")
    shutil.rmtree(out / "parts")
    return {"rows": n, **taken, "bytes": size}


def of_rankings(report: dict[str, Any]) -> str:
    """Return the report of --rank as Markdown."""
    head = f"pairs × {GENES:,} genes", "GB", "seconds", "pairs/s", "peak memory"
    rows = [
        (
            *(f"{one['rows']:,}", f"{one['bytes'] / 1e9:.2f}", one["seconds"]),
            *(f"{one['rows'] / one['seconds']:.0f}", f"{one['peak_memory_gib']} GiB"),
        )
        for one in report["rankings"]
    ]
    return "\n".join(table(head, rows))


def main() -> None:
    """Train, predict, print and write; or rank."""
    options = options_of(__doc__, "big_batches.json")
    options.add_argument("--rank", action="store_true", help="rank random responses by a signature")
    chosen, found = options.parse_args(), {}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        if chosen.rank:
            place = RESULTS / "big_batches_rank.json"
            written(place, of_rankings, installed_versions(), rankings=[ranking(n, out) for n in RANKED])
            return
        for recipe in RECIPES:
            command("demo", "--recipe", recipe, "--molecules", "morgan", "--out", str(out / recipe))
            model = out / recipe / "model"
            batch(model, 10, out)  # compiles what is compiled on first use
            found[recipe] = [batch(model, n, out) for n in ROWS]
    written(chosen.out, markdown, installed_versions(), batches=found)


if __name__ == "__main__":
    main()
