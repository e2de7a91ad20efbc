"""The page of predicted responses: what to expect, which pairs respond, by which genes, and how far to trust it.

report.html        of a run, beside its other results; in one file that needs no network
NAME.report.html   of pairs that `predict` predicted later, beside them
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from rapids_pipeline.backend.arrays import Indices
from rapids_pipeline.backend.files import written
from rapids_pipeline.backend.progress import Stages
from rapids_pipeline.evaluation.audit import recommended_split
from rapids_pipeline.evaluation.baseline_names import called
from rapids_pipeline.pipeline import Fitted
from rapids_pipeline.predictions.parts import named_beside
from rapids_pipeline.predictions.predict import PairPredictor, Predicted
from rapids_pipeline.predictions.readouts import Responses, drivers, has_kernels, strongest
from rapids_pipeline.reports import page
from rapids_pipeline.reports.charts import heat_map, ranked
from rapids_pipeline.reports.cv import expectation
from rapids_pipeline.reports.doses import dose_section
from rapids_pipeline.reports.objective import before_contrast, objective_section, objective_sentences
from rapids_pipeline.reports.page import Page, Section, Sheet, number, short, signed
from rapids_pipeline.reports.run import result_sentences
from rapids_pipeline.reports.run_facts import MOST_PAIRS, RunFacts, facts_of_fit, facts_of_prediction
from rapids_pipeline.stack.recipe import PIPELINE

NAMED = 5
"""Genes that are named for each pair, up and down."""
HEAT_PAIRS = 40
DRIVERS = 5
"""Training rows that are named for each of them."""
DRAWN = 12
"""New compounds that are drawn beside the nearest training compound."""
MOST_GROUPS = 500
"""Compounds in the table of errors: those with the most rows."""


def write_run_report(found: Fitted, path: Path) -> None:
    """Write the page of a run that was just fitted."""
    write_page(facts_of_fit(found), path)


def write_prediction_report(found: Predicted, folder: Path, out: Path, stages: Stages) -> Path:
    """Write the page of new pairs beside their predictions `out`, unless one of the same stays; return its path."""
    place = named_beside(out, "report", ".html")
    if not found.kept:
        with stages.stage("page"), written(place) as path:
            write_page(facts_of_prediction(found, folder, out), path)
    return place


def write_page(facts: RunFacts, path: Path) -> None:
    """Write a page of predicted responses."""
    path.write_text(page.page_of(run_page(facts)), encoding="utf-8")


def run_page(facts: RunFacts) -> Page:
    """Return the page of predicted responses."""
    found, document = facts.responses, facts.document
    order = strongest(found, MOST_PAIRS)
    panels = facts.panels
    new = _new_compounds(facts.pairs)
    sections = [
        Section(
            "pairs",
            "Which pairs respond, and by which genes",
            f"{_counted(len(order), len(facts.pairs))}: the size of the response (root mean square over "
            "genes), the genes that go up and down most, and how far the pair is from the training rows. A click on a "
            "heading sorts.",
            sheet=pair_sheet(found, order),
        ),
        _heat(found, order[:HEAT_PAIRS]) if len(order) > 1 else None,
        Section(
            "genes",
            "Genes in order of their response",
            "Every line is a pair, every point of it a gene. `rapids-perturb genes` lists the genes of any pair.",
            page.svg(lambda: ranked(found, panels), "ranked", "Genes in order of their response"),
        ),
        dose_section(facts.model, found.pairs.iloc[panels]),
        _driven(facts.work, [found.names[row] for row in panels]) if has_kernels(facts.model) else None,
        _drawn(new, facts.model.obs) if len(new) else None,
        *(_errors(document) if document else []),
        _members(document) if document else None,
        objective_section(document["objective"]) if "objective" in document else None,
        Section("notes", "Notes", items=list(facts.notes)) if facts.notes else None,
    ]
    counts = {
        "pairs": f"{len(facts.pairs):,}",
        "genes": f"{len(found.genes):,}",
        "cell types": f"{facts.model.obs['cell_type'].nunique():,}",
        "compounds": f"{facts.model.obs['sm_name'].nunique():,}",
    }
    named = dict(facts.settings)
    return Page(
        title=verdict(facts),
        lead=f"predicted responses of {len(facts.pairs):,} pairs, by the recipe {named.pop('recipe')}",
        facts=counts | named,
        sentences=sentences(facts),
        sections=sections,
        provenance=facts.provenance,
        sortable=True,
    )


def _counted(shown: int, pairs: int) -> str:
    if shown < pairs:
        return f"The {shown:,} of {pairs:,} pairs with the strongest responses"
    return f"{pairs:,} pairs, the strongest responses first"


def _heat(found: Responses, rows: Indices) -> Section:
    """Return the heat map of the strongest responses."""
    return Section(
        "heat",
        "The strongest responses",
        f"{len(rows)} pairs and the genes that differ most between them, like beside like; red: up, blue: down.",
        page.image(page.png(lambda: heat_map(found, rows)), "Heat map of the strongest responses"),
    )


# --- words ------------------------------------------------------------------------------------------------


def verdict(facts: RunFacts) -> str:
    """Return the first line of the page: the error to expect, beside that of the best simple method."""
    if not facts.document:
        return f"The strongest of {len(facts.pairs):,} responses: {facts.responses.names[0]}"
    if facts.expected is None:
        error, best = _out_of_fold(facts.document)
        return f"Error of held-out training rows: MRRMSE {number(error)} ({_simple(facts)}: {number(best)})"
    return expectation(facts.expected, of_pairs=not facts.of_others)


def _simple(facts: RunFacts) -> str:
    """Return what the best baseline is called."""
    return called(str(facts.document["best_baseline"]))


def sentences(facts: RunFacts) -> list[str]:
    """Return in words how far the scores and the predictions can be trusted."""
    pairs, lines = facts.pairs, []
    if facts.expected is not None:
        lines.append(
            f"the expected error is of a cross-validation by the split {facts.expected['split']} "
            f"({facts.expected['split_in_words']})"
        )
    if facts.document:
        ours, best = _out_of_fold(facts.document)
        gain = 1 - ours / best if best else 0.0
        lines.append(
            f"on training rows held out at random the error is {page.percent(abs(gain))} "
            f"{'below' if gain > 0 else 'ABOVE'} that of the {_simple(facts)}, the best simple method"
        )
    else:
        lines.append(
            "the model lies in no folder of a run, which has its scores, so this page cannot say what error to expect"
        )
    name, why = recommended_split(facts.model.obs, pairs.assign(SMILES=pairs["SMILES"].astype(str)))
    if name != "random" and facts.expected is None:
        lines.append(
            f"your pairs are harder than random rows: {why}; `rapids-perturb cv` with the same files says what to "
            "expect of them, and `rapids-perturb report --run DIR --cv DIR` puts it on this page"
        )
    for column, what in (("cell_type_known", "cell type"), ("compound_known", "compound")):
        unknown = int((~pairs[column].astype(bool)).sum())
        if unknown:
            lines.append(f"{unknown:,} of {len(pairs):,} pairs have a {what} without any training row")
    lines += objective_sentences(facts.document)
    return [*lines, *(result_sentences(facts.document)[1:] if facts.document else [])]


def _out_of_fold(document: Mapping[str, Any]) -> tuple[float, float]:
    """Return the out-of-fold MRRMSE of the recipe and of the best baseline."""
    scores = document["out_of_fold"]
    return scores[PIPELINE]["mean_rowwise_rmse"], scores[document["best_baseline"]]["mean_rowwise_rmse"]


# --- tables -----------------------------------------------------------------------------------------------


def pair_sheet(found: Responses, rows: Indices) -> Sheet:
    """Return a table of pairs: strength, genes up and down, and the applicability."""
    strength = np.sqrt(np.mean(np.square(found.Y[rows], dtype=np.float64), axis=1))
    decimals = min(page.decimals_for(strength.tolist()), 4)
    cells = []
    for row, size in zip(rows.tolist(), strength, strict=True):
        pair = found.pairs.iloc[row]
        near = "" if pd.isna(pair["tanimoto"]) else f"{pair['tanimoto']:.2f}"
        cells.append(
            [
                found.names[row],
                number(float(size), decimals),
                _extreme(found, row, decimals, up=True),
                _extreme(found, row, decimals, up=False),
                str(pair["nearest_compound"]),
                near,
                f"{int(pair['cell_type_rows'])}",
                f"{int(pair['compound_rows'])}",
            ]
        )
    headings = [
        *("pair", "size", "up", "down", "nearest training compound", "similarity"),
        *("training rows of the cell type", "of the compound"),
    ]
    return Sheet(headings, cells, text=["up", "down", "nearest training compound"])


def _extreme(found: Responses, row: int, decimals: int, *, up: bool) -> str:
    """Return the genes that go up or down most, with their responses."""
    values = found.Y[row] if up else -found.Y[row]
    least = np.partition(values, -min(NAMED, len(values)))[-min(NAMED, len(values))]
    some = np.flatnonzero(values >= max(least, np.finfo(np.float32).tiny))
    named = some[np.argsort(-values[some], kind="stable")][:NAMED]
    decimals = min(decimals, 2)
    told = ((found.genes[gene], signed(float(found.Y[row, gene]), decimals)) for gene in named)
    return ", ".join(f"{gene}\N{NO-BREAK SPACE}{value}" for gene, value in told)


def _driven(work: PairPredictor, names: Sequence[str]) -> Section:
    """Return the training rows that drive predictions, by the composite kernels."""
    rows = []
    for row, name in enumerate(names):
        table = drivers(work, row, top=DRIVERS)
        named = zip(table["cell_type"], table["sm_name"], table["share"].tolist(), strict=True)
        rows += [
            [name, f"{cell}, {compound}", page.percent(round(share, 3)).replace("-", "−")]
            for cell, compound, share in named
        ]
    words = (
        f"The {DRIVERS} training rows that add most to each of these predictions of the composite kernels. The "
        "shares of all rows, and of what no row adds, sum to 100 %."
    )
    sheet = Sheet(["pair", "training row", "share of the prediction"], rows, text=["training row"])
    return Section("drivers", "Which training rows a prediction comes from", words, sheet=sheet)


def _errors(document: Mapping[str, Any]) -> list[Section]:
    """Return tables of the out-of-fold error by cell type and by compound, the most rows first."""
    best, sections = document["best_baseline"], []
    simple_name = called(best)
    words = (
        "Training rows that were held out at random, each predicted by models that never saw it; a change below 0 is "
        f"better than the {simple_name}.{before_contrast(document)}"
    )
    for column, what in (("cell_type", "cell type"), ("sm_name", "compound")):
        groups = sorted(document["by_group"][column].items(), key=lambda item: -item[1]["rows"])[:MOST_GROUPS]
        rows = []
        for name, one in groups:
            ours, simple = one[PIPELINE], one[best]
            changed = page.change(ours / simple - 1) if simple else page.UNKNOWN
            rows.append([name, str(one["rows"]), number(ours), number(simple), changed])
        sheet = Sheet([what, "training rows", "MRRMSE", simple_name, "change"], rows)
        sections.append(Section(f"by-{what.replace(' ', '-')}", f"Error by {what}", words, sheet=sheet))
    return sections


def _members(document: Mapping[str, Any]) -> Section:
    """Return the table of members, baselines and weights."""
    weights, dropping = document["blend"]["weights"], document["cost_of_dropping"]
    rows = []
    for name, row in document["out_of_fold"].items():
        weight = f"{weights[name]:.2f}" if name in weights else ""
        cost = signed(dropping[name]) if name in dropping else ""
        rows.append([called(name), number(row["mean_rowwise_rmse"]), weight, cost])
    words = (
        "Out-of-fold error of the whole recipe, of its members and of simple methods, and the weights in the sum."
        f"{before_contrast(document)}"
    )
    headings = ["method", "MRRMSE", "weight", "rise of the error without it"]
    return Section("members", "What the prediction is made of", words, sheet=Sheet(headings, rows, bold=[0]))


# --- new compounds ----------------------------------------------------------------------------------------


def _new_compounds(pairs: pd.DataFrame) -> pd.DataFrame:
    """Return the first pair of every compound that is new to the model and has a structure, the most alike first."""
    new = pairs[~pairs["compound_known"].astype(bool) & pairs["tanimoto"].notna()]
    return new.drop_duplicates("SMILES").sort_values("tanimoto", ascending=False, kind="stable")


def _drawn(new: pd.DataFrame, obs: pd.DataFrame) -> Section:
    """Return new compounds beside the training compound that is most like each of them."""
    known = obs.drop_duplicates("sm_name").set_index("sm_name")["SMILES"]
    cards = []
    for pair in new.head(DRAWN).itertuples():
        near = str(pair.nearest_compound)
        words = f"{short(str(pair.sm_name))}, and {short(near)}, the nearest (similarity {pair.tanimoto:.2f})"
        cards += [
            _card(str(pair.SMILES), str(pair.sm_name), "new"),
            _card(str(known.get(near, "")), near, words),
        ]
    return Section(
        "new",
        "Compounds that are new to the model",
        f"{len(new):,} compounds have no training row. Each is drawn with the training compound that is most like it "
        f"(Tanimoto similarity of Morgan fingerprints){'; the most alike first' if len(new) > 1 else ''}.",
        Markup('<div class="cards">{}</div>').format(Markup("").join(cards)),
    )


def _card(smiles: str, name: str, words: str) -> Markup:
    """Return a drawn molecule with its name."""
    return Markup("<figure>{}<figcaption><strong>{}</strong><br>{}</figcaption></figure>").format(
        page.molecule(smiles, name), short(name), words
    )
