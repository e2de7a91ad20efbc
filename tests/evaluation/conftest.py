"""The evaluation of small tables in files."""

import pytest

from rapids_pipeline.evaluation.evaluate import evaluate_files
from tests.evaluation.evaluation_example import PREDICTION, TRUTH


@pytest.fixture
def evaluate(tmp_path):
    """Write the tables given (Parquet) and evaluate the prediction."""

    def run(prediction=PREDICTION, truth=TRUTH, train=None, **options):
        paths = [tmp_path / f"{name}.parquet" for name in ("mine", "truth", "train")]
        for path, frame in zip(paths, (prediction, truth, train), strict=True):
            if frame is not None:
                frame.to_parquet(path, index=False)
        return evaluate_files(*paths[:2], None if train is None else paths[2], **options)

    return run
