"""Nets trained on the device learn what those on a CPU do, are repeated to the bit, and predict anywhere."""

from dataclasses import replace

import numpy as np
import pytest

from rapids_pipeline.backend.state import StateReader
from rapids_pipeline.nets.settings import (
    ConditionalEncoderDecoder,
    Conv1d,
    Recurrent,
    SampleGeneMlp,
    Transformer,
)
from tests.gpu.requirements import need, on_gpu
from tests.stack_example import NET, example, net, training_set

TRAINING = NET.training.model_copy(update={"epochs": 40, "masking": 0.1, "clip_norm": 1.0})
MEMBERS = {
    "embedding_mlp": NET.updated(training=NET.training.model_copy(update={"epochs": 40})),
    "lstm": net(architecture=Recurrent(hidden=8, head=(16,)), training=TRAINING),
    "conv1d": net(architecture=Conv1d(head=(16,)), training=TRAINING),
    "transformer": net(
        architecture=Transformer(width=8, layers=1, heads=2, feed_forward=16), training=TRAINING
    ),
    "sample_gene_mlp": net(architecture=SampleGeneMlp(), features="loo", training=TRAINING),
    "conditional_encoder_decoder": net(
        architecture=ConditionalEncoderDecoder(), features="loo", training=TRAINING
    ),
    "every fold, the best epoch": NET.updated(
        every_fold=True,
        training=NET.training.model_copy(update={"epochs": 40, "checkpoint": "best", "validation_folds": 3}),
    ),
}


@pytest.mark.parametrize("device", ["cpu", on_gpu])
@pytest.mark.parametrize("name", MEMBERS)
def test_nets_learn_on_the_device_and_predict_on_the_host(name, device):
    if device == "cuda":
        need("torch")
    train, test, Y = example()
    data, member, everyone = training_set(train, test, Y), MEMBERS[name], np.arange(len(Y))
    fits = [member.prepare(replace(data, device=device)).fit(everyone) for _ in range(2)]
    one, again = (fit.predict(train) for fit in fits)
    np.testing.assert_allclose(one, again, atol=0 if device == "cpu" else 1e-3)
    error = np.sqrt(np.mean((one - Y) ** 2)) / np.sqrt(np.mean(Y**2))
    assert error < 0.9, "it learns the rows that it is shown"
    there = member.model_from_state(StateReader(fits[0].state(), "model"))
    np.testing.assert_allclose(there.predict(test), fits[0].predict(test), atol=1e-3)
