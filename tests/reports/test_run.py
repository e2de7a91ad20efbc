"""What a person reads about a prediction's scores."""

import pytest

from rapids_pipeline.evaluation.evaluate import Evaluation
from rapids_pipeline.evaluation.replicates import ReplicateScores
from rapids_pipeline.reports.run import evaluation_sentences


@pytest.mark.parametrize(
    ("share", "baselines", "says"),
    [
        (
            0.25,
            ("zeros", "ridge"),
            "25.0% of the way from ridge regression, the best baseline, to a perfect prediction",
        ),
        (-0.5, ("zeros", "ridge"), "WORSE than ridge regression, the best baseline"),
        (0.25, ("zeros",), "25.0% of the way from no response to a perfect prediction"),
        (-0.5, ("zeros",), "WORSE than no response"),
    ],
)
def test_only_one_of_several_baselines_is_the_best(share, baselines, says):
    metric = "mean_rowwise_rmse"
    scores = {"mine": {metric: 1.0}} | {name: {metric: 2.0 - k / 2} for k, name in enumerate(baselines)}
    found = Evaluation(3, 2, "id", scores, {"mine": {metric: share}}, {})
    assert evaluation_sentences(found) == [f"by MRRMSE mine is {says}"]


def test_replicates_say_what_they_score_alone_and_what_can_be_reached():
    both = ({"mean_rowwise_rmse": score, "mean_rowwise_pearson": score / 2} for score in (0.8, 0.4, 0.6))
    scores = {"mine": {"mean_rowwise_rmse": 0.7}}
    found = Evaluation(3, 2, "id", scores, {}, {}, replicates=ReplicateScores(2, 5, *both))
    assert evaluation_sentences(found) == [
        "replicates alone would score 0.8000 (pearson 0.4000): each as the prediction of the mean of the others, "
        "2 pairs with 5 replicates",
        "noise ceiling: no model can expect a better score there than 0.4000 (pearson 0.2000); mine has 0.6000 "
        "(pearson 0.3000)",
    ]
