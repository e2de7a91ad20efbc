"""The names of baselines, in files and for people; what computes them is in `rapids_pipeline.evaluation.baselines`."""

SIMPLE = {
    "zeros": "no response",
    "mean_outcome": "mean response",
    "mean_across_celltypes": "cell-type mean",
    "mean_across_compounds": "compound mean",
    "shrunken_compound_mean": "shrunken compound mean",
    "additive": "additive effects",
    "ridge": "ridge regression",
    "tanimoto_neighbours": "mean of similar compounds",
    "nearest_context": "nearest context",
    "context_mean": "context mean",
}
"""What baselines are called for people; files have their keys."""


def called(method: str) -> str:
    """Return the name of a method for people: the plain name of a baseline, and any other as it is."""
    return SIMPLE.get(method, method)
