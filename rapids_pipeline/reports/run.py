"""The report of a run: tables and sentences of scores, of recipes and of feature sets."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.table import Column, Table
from rich.text import Text

from rapids_pipeline.evaluation.baseline_names import called

if TYPE_CHECKING:
    import pandas as pd

    from features.feature_sets import FeatureSet
    from rapids_pipeline.evaluation.evaluate import Evaluation
    from rapids_pipeline.pipeline import RunResult
    from rapids_pipeline.stack.members.member import Member
    from rapids_pipeline.stack.recipe import Recipe


def score_table(scores: Mapping[str, Mapping[str, float]]) -> Table:
    """Return a table of methods (rows) and metrics (columns); the best method of each metric is bold.

    Parameters
    ----------
    scores : mapping of method to mapping of metric to float
        Metrics of `rapids_pipeline.evaluation.metrics`.
    """
    from rapids_pipeline.evaluation.metrics import HIGHER_IS_BETTER

    best = {
        metric: (max if HIGHER_IS_BETTER[metric] else min)(row[metric] for row in scores.values())
        for metric in next(iter(scores.values()))
    }
    names = ["MRRMSE" if m == "mean_rowwise_rmse" else m.removeprefix("mean_rowwise_") for m in best]
    table = Table("method", *(Column(name, justify="right") for name in names))
    for method, row in scores.items():
        cells = (_cell(row[metric], row[metric] == best[metric]) for metric in best)
        table.add_row(called(method), *cells)
    return table


def _cell(score: float, bold: bool) -> Text:
    return Text(f"{score:.4f}", "bold" if bold else "")


def perturbation_table(scores: Mapping[str, Mapping[str, float]]) -> Table:
    """Return a table of `perturbation_metrics` and `harness_scores`: the first method, and the best of the others.

    ↑: higher is better, ↓: lower.
    """
    from rapids_pipeline.evaluation import harness_scores, perturbation_metrics

    directions = perturbation_metrics.HIGHER_IS_BETTER | harness_scores.HIGHER_IS_BETTER
    ours, *others = scores
    table = Table(
        Column("score", no_wrap=True), Column("", no_wrap=True), Column(ours, justify="right", min_width=6)
    )
    if others:
        table.add_column("best", justify="right", no_wrap=True)
        table.add_column("baseline", overflow="fold")
    for metric, value in scores[ours].items():
        higher = directions[metric]
        cells: list[str | Text] = [f"{value:.4f}"]
        if others:
            best = (max if higher else min)(others, key=lambda name, m=metric: scores[name][m])  # type: ignore[misc]
            theirs = scores[best][metric]
            wins = value >= theirs if higher else value <= theirs
            cells = [_cell(value, wins), f"{theirs:.4f}", called(best)]
        table.add_row(metric, "↑" if higher else "↓", *cells)
    return table


def frame_table(found: "pd.DataFrame") -> Table:
    """Return a table for a terminal: numbers to the right with four digits, texts folded."""
    numbers = [name for name in found.columns if found[name].dtype.kind in "if"]
    columns = [
        Column(name, justify="right", no_wrap=True) if name in numbers else Column(name, overflow="fold")
        for name in map(str, found.columns)
    ]
    table = Table(*columns)
    for row in found.itertuples(index=False):
        table.add_row(
            *(f"{value:.4g}".replace("-", "−") if isinstance(value, float) else str(value) for value in row)
        )
    return table


def run_report(result: "RunResult", out: Path) -> list[RenderableType]:
    """Return what a run is for people: its scores, in words, and where its files are."""
    verb = "are in" if result.made else "written:"
    return [
        "MRRMSE on training rows that were held out:",
        stack_table(result.document),
        *result_sentences(result.document),
        *result.notes,
        f"{result.shape['test_rows']} pairs × {result.shape['genes']} genes {verb} {out}/submission.csv; beside it "
        "report.html, predictions.parquet, oof.parquet, scores.json, manifest.json, model/",
    ]


def evaluation_report(prediction: Path, truth: Path, found: "Evaluation") -> list[RenderableType]:
    """Return what an evaluation is for people: its tables, and in words what they say."""
    told = [perturbation_table(found.perturbation_scores)] if found.perturbation_scores else []
    title = f"{prediction} against {truth}: {found.n_rows} pairs × {found.n_genes} genes:"
    return [title, score_table(found.scores), *told, *evaluation_sentences(found)]


def evaluation_sentences(found: "Evaluation") -> list[str]:
    """Return in words what an evaluation says besides its table."""
    from rapids_pipeline.evaluation.evaluate import best_baseline

    ours = next(iter(found.scores))
    metric = "mean_rowwise_rmse"
    sentences = []
    others = [name for name in found.scores if name != ours]
    if others:
        best = best_baseline(found.scores, others, metric)
        share = found.scaled[ours][metric]
        named = called(best)
        reference = f"{named}, the best baseline" if len(others) > 1 else named
        comma = "," * (len(others) > 1)
        where = f"{share:.1%} of the way from {reference}{comma} to a perfect prediction"
        sentences.append(f"by MRRMSE {ours} is {where if share >= 0 else f'WORSE than {reference}'}")
    return [*sentences, *_replicate_sentences(found, ours), *([found.note] if found.note else [])]


def _replicate_sentences(found: "Evaluation", ours: str) -> list[str]:
    """Return in words what replicates say of the scores; MRRMSE, and Pearson's correlation in parentheses."""
    if found.replicates is None:
        return []
    alone, ceiling, mine = (
        f"{scores['mean_rowwise_rmse']:.4f} (pearson {scores['mean_rowwise_pearson']:.4f})"
        for scores in (found.replicates.alone, found.replicates.ceiling, found.replicates.prediction)
    )
    counted = f"{found.replicates.n_contexts:,} pairs with {found.replicates.n_rows:,} replicates"
    return [
        f"replicates alone would score {alone}: each as the prediction of the mean of the others, {counted}",
        f"noise ceiling: no model can expect a better score there than {ceiling}; {ours} has {mine}",
    ]


def feature_sets_table(sets: "Mapping[str, FeatureSet]") -> Table:
    """Return a table of feature sets."""
    table = Table(Column("feature set", no_wrap=True), "what it says", Column("blocks", justify="right"))
    for name, recipe in sets.items():
        table.add_row(name, recipe.description, str(len(recipe.blocks)))
    return table


def feature_set_table(recipe: "FeatureSet") -> Table:
    """Return a table of the blocks of a feature set."""
    columns = Column("block", overflow="fold"), *(Column(x, no_wrap=True) for x in ("columns", "fitted on"))
    table = Table(*columns, title=f"{recipe.name}: {recipe.description}", title_justify="left")
    for block in recipe.blocks:
        table.add_row(block.name, block.columns, block.fitted_on)
    return table


def recipes_table(recipes: "Mapping[str, Recipe]") -> Table:
    """Return a table of recipes."""
    table = Table(Column("recipe", no_wrap=True), "what it does", "published by")
    for name, recipe in recipes.items():
        table.add_row(name, recipe.description, recipe.source.split(",")[0])
    return table


def recipe_table(recipe: "Recipe") -> Table:
    """Return a table of the settings of a recipe, member by member."""
    columns = (Column(name, overflow="fold") for name in ("stage", "setting", "value"))
    table = Table(*columns, title=f"{recipe.name}: {recipe.description}", title_justify="left")
    published = {"source": recipe.source, "differs": "\n".join(recipe.differs)}
    stages: list[tuple[str, dict[str, Any]]] = [("published", published)] if recipe.source else []
    stages.append(("stack", {"n_folds": recipe.n_folds}))
    for member in recipe.members:
        stages += _settings_of(member)
    stages.append(("blend", recipe.blend.model_dump()))
    for stage, settings in stages:
        for number, (name, value) in enumerate(settings.items()):
            table.add_row("" if number else stage, name, "-" if value is None else str(value))
        table.add_section()
    return table


def _settings_of(member: "Member") -> list[tuple[str, dict[str, Any]]]:
    """Return a member's settings by stage; groups of settings within it are stages of their own."""
    own: dict[str, Any] = {}
    groups = []
    for name, value in member.model_dump(exclude={"name", "features"}).items():
        if not isinstance(value, dict):
            own[name] = ", ".join(value) or None if isinstance(value, tuple) else value
        elif value.get("use") != "off":
            weights = value.get("weights", {})
            shown = {"weights": "\n".join(f"{factors}: {w:g}" for factors, w in weights.items())}
            groups.append((f"{member.name} {name}", value | (shown if weights else {})))
    if member.feature_sets:
        own["features"] = ", ".join(features.name for features in member.feature_sets)
    return [(member.name, own), *groups]


def stack_table(document: Mapping[str, Any]) -> Table:
    """Return a table of a run's scores.json: a row for the blend, each member and each baseline."""
    scores = document["out_of_fold"]
    weights, dropping = document["blend"]["weights"], document["cost_of_dropping"]
    headings = "out-of-fold", "weight", "without it"
    table = Table("method", *(Column(heading, justify="right") for heading in headings))
    best = min(row["mean_rowwise_rmse"] for row in scores.values())
    for name, row in scores.items():
        value = row["mean_rowwise_rmse"]
        weight = f"{weights[name]:.2f}" if name in weights else ""
        cost = f"{dropping[name]:+.4f}" if name in dropping else ""
        table.add_row(called(name), _cell(value, value == best), weight, cost)
    return table


def result_sentences(document: Mapping[str, Any]) -> list[str]:
    """Return in words what a run's scores.json says besides the table."""
    amplitude, pseudo = document["blend"]["amplitude"], document["pseudo_labels"]
    sentences = [f"out-of-fold: {document['split']}; {document['caution']}"]
    if amplitude < 1:
        sentences.append(f"the blend is scaled by {amplitude:.3f}")
    compared = {"": pseudo} if "on" in pseudo else {f" of {name}": found for name, found in pseudo.items()}
    for member, found in compared.items():
        if found:
            better = "used" if found["on"] < found["off"] else "not used"
            sentences.append(
                f"pseudo-labels{member}: out-of-fold {found['off']:.4f} without, {found['on']:.4f} with them: {better}"
            )
    return sentences
