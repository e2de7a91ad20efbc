"""`atlas`: embeddings of compounds by their responses in other data sets, for new compounds of a run."""

from pathlib import Path
from typing import Annotated

import typer

from rapids_pipeline.commands import option_groups, options
from rapids_pipeline.data.columns import AS_OURS, TableOptions


@option_groups.with_several
def command(
    sources: Annotated[
        list[Path],
        typer.Option(
            "--from",
            help="A data set of responses, as --train of run takes them; may be repeated. Its genes, cell types and "
            "doses may differ from yours. SMILES may be missing.",
        ),
    ],
    out: options.OutOption,
    how: TableOptions = AS_OURS,
    overwrite: Annotated[bool, typer.Option(help="Replace an atlas that is there.")] = False,
) -> None:
    """Make an atlas of other data sets, which tells `run --atlas` how new compounds acted there."""
    from features.molecules.atlas import require_place, write_atlas
    from rapids_pipeline.backend.files import written_folder
    from rapids_pipeline.data.compound_effects import build_atlas
    from rapids_pipeline.reports.page import LiveStages, print_report

    require_place(out, overwrite)
    stages = LiveStages()
    with stages.stage("atlas"):
        made = build_atlas(sources, how)
    with written_folder(out) as place:
        write_atlas(place, made)
    told = [
        f"{one.file}: {one.compounds:,} compounds, {one.rows:,} responses of {one.cell_types} cell types × "
        f"{one.genes:,} genes, {one.components} components (κ = {one.kappa:.2f})"
        for one in made.sources
    ]
    structures = sum(map(bool, made.blocks))
    print_report(
        *told,
        f"{len(made.names):,} compounds, {structures:,} told apart by structure and the others by name; written: {out}",
    )
    words = "run", "--train", "de_train.parquet", "--test", "id_map.csv", "--atlas", out, "--out", "runs/run"
    options.suggest(stages, "new compounds of your data", *words)
