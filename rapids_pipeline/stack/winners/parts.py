"""What the recipes of several winners share: blocks of statistics of the targets."""

from collections.abc import Sequence

from features.blocks import LeaveOneOutBlock, OneHotBlock, StatisticsBlock

COMPETITION = "Open Problems – Single-Cell Perturbations, NeurIPS 2023"
ONE_HOT = OneHotBlock(column="cell_type"), OneHotBlock(column="sm_name")
LEFT_OUT = LeaveOneOutBlock(column="cell_type"), LeaveOneOutBlock(column="sm_name")


def statistics(
    *names: str,
    leaky: bool = False,
    n_targets: int | None = None,
    by: Sequence[str] = ("cell_type", "sm_name"),
) -> list[StatisticsBlock]:
    """Return the blocks of statistics of the targets, by cell type and by compound."""
    how = {"statistics": names, "leaky": leaky, "n_targets": n_targets}
    return [StatisticsBlock.model_validate({"column": column, **how}) for column in by]
