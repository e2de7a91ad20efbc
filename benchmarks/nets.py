"""Neural nets: how fast many are trained at once, and what the winners' ideas are worth on real data.

    python -m benchmarks.nets [--parts speed,stages,ideas] [--data FOLDER] [--out FILE]

speed    ten replicas of nets of the third place on 614 rows: PyTorch's own layers, one net after the other, on all
         processors and on one; ours one after the other and at once on one; and ours as fits run, half of them beside
         the other half. In turns; products of large matrices beside them, as the most that the machine can do
stages   the arithmetic of the third place, 6 × parameters × rows × epochs × replicas, and that of all fits of the nets
         of every winner's recipe at 614 × 18,211 (`rapids_pipeline.stack.duration`), at the speed just measured
ideas    one thing at a time is changed in a net of the recipe `third_place` (the sixth, four replicas): MRRMSE on
         training rows of lincs_lung in whose cell types only few compounds stay (split `made_scarce`) and on the test
         rows, with the difference from the net as it is and the 95 % interval of a bootstrap over compounds

Settings were chosen on the training rows, but for asinh, which comes from the recipe `best`. Prints tables and writes
benchmarks/results/nets.json and nets.md.
"""

import math
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from benchmarks import harness
from features.molecules.encoders import encode_molecules
from features.rows import Rows
from rapids_pipeline.data.demo import write_demo
from rapids_pipeline.data.tables import read_responses, read_training
from rapids_pipeline.evaluation.metrics import rowwise_rmse
from rapids_pipeline.evaluation.splits import bootstrap_units, named_splits
from rapids_pipeline.evaluation.uncertainty import paired_intervals, replicate_weights
from rapids_pipeline.nets.modules import net_of
from rapids_pipeline.nets.settings import Block, EmbeddingMlp, Mlp, Training
from rapids_pipeline.nets.training import Examples, one_thread, trained
from rapids_pipeline.stack.duration import operations
from rapids_pipeline.stack.members.member import PseudoLabels, TrainingSet
from rapids_pipeline.stack.members.net import NetMember
from rapids_pipeline.stack.named_recipes import RECIPES
from rapids_pipeline.stack.winners import WINNERS
from rapids_pipeline.stack.winners.third_place import STAGE_1, STAGE_2, THIRD_PLACE

N_TRAIN, N_TEST, LEVELS, GENES = 614, 255, (6, 146), 18_211
MOLECULES = "morgan"
REPLICAS, EPOCHS, ROUNDS, SIDE = 10, 5, 3, 2048
SPEED_OF = (6, 8)


# --- speed ---------------------------------------------------------------------------------------------------------


class OneNet(nn.Module):
    """A net of the third place made of PyTorch's own layers."""

    def __init__(self, settings: EmbeddingMlp, k: int) -> None:
        super().__init__()
        width = 2 * settings.embedding
        self.embedding = nn.Embedding(sum(LEVELS), settings.embedding)
        layers: list[nn.Module] = [nn.BatchNorm1d(width, 1e-3, 0.01)] if settings.norm else []
        for block in settings.blocks:
            made = {
                "linear": nn.Linear(width, block.width),
                "norm": nn.BatchNorm1d(block.width, 1e-3, 0.01),
                "relu": nn.ReLU(),
                "drop": nn.Dropout(block.dropout),
            }
            layers += [made[step] for step in block.order.split()]
            width = block.width
        self.body = nn.Sequential(*layers, nn.Linear(width, k))

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """Return the outputs of rows of codes."""
        outputs: torch.Tensor = self.body(self.embedding(codes).flatten(1))
        return outputs


def one_after_the_other(member: NetMember, examples: Examples, threads: int) -> None:
    """Train replicas with PyTorch's own layers and optimizer."""
    before, how = torch.get_num_threads(), member.training
    torch.set_num_threads(threads)
    for _ in range(REPLICAS):
        net = OneNet(member.architecture, examples.targets.shape[1])  # type: ignore[arg-type]
        optimizer = torch.optim.Adam(net.parameters(), how.learning_rate, eps=how.eps)
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(examples)).split(how.batch_size):
                optimizer.zero_grad()
                error = net(examples.inputs[rows]) - examples.targets[rows]
                (error.square().mean(1) + 1e-12).sqrt().mean().backward()
                optimizer.step()
    torch.set_num_threads(before)


def ours(member: NetMember, examples: Examples, replicas: int, groups: int = 1) -> None:
    """Train replicas in groups, all nets of a group at once."""
    how = member.training.model_copy(update={"epochs": EPOCHS, "loss": {"mrrmse": 1.0}})
    for seed in range(groups):
        trained(net_of(member.architecture, replicas, LEVELS, examples.targets.shape[1]), examples, how, seed)


def side_by_side(member: NetMember, examples: Examples) -> None:
    """Train replicas as fits run: as many groups at a time as there are processors."""
    halves = harness.cores()
    with ThreadPoolExecutor(halves) as pool:
        for done in [pool.submit(ours, member, examples, REPLICAS // halves) for _ in range(halves)]:
            done.result()


def large_products(threads: int) -> float:
    """Return the billions of float32 operations a second of a product of large matrices."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    A = torch.randn(SIDE, SIDE)
    taken = harness.by_turns({"product": lambda: A @ A}, 6)["product"]
    torch.set_num_threads(before)
    return 2 * SIDE**3 / min(taken) / 1e9


def flop(member: NetMember, rows: int) -> float:
    """Return the operations of a training of all replicas: a product forward and two back for every weight."""
    with torch.device("meta"):
        net = net_of(member.architecture, 1, LEVELS, int(member.n_components))
    weights = sum(p.numel() for p in net.parameters())
    return 6.0 * weights * rows * member.training.epochs * member.replicas


def speed() -> list[dict[str, Any]]:
    """Return seconds and speed of every way to train ten replicas."""
    rows, g = [], torch.Generator().manual_seed(0)
    for number in SPEED_OF:
        member = STAGE_1[number]
        columns = [torch.randint(n, (N_TRAIN,), generator=g) for n in LEVELS]
        codes = torch.stack([columns[0], LEVELS[0] + columns[1]], dim=1)
        targets = torch.randn(N_TRAIN, int(member.n_components), generator=g)
        examples = Examples(codes, targets, torch.ones(N_TRAIN))
        ways: Mapping[str, Callable[[], None]] = {
            "PyTorch's layers, one after the other, all processors": partial(
                one_after_the_other, member, examples, harness.cores()
            ),
            "PyTorch's layers, one after the other, one processor": partial(
                one_after_the_other, member, examples, 1
            ),
            "ours, one after the other, one processor": partial(ours, member, examples, 1, REPLICAS),
            "ours, all at once, one processor": partial(ours, member, examples, REPLICAS),
            "ours, as fits run: groups side by side": partial(side_by_side, member, examples),
        }
        harness.by_turns(ways, 1)
        taken = harness.by_turns(ways, ROUNDS)
        first = statistics.median(next(iter(taken.values())))
        work = flop(member, N_TRAIN) * EPOCHS / member.training.epochs
        for way, seconds in taken.items():
            middle = statistics.median(seconds)
            found = {"net": number, "way": way, "seconds": middle, "times as fast": first / middle}
            rows.append(found | {"GFLOP/s": work / middle / 1e9})
    return rows


def stages(gflops: float) -> list[dict[str, Any]]:
    """Return the arithmetic of the third place's stages and of all winners' recipes, and their minutes at a speed."""
    done = {
        "first stage, 7 nets × 10": sum(flop(member, N_TRAIN) for member in STAGE_1.values()),
        "second stage, 20 nets × 10": sum(flop(member, N_TRAIN + N_TEST) for member in STAGE_2.values()),
    }
    with tempfile.TemporaryDirectory() as folder:
        write_demo(Path(folder), n_genes=10)  # the layout of the competition's rows
        obs = read_training(Path(folder) / "de_train.parquet").obs
    rows = Rows(obs, encode_molecules([MOLECULES], list(obs["SMILES"]), (), "cpu").training)
    for recipe in WINNERS:
        work = operations(recipe.with_molecules(MOLECULES), rows, N_TEST, GENES)
        done[f"recipe {recipe.name}, all fits of nets"] = work
    return [
        {"stage": stage, "TFLOP": work / 1e12, "minutes": work / gflops / 6e10}
        for stage, work in done.items()
    ]


# --- ideas ---------------------------------------------------------------------------------------------------------


def base() -> NetMember:
    """Return the net in which ideas are changed."""
    [net] = [member for member in RECIPES[THIRD_PLACE].members if member.name == "net_6"]
    assert isinstance(net, NetMember)
    return net.updated(replicas=4, pseudo_labels=PseudoLabels(use="off"))


def ideas() -> dict[str, NetMember]:
    """Return the changed nets by what was changed."""
    net = base()

    def trained_with(**changed: Any) -> NetMember:
        return net.updated(training=Training(**dict(net.training) | changed))

    assert isinstance(net.architecture, EmbeddingMlp)
    columns = Mlp(blocks=net.architecture.blocks)
    published = {"mse": 0.32, "mae": 0.24, "log_cosh": 0.24, "sigmoid_bce": 0.2}
    molecules = net.updated(architecture=columns, features="svr_shared").with_molecules(MOLECULES)
    one_hot = net.updated(architecture=columns, features="onehot")
    return {
        "as published: 112 epochs, constant rate, slow running values, raw targets": STAGE_1[6].updated(
            replicas=4
        ),
        "running values that move by 0.01 a batch": net.updated(
            architecture=net.architecture.model_copy(update={"norm_momentum": 0.01})
        ),
        "a constant learning rate": trained_with(schedule="constant"),
        "80 epochs": trained_with(epochs=80),
        "targets as they are, no asinh": net.updated(transform="none"),
        "MAE in the place of MRRMSE": trained_with(loss="mae"),
        "MSE": trained_with(loss="mse"),
        "the first place's sum of four losses": trained_with(loss=published),
        "one replica": net.updated(replicas=1),
        "eight replicas": net.updated(replicas=8),
        "the median of replicas, not their mean": net.updated(aggregate="median"),
        "60 components": net.updated(n_components=60),
        "all genes, no components": net.updated(n_components="none"),
        "the best of 40 epochs by a tenth of the rows": trained_with(checkpoint="best"),
        "one-hot columns in the place of embeddings": one_hot,
        "one-hot columns, 30 % of them masked": one_hot.updated(
            training=net.training.model_copy(update={"masking": 0.3})
        ),
        "one-hot columns and Morgan fingerprints": molecules,
        "one-hot columns and leave-one-out means": net.updated(architecture=columns, features="onehot_loo"),
        "leave-one-out means alone": net.updated(architecture=columns, features="loo"),
        "a single block of 512": net.updated(
            architecture=EmbeddingMlp(embedding=60, norm=True, blocks=(Block(width=512, dropout=0.25),))
        ),
    }


def measured_ideas(data: Path) -> list[dict[str, Any]]:
    """Return what each change does to the errors."""
    train = read_training(data / "lincs_lung" / "de_train.parquet")
    test = read_responses(data / "lincs_lung" / "de_test.parquet")
    columns = ["cell_type", "sm_name", "SMILES"]
    obs = pd.concat([train.obs[columns], test.obs[columns]], ignore_index=True)
    molecules = encode_molecules([MOLECULES], list(obs["SMILES"]), (), "cpu").training
    rows, n = Rows(obs, molecules), len(train.Y)
    everyone, asked = np.arange(n), np.arange(n, len(obs))
    splits = named_splits("made_scarce", train.obs, pairs=test.obs)[0]
    tasks = [(split.training, split.held_out) for split in splits] + [(everyone, asked)]
    truth = [*(train.Y[split.held_out] for split in splits), test.Y]

    def predicted(member: NetMember, labelled: bool = False) -> list[Any]:
        found = []
        for training, wanted in tasks:
            fits = member.prepare(TrainingSet(rows, train.Y, None, (), 0, "cpu"))
            [answer] = fits.fit_predict(training, [wanted])
            if labelled:  # the net's own predictions teach it, as if they were measured
                some = rows.take(np.concatenate([training, wanted]))
                Y, both = np.concatenate([train.Y[training], answer]), np.arange(len(some.obs))
                again = member.prepare(TrainingSet(some, Y, None, (), 1, "cpu"))
                [answer] = again.fit_predict(both, [both[len(training) :]])
            found.append(answer)
        return found

    changed: dict[str, Callable[[], list[Any]]] = {"the net as it is": partial(predicted, base())}
    changed["pseudo-labels of its own"] = partial(predicted, base(), True)
    changed |= {name: partial(predicted, member) for name, member in ideas().items()}
    with ThreadPoolExecutor(harness.cores()) as pool, one_thread():
        answers = dict(zip(changed, pool.map(timed, changed.values()), strict=True))
    held_out = train.obs.iloc[np.concatenate([split.held_out for split in splits])]
    parts = {"scarce": (slice(0, len(splits)), held_out), "test": (slice(len(splits), None), test.obs)}
    lines: dict[str, dict[str, Any]] = {name: {"idea": name, "core-s": s} for name, (_, s) in answers.items()}
    for part, (which, about) in parts.items():
        errors = [
            np.concatenate([rowwise_rmse(y, p) for y, p in zip(truth[which], found[which], strict=True)])
            for found, _ in answers.values()
        ]
        units = bootstrap_units("compound", about)
        weights = replicate_weights(np.zeros((1, len(about)), dtype=np.intp), units)
        between = paired_intervals(np.stack(errors), 0, weights, one_gene=False)
        for k, name in enumerate(answers):
            ends = (float(between.difference_low[k]), float(between.difference_high[k]))
            lines[name][part] = {
                "MRRMSE": float(errors[k].mean()),
                "difference": float(between.difference[k]),
            }
            lines[name][part]["interval"] = ends
    return list(lines.values())


def timed(work: Callable[[], list[Any]]) -> tuple[list[Any], float]:
    """Return what some work finds, and the processor seconds of its thread."""
    began = time.thread_time()
    found = work()
    return found, time.thread_time() - began


# --- report --------------------------------------------------------------------------------------------------------


def markdown(report: dict[str, Any]) -> str:
    """Return the tables."""
    lines: list[str] = []
    if "speed" in report:
        peaks = ", ".join(f"{name}: {value:.0f} GFLOP/s" for name, value in report["products"].items())
        rows = [
            (r["net"], r["way"], f"{r['seconds']:.2f}", f"{r['times as fast']:.1f}", f"{r['GFLOP/s']:.0f}")
            for r in report["speed"]
        ]
        lines += [f"Ten replicas, {EPOCHS} epochs of {N_TRAIN} rows. Large products, {peaks}.", ""]
        lines += [*harness.table("net | way | seconds | times as fast | GFLOP/s", rows), ""]
    if "stages" in report:
        rows = [(r["stage"], f"{r['TFLOP']:.1f}", f"{r['minutes']:.1f}") for r in report["stages"]]
        lines += [*harness.table("stage | TFLOP | minutes here", rows), ""]
    if "ideas" in report:
        head = "what is changed | scarce cell types | minus the net as it is | test rows | minus the net as it is"
        rows = [
            (r["idea"], *shown(r["scarce"]), *shown(r["test"]), f"{r['core-s']:.0f}") for r in report["ideas"]
        ]
        lines += harness.table(f"{head} | core-s", rows)
    return "\n".join(lines)


def shown(found: dict[str, Any]) -> tuple[str, str]:
    """Return a score and its difference with the interval, as a table has them."""
    low, high = found["interval"]
    if math.isclose(low, high):
        return f"{found['MRRMSE']:.4f}", ""
    return f"{found['MRRMSE']:.4f}", f"{found['difference']:+.4f} ({low:+.4f} to {high:+.4f})"


@harness.ends_in_one_line
def main() -> None:
    """Measure, print and write."""
    parser = harness.options_of(__doc__, "nets.json", harness.DATA)
    parser.add_argument("--parts", default="speed,stages,ideas")
    asked = parser.parse_args()
    parts, found = asked.parts.split(","), {}
    if {"speed", "stages"} & set(parts):
        found["products"] = {
            "one processor": large_products(1),
            "all processors": large_products(harness.cores()),
        }
        found["speed"] = speed()
        found["stages"] = stages(max(row["GFLOP/s"] for row in found["speed"]))
    if "ideas" in parts:
        found["ideas"] = measured_ideas(asked.data)
    harness.written(asked.out, markdown, **found)


if __name__ == "__main__":
    main()
