"""The training of many nets at once: against nets trained one by one, seeds, checkpoints, every optimizer, noise."""

import math
import threading

import numpy as np
import pytest
import torch
from torch import nn

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.nets.layers import Linear, prepare
from rapids_pipeline.nets.losses import loss_of_rows
from rapids_pipeline.nets.modules import net_of, predicted
from rapids_pipeline.nets.settings import Block, EmbeddingMlp, Mlp, Training
from rapids_pipeline.nets.training import Examples, Lion, _batches, _Run, one_thread, trained

N, P, K, R = 23, 6, 4, 3
MLP = Mlp(blocks=(Block(width=9), Block(width=8, order="linear relu norm drop")))
WITH_DROPOUT = Mlp(blocks=(Block(width=16, dropout=0.3),))


def problem(n=N, p=P, k=K, seed=0):
    g = torch.Generator().manual_seed(seed)
    X = torch.randn(n, p, generator=g)
    Y = X @ torch.randn(p, k, generator=g) + 0.1 * torch.randn(n, k, generator=g)
    return Examples(X, Y, torch.ones(n))


def settings(**changed):
    standard = {"learning_rate": 0.01, "batch_size": 8, "epochs": 6, "loss": "mse", "schedule": "constant"}
    return Training(**standard | changed)


def fitted(architecture=MLP, examples=None, seed=5, nets=R, **changed):
    examples = examples or problem()
    net = net_of(architecture, nets, [examples.inputs.shape[1]], examples.targets.shape[1])
    return trained(net, examples, settings(**changed), seed)


def values(net):
    return torch.cat([value.flatten() for value in net.state_dict().values()])


class OneByOne(nn.Module):
    """PyTorch's own layers, with the weights of one of our nets."""

    def __init__(self, net, r):
        super().__init__()
        layers = []
        for layer in net:
            if isinstance(layer, Linear):
                made = nn.Linear(layer.weight.shape[1], layer.weight.shape[2]).double()
                made.load_state_dict({"weight": layer.weight[r].T, "bias": layer.bias[r, 0]})
                layers.append(made)
            elif type(layer).__name__ == "BatchNorm":
                layers.append(nn.BatchNorm1d(layer.weight.shape[2], eps=1e-3, momentum=0.1))
            elif isinstance(layer, nn.ReLU):
                layers.append(nn.ReLU())
        self.body = nn.Sequential(*layers)

    def forward(self, x):
        return self.body(x)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "rmsprop"])
@pytest.mark.parametrize("clip", [None, 0.5])
def test_nets_trained_at_once_are_those_trained_one_by_one_with_pytorchs_layers(optimizer, clip):
    examples, epochs = problem(), 4
    examples = Examples(*(part.double() for part in (examples.inputs, examples.targets, examples.weight)))
    how = settings(
        optimizer=optimizer, epochs=epochs, clip_norm=clip, weight_decay=0.01 * (optimizer == "adamw")
    )
    net = net_of(MLP, R, [P], K).double()
    generator = torch.Generator().manual_seed(5)
    prepare(net, generator)
    alone = [OneByOne(net, r).double() for r in range(R)]
    orders = [torch.rand(R, N, generator=generator).argsort(1) for _ in range(epochs)]
    found = predicted(trained(net, examples, how, 5), examples.inputs)
    for r, one in enumerate(alone):
        ways = {
            "adam": lambda p: torch.optim.Adam(p, 0.01, eps=1e-7),
            "adamw": lambda p: torch.optim.AdamW(p, 0.01, eps=1e-7, weight_decay=0.01),
            "rmsprop": lambda p: torch.optim.RMSprop(p, 0.01, alpha=0.999, eps=1e-7),
        }
        step = ways[optimizer](one.parameters())
        for order in orders:
            for rows in order[r].split(8):
                step.zero_grad()
                (one(examples.inputs[rows]) - examples.targets[rows]).square().mean().backward()
                if clip is not None:
                    nn.utils.clip_grad_norm_(one.parameters(), clip)
                step.step()
        torch.testing.assert_close(found[r], one.eval()(examples.inputs).detach(), atol=1e-8, rtol=1e-6)


def test_one_seed_gives_equal_nets_and_another_seed_others():
    one, again, other = (values(fitted(WITH_DROPOUT, seed=seed)) for seed in (5, 5, 6))
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_the_nets_of_a_run_differ_in_weights_order_and_masks():
    net = net_of(WITH_DROPOUT, 2, [P], K)
    run = _Run(net, problem(), settings(), 1, None, "net")
    assert (net[0].weight[0] != net[0].weight[1]).any()
    order = torch.rand(2, N, generator=run.generator).argsort(1)
    assert (order[0] != order[1]).any()
    dropped = net.train()[3](torch.ones(2, 50, 16)) == 0
    assert (dropped[0] != dropped[1]).any()


def test_results_depend_on_no_other_training_at_the_same_time():
    alone = values(fitted(WITH_DROPOUT, seed=1))
    found = {}

    def run(seed):
        found[seed] = values(fitted(WITH_DROPOUT, seed=seed))

    threads = [threading.Thread(target=run, args=(seed,)) for seed in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(found[1], alone)


def test_threads_of_pytorch_are_as_before_afterwards():
    before = torch.get_num_threads()
    with one_thread():
        assert torch.get_num_threads() == 1
        with one_thread():
            pass
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_lion_takes_the_steps_of_its_algorithm():
    w = torch.tensor([1.0, -2.0, 0.5], requires_grad=True)
    optimizer, lr, beta1, beta2, decay = Lion([w], 0.1, (0.9, 0.99), 0.01), 0.1, 0.9, 0.99, 0.01
    gradients = [[1.0, -0.5, 0.0], [-3.0, 0.2, 0.1], [0.1, 0.1, -0.1], [2.0, -2.0, 0.0], [-1.0, 0.0, 1.0]]
    by_hand, m = np.array([1.0, -2.0, 0.5]), np.zeros(3)
    for gradient in gradients:
        g = np.array(gradient)
        u = np.sign(beta1 * m + (1 - beta1) * g)
        by_hand = by_hand * (1 - lr * decay) - lr * u
        m = beta2 * m + (1 - beta2) * g
        w.grad = torch.tensor(gradient)
        optimizer.step()
        np.testing.assert_allclose(w.detach().numpy(), by_hand, rtol=1e-6)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "rmsprop", "lion"])
def test_every_optimizer_learns(optimizer):
    examples = problem(60)
    wide, how = Mlp(blocks=(Block(width=64),)), {"epochs": 100, "betas": (0.9, 0.99)}
    how["learning_rate"] = (
        0.002 if optimizer == "lion" else 0.01
    )  # a step of lion has its full length everywhere
    net = fitted(wide, examples, optimizer=optimizer, **how)
    error = (predicted(net, examples.inputs) - examples.targets).square().mean((1, 2))
    assert (error < 0.3 * examples.targets.square().mean()).all()


def judged_run(checkpoint, epochs=200, patience=None):
    both = problem(60, 20, 3)
    examples, judges = (
        Examples(both.inputs[part], both.targets[part], both.weight[part])
        for part in (slice(20), slice(20, 60))
    )
    seen = []
    net = net_of(Mlp(blocks=(Block(width=32),)), R, [20], 3)
    how = settings(epochs=epochs, checkpoint=checkpoint, patience=patience, batch_size=4)
    run = _Run(net, examples, how, 3, judges if checkpoint == "best" else None, "net")
    inner = run._judged
    run._judged = lambda rows: seen.append(inner(rows)) or seen[-1]
    with one_thread():
        run.trained()
    return inner(judges), seen


def test_the_best_checkpoint_is_the_recorded_best_epoch_of_each_net_and_the_last_is_the_last():
    best, seen = judged_run("best")
    losses = torch.stack(seen)
    assert torch.equal(best, losses.min(0).values)
    assert len(set(losses.argmin(0).tolist())) > 1, "nets have best epochs of their own"
    last, _ = judged_run("last")
    assert (last >= best).all() and (last > best).any()


def test_judges_cost_the_same_by_any_loss_as_row_by_row():
    both = problem(30, 5, 3)
    loss = {"mse": 0.3, "mae": 0.2, "huber": 0.1, "log_cosh": 0.1, "sigmoid_bce": 0.2, "mrrmse": 0.1}
    net = net_of(Mlp(blocks=(Block(width=8),)), R, [5], 3)
    run = _Run(net, both, settings(epochs=2, checkpoint="best", loss=loss), 3, both, "net")
    run.trained()
    predictions = predicted(run.net, both.inputs)
    each = [loss_of_rows(y, both.targets, loss).mean() for y in predictions]
    torch.testing.assert_close(run._judged(both), torch.stack(each))


def test_a_loss_of_the_judges_that_is_not_finite_ends_in_the_same_line():
    both = problem(30, 5, 3)
    judges = Examples(both.inputs, both.targets * torch.inf, both.weight)
    how = settings(epochs=2, checkpoint="best")
    with pytest.raises(InputError, match="net: the loss is not finite in epoch 1 of 2"):
        trained(net_of(MLP, R, [5], 3), both, how, 3, judges)


def test_patience_ends_training_once_no_net_gets_better():
    _, all_of_them = judged_run("best")
    _, seen = judged_run("best", patience=5)
    losses = torch.stack(all_of_them)
    running = losses.cummin(0).values
    latest, ends = 0, len(losses)
    for epoch in range(len(losses)):
        if epoch == 0 or bool((running[epoch] < running[epoch - 1]).any()):
            latest = epoch
        if epoch - latest >= 5:
            ends = epoch + 1
            break
    assert len(seen) == ends < len(losses)


def test_a_linear_schedule_takes_the_learning_rate_to_zero_by_equal_steps():
    run, rates = (
        _Run(net_of(MLP, 1, [P], K), problem(), settings(epochs=4, schedule="linear"), 0, None, "net"),
        [],
    )
    epoch = run._epoch
    run._epoch = lambda: rates.append(run.optimizer.param_groups[0]["lr"]) or epoch()
    run.trained()
    np.testing.assert_allclose(rates, [0.01, 0.0075, 0.005, 0.0025])


def test_a_plateau_lowers_the_learning_rate():
    noise = Examples(
        torch.zeros(16, 2), torch.randn(16, 2, generator=torch.Generator().manual_seed(0)), torch.ones(16)
    )
    net = net_of(Mlp(blocks=(Block(width=4),)), 1, [2], 2)
    how = settings(epochs=60, schedule="plateau", plateau_patience=2, factor=0.5, least_learning_rate=1e-4)
    run = _Run(net, noise, how, 0, None, "net")
    run.trained()
    assert 1e-4 <= run.optimizer.param_groups[0]["lr"] < 0.01


def test_no_batch_has_a_single_row_and_every_row_is_trained_on_once():
    for n, size, sizes in ((17, 8, [8, 9]), (16, 8, [8, 8]), (18, 8, [8, 8, 2]), (1, 8, [1]), (3, 1, [1, 2])):
        order = torch.rand(2, n, generator=torch.Generator().manual_seed(0)).argsort(1)
        parts = _batches(order, size)
        assert [part.shape[1] for part in parts] == sizes
        assert torch.equal(torch.cat(parts, 1), order)


def test_nets_with_normalisation_train_on_n_modulo_batch_of_one():
    assert torch.isfinite(values(fitted(examples=problem(17)))).all()


def test_masking_sets_exactly_its_share_of_each_row_to_zero_anew_in_every_batch_and_only_in_training():
    x, p = torch.ones(2, 50, 31), 0.3
    run = _Run(net_of(MLP, 2, [31], K), problem(p=31), settings(masking=p), 0, None, "net")
    one, _ = run._augmented(x, torch.zeros(2, 50, K))
    other, _ = run._augmented(x, torch.zeros(2, 50, K))
    assert ((one == 0).sum(-1) == math.floor(p * 31)).all()
    assert (one != other).any() and (one[0] != one[1]).any()
    net = fitted(examples=problem(), masking=0.5)
    assert torch.equal(predicted(net, problem().inputs), predicted(net, problem().inputs))


def test_noise_has_its_size_and_leaves_the_examples_alone():
    run = _Run(net_of(MLP, 2, [P], K), problem(), settings(input_noise=0.5, target_noise=1.0), 0, None, "net")
    x, y = torch.zeros(2, 4000, P), torch.zeros(2, 4000, K)
    noisy_x, noisy_y = run._augmented(x, y)
    assert abs(float(noisy_x.std()) - 0.5) < 0.01
    assert abs(float(noisy_y.std()) / 2 - 0.302 / 2) < 0.01, "published: 0.302 for ½ log10(u)"
    assert noisy_y.abs().max() <= 1.5 and not x.any() and not y.any()


def test_a_row_counts_what_its_weight_says():
    examples = problem()
    weight = torch.ones(N)
    weight[:5] = 0.0
    changed = Examples(examples.inputs, examples.targets.clone(), weight)
    before = values(
        fitted(examples=changed, architecture=Mlp(blocks=(Block(width=4, order="linear relu drop"),)))
    )
    changed.targets[:5] += 100
    after = values(
        fitted(examples=changed, architecture=Mlp(blocks=(Block(width=4, order="linear relu drop"),)))
    )
    assert torch.equal(before, after)


def test_a_loss_that_is_not_finite_ends_in_one_line_that_names_the_epoch():
    examples = problem()
    with pytest.raises(
        InputError, match=r"net: the loss is not finite in epoch \d+ of 50; lower its learning_rate"
    ):
        fitted(
            examples=Examples(examples.inputs * 1e19, examples.targets * 1e19, examples.weight),
            architecture=Mlp(blocks=(Block(width=4, order="linear relu drop"),)),
            learning_rate=10.0,
            epochs=50,
        )


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"loss": {"mse": 0.0}}, "the weights of all losses are 0"),
        ({"loss": "rmse"}, "rmse"),
        ({"patience": 3}, "patience needs checkpoint = 'best'"),
        ({"weight_decay": 0.1}, "weight_decay is of adamw and lion"),
        ({"epochs": 0}, "from 1 to"),
        ({"learning_rate": 1e9}, "from 1e-08 to 10"),
    ],
)
def test_settings_that_make_no_sense_are_refused(values, says):
    with pytest.raises(ValueError, match=says):
        Training(**values)


def test_an_embedding_net_needs_at_least_one_block():
    with pytest.raises(ValueError, match="at least 1"):
        EmbeddingMlp(blocks=())
