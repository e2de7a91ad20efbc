"""What does not fit together is refused by `evaluate_files` in one line."""

import numpy as np
import pandas as pd
import pytest

from rapids_pipeline.backend.errors import InputError
from tests.evaluation.evaluation_example import GENES, PREDICTION, TRAINING, TRUTH

REFUSED = {
    "missing rows": (
        {"prediction": PREDICTION.iloc[[1]]},
        r"mine.parquet: 3 of the 4 ids of the truth \S+truth.parquet are missing \(10, 12, 13\); "
        "predict exactly the truth's rows",
    ),
    "other rows": (
        {"prediction": PREDICTION.assign(id=[10, 11, 12, 99])},
        r"mine.parquet: 1 of the 4 ids of the truth \S+ are missing \(13\); 1 of its ids are not in the "
        r"truth \S+ \(99\); predict",
    ),
    "many rows too many": (
        {"truth": TRUTH.assign(id="a").iloc[:1], "prediction": PREDICTION},
        r"1 of the 1 ids of the truth \S+ are missing \(a\); 4 of its ids are not in the truth \S+ "
        r"\(10, 11, 12, …\)",
    ),
    "another pair": (
        {
            "prediction": PREDICTION.drop(columns="id").assign(sm_name=["x", "y, z", "w", "other"]),
            "truth": TRUTH.drop(columns="id"),
        },
        r"1 of the 4 pairs of the truth \S+ are missing \(\('NK cells', 'unseen'\)\); 1 of its pairs are not "
        r"in the truth \S+ \(\('NK cells', 'other'\)\)",
    ),
    "an id twice": (
        {"prediction": PREDICTION.assign(id=[10, 11, 11, 10])},
        r"mine.parquet: id 10 occurs in rows 1, 4; 4 rows share their id in all; keep one row for each id",
    ),
    "a pair twice in the prediction": (
        {"prediction": pd.concat([PREDICTION, PREDICTION.iloc[[1]]]).drop(columns="id")},
        r"mine.parquet: pair \('B cells', 'y, z'\) occurs in rows 2, 5; 2 rows share their pair in all",
    ),
    "an id of two pairs in the truth": (
        {"truth": TRUTH.assign(id=[10, 11, 11, 12])},
        r"truth.parquet: id 11 occurs in rows 2, 3; 2 rows share their id in all; keep one row for each id, dose",
    ),
    "an id without value": (
        {"prediction": PREDICTION.assign(id=[10, None, 12, 13])},
        "mine.parquet: column id has no value in row 2; fill it or drop the row",
    ),
    "two pairs of one id": (
        {"prediction": PREDICTION.assign(id=[11, 10, 12, 13])},
        r"mine.parquet: id 10 is \('B cells', 'y, z'\), but \('B cells', 'x'\) in the truth \S+; use the ids",
    ),
    "missing genes": (
        {"prediction": PREDICTION.drop(columns=["A1BG", "AAAS"])},
        r"mine.parquet: 2 of the 4 genes of the truth \S+ are missing \(A1BG, AAAS\); give every gene once",
    ),
    "genes too many": (
        {"prediction": PREDICTION.assign(**{f"X{k}": 0.0 for k in range(5)})},
        r"mine.parquet: 5 of its genes are not in the truth \S+ \(X0, X1, X2, …\); give every gene once",
    ),
    "nothing to match by": (
        {"prediction": PREDICTION.drop(columns="cell_type"), "truth": TRUTH.drop(columns="id")},
        r"mine.parquet: rows cannot be matched: it and the truth \S+ need a column id in both, or cell_type "
        "and sm_name in both; metadata columns here: id, sm_name; in the truth: cell_type, sm_name",
    ),
    "no metadata at all": (
        {"prediction": PREDICTION[GENES]},
        "rows cannot be matched.*metadata columns here: none; in the truth: id, cell_type, sm_name; give the pairs of "
        "its rows by --id-map",
    ),
    "a value that is not finite": (
        {"prediction": PREDICTION.assign(A2M=[0, 1, np.nan, 3])},
        r"mine.parquet: 1 target value\(s\) are not finite.*row 3 \(NK cells, w\), gene A2M = nan",
    ),
    "training without pairs": (
        {"train": TRAINING.drop(columns="sm_name")},
        "train.parquet: missing column sm_name, which the baselines average over",
    ),
    "training without a gene": (
        {"train": TRAINING.drop(columns="AACS")},
        r"train.parquet: 1 of the 4 genes of the truth are missing \(AACS\)",
    ),
}


@pytest.mark.parametrize(("tables", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_does_not_fit_is_refused_in_one_line(evaluate, tables, message):
    with pytest.raises(InputError, match=message) as caught:
        evaluate(**tables)
    assert "\n" not in str(caught.value)
