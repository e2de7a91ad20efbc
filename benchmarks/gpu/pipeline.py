"""Whole runs on a CPU and on a GPU, as a user starts them: seconds of every stage, and the scores.

    python -m benchmarks.gpu.pipeline [--device cuda|cpu] [--small | --full] [--data FOLDER] [--out FILE]

Runs the demo and, where the folder holds it, real lincs_lung data, with the recipe `quick` (`--full`: `published`),
each run in a process of its own. Before them one run on the device compiles, and does not count. Prints Markdown and
writes JSON. With `--device cpu` the program runs without a GPU, to be tested. Exit code 3: something it needs is not
here.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.pipeline import files_of, measured


@dataclass(frozen=True)
class Size:
    """Which recipe, on how many genes of the demo (None: all), and whether on real data, too."""

    recipe: str
    genes: int | None
    real: bool


SMALL, USUAL, FULL = Size("quick", 12, False), Size("quick", None, True), Size("published", None, True)


def runs(size: Size, data: Path) -> dict[str, list[str]]:
    """Return name → arguments of the command line, without the device and the folder of results."""
    recipe = ["--recipe", size.recipe, "--molecules", "morgan"]
    genes = [] if size.genes is None else ["--genes", str(size.genes)]
    found = {f"demo, {size.recipe}": ["demo", *recipe, *genes]}
    lung = data / "lincs_lung"
    if size.real and (lung / "de_train.parquet").exists():
        found[f"lincs_lung, {size.recipe}"] = ["run", *files_of(lung), *recipe]
    return found


def on(device: str, arguments: list[str], out: Path) -> dict[str, Any]:
    """Run once on a device; return what it took and which engines it chose."""
    found = measured([*arguments, "--device", device, "--out", str(out)], out)
    if found["device"] != device:
        raise RuntimeError(f"asked for {device}, ran on {found['device']}")
    return found


def markdown(report: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    lines = []
    for name, by_device in report["runs"].items():
        devices = list(by_device)
        lines += [f"| {name}, s | {' | '.join(devices)} |", "|---|" + "---|" * len(devices)]
        stages = dict.fromkeys(stage for run in by_device.values() for stage in run["stage_seconds"])
        for stage in stages:
            cells = (by_device[device]["stage_seconds"].get(stage) for device in devices)
            lines.append(f"| {stage} | {' | '.join('–' if c is None else f'{c:.2f}' for c in cells)} |")
        for title, key in (("whole process", "seconds"), ("peak host memory, GiB", "peak_memory_gib")):
            lines.append(f"| {title} | {' | '.join(str(by_device[device][key]) for device in devices)} |")
        scores = (by_device[device]["out_of_fold"]["pipeline"] for device in devices)
        lines += [f"| out-of-fold MRRMSE | {' | '.join(f'{score:.4f}' for score in scores)} |", ""]
    return "\n".join(lines)


@harness.ends_in_one_line
def main() -> None:
    """Run, print and write."""
    parser = harness.options_of(__doc__, results="gpu_pipeline.json")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--small", dest="size", action="store_const", const=SMALL, default=USUAL)
    sizes.add_argument("--full", dest="size", action="store_const", const=FULL)
    parser.add_argument("--data", type=Path, default=harness.DATA)
    options = parser.parse_args()
    harness.require(options.device, "cupy", "cudf")
    found: dict[str, dict[str, Any]] = {}
    wanted = runs(options.size, options.data)
    with tempfile.TemporaryDirectory() as folder:
        if options.device == "cuda":
            on("cuda", next(iter(wanted.values())), Path(folder, "first"))  # compiles
        for number, (name, arguments) in enumerate(wanted.items()):
            found[name] = {
                device: on(device, arguments, Path(folder, f"{number}-{device}"))
                for device in dict.fromkeys(("cpu", options.device))
            }
    report = {"device": options.device, "recipe": options.size.recipe, "runs": found}
    harness.written(options.out, markdown, **report)


if __name__ == "__main__":
    main()
