"""The trade-off of a run's objective: a section of its page."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rapids_pipeline.evaluation.baseline_names import called
from rapids_pipeline.reports import page
from rapids_pipeline.reports.page import Section, Sheet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINES = {"chosen from": page.PLAIN, "amplitude": page.GREY, "compound's deviation": page.BETTER}
WORDS = {
    "chosen from": "all that was chosen from",
    "amplitude": "deviations amplified, nothing else",
    "compound's deviation": "the compound's deviation added, nothing else",
}


def before_contrast(document: Mapping[str, Any]) -> str:
    """Return a sentence for beside the out-of-fold scores of a run with an objective; nothing for other runs."""
    if "objective" not in document:
        return ""
    return (
        f" These scores are of the blend before the objective {document['objective']['name']} changes it, so the error "
        "of the predictions themselves is another one: “What telling compounds apart costs” has both."
    )


def objective_sentences(document: Mapping[str, Any]) -> list[str]:
    """Return what the head of the page says of a run's objective, of its scores.json."""
    told = [before_contrast(document).strip().rstrip("."), document.get("objective", {}).get("warning", "")]
    return [sentence for sentence in told if sentence]


def objective_section(found: Mapping[str, Any]) -> Section:
    """Return what `--objective` cost and gained, of the part `objective` of scores.json."""
    best = found["best_baseline"]
    rows = {"the blend": "plain", "with its contrast": "nested"}
    scores = {name: found[which] for name, which in rows.items()} | {called(best): found["baselines"][best]}
    numbers = ", ".join(f"{name} {value:g}" for name, value in found["choice"].items())
    nearest = f" No choice discriminates as well as the {called(best)} by both distances."
    missed = "" if found["reached"] else f" {found['warning']}." if "warning" in found else nearest
    return Section(
        "objective",
        "What telling compounds apart costs",
        f"The objective of this run is {found['name']}. {found['rows']:,} training rows of {found['splits']} splits "
        f"({found['split']}) were held out to choose how much predictions are pulled apart: {numbers}. Discrimination "
        "is the share of other compounds of the cell type whose true response is nearer to a prediction than its own; "
        f"0.5 is chance, and less is better.{missed}",
        page.svg(lambda: tradeoff(found), "tradeoff", "MRRMSE against discrimination"),
        Sheet(
            ("", "MRRMSE", "discrimination, cosine", "discrimination, l2"),
            [(name, *(f"{value:.4f}" for value in one.values())) for name, one in scores.items()],
        ),
        remark="The scores with the contrast are those of each split's rows by the choice of the other splits.",
    )


def tradeoff(found: Mapping[str, Any]) -> "Figure":
    """Draw MRRMSE against the mean of both discriminations: curves, the best baseline and what was chosen."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.add_subplot()
    for name, colour in LINES.items():
        points = [(one[0], (one[1] + one[2]) / 2) for one in found["curves"][name]]
        axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.5, label=WORDS[name])
    best = found["best_baseline"]
    marks = {
        called(best): found["baselines"][best],
        "the blend": found["plain"],
        "chosen": found["chosen"],
    }
    for (name, one), shape in zip(marks.items(), "sDo", strict=True):
        axes.plot(
            one["mrrmse"], (one["cosine"] + one["l2"]) / 2, shape, color=page.WORSE, label=name, markersize=5
        )
    axes.set_xlabel("MRRMSE")
    axes.set_ylabel("discrimination")
    axes.legend(fontsize=7, frameon=False)
    return figure
