"""Settings of nets: the architectures, and how one is trained. Nothing here needs PyTorch.

A new architecture is a class here, with its fields and their bounds, and its module in `rapids_pipeline.nets.modules`.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from rapids_pipeline.backend.settings import bounded

LossName = Literal["mse", "mae", "huber", "log_cosh", "sigmoid_bce", "mrrmse"]
Order = Literal["linear norm relu drop", "linear relu norm drop", "linear relu drop"]
"""What a block of a dense net does, in this order."""
Share = Annotated[float, bounded(0.0, 0.99, "it is a share of the entries that are set to 0")]
Width = Annotated[int, bounded(1, 100_000, "its weights are in memory")]
Momentum = Annotated[float, bounded(1e-4, 1.0, "it is a share of the difference to a batch")]
MOST_BLOCKS = 100


class NetSettings(BaseModel):
    """Base of the settings: frozen, and unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Block(NetSettings):
    """A block of a dense net: `width` outputs, the share of `dropout`, and the order of its steps."""

    width: Width
    dropout: Share = 0.0
    order: Order = "linear norm relu drop"


class EmbeddingMlp(NetSettings):
    """Third place: a vector for the cell type and one for the compound, learnt from the responses alone, and blocks.

    It reads no molecules: what it predicts for a compound that no training row has is what the mean vector of the known
    ones gives, and likewise for cell types. With `norm` the vectors are normalised first. `norm_momentum` is how far
    the running values of normalisation move with a batch. The published 0.01 takes hundreds of batches to arrive, and
    until then the nets predict by values of an earlier net.
    """

    kind: Literal["embedding_mlp"] = "embedding_mlp"
    embedding: Width = 48
    norm: bool = False
    norm_momentum: Momentum = 0.1
    blocks: tuple[Block, ...] = Field(
        default=(
            Block(width=312, dropout=0.1097),
            Block(width=344, dropout=0.1011),
            Block(width=248, dropout=0.0978),
        ),
        min_length=1,
        max_length=MOST_BLOCKS,
    )


class Mlp(NetSettings):
    """Blocks on the columns of a feature set."""

    kind: Literal["mlp"] = "mlp"
    norm_momentum: Momentum = 0.1
    blocks: tuple[Block, ...] = Field(
        default=(Block(width=256, dropout=0.2), Block(width=256, dropout=0.2)),
        min_length=1,
        max_length=MOST_BLOCKS,
    )


class Recurrent(NetSettings):
    """First place: the columns in a row, folded into steps of √p columns, an LSTM or a GRU over them, a dense head.

    The head reads the top layer's outputs at all steps and the last hidden states of all layers. `fold` is (steps,
    columns a step) as published; without it √p of each. The order of the columns has no meaning; this is the winner's
    idea, not ours.
    """

    kind: Literal["recurrent"] = "recurrent"
    cell: Literal["lstm", "gru"] = "lstm"
    hidden: Width = 128
    layers: Annotated[int, bounded(1, 10)] = 2
    head: tuple[Width, ...] = Field(default=(1024, 512), max_length=MOST_BLOCKS)
    dropout: Share = 0.3
    fold: tuple[Width, Width] | None = None


class Conv1d(NetSettings):
    """First place: four convolutions over the columns in a row, with one nonlinearity among them, and a dense head.

    It needs 77 columns or more; fewer are padded with zeros.
    """

    kind: Literal["conv1d"] = "conv1d"
    head: tuple[Width, ...] = Field(default=(1024, 512), max_length=MOST_BLOCKS)
    dropout: Share = 0.3


class Transformer(NetSettings):
    """Second place: every block of the feature set projected to `width` numbers, then a transformer encoder.

    With `tokens` "single" the projections of a row are joined to one token, so attention has nothing to attend to: the
    published net without its fault, which let the rows of a batch attend to each other. With "blocks" every block of a
    row is a token, and their mean is read. `groups` says how many blocks that follow each other are projected as one:
    (2, 2) makes two of four. Without it each is projected by itself, and so are blocks beyond the groups.
    """

    kind: Literal["transformer"] = "transformer"
    tokens: Literal["single", "blocks"] = "single"
    groups: tuple[Annotated[int, bounded(1, MOST_BLOCKS)], ...] = Field(default=(), max_length=MOST_BLOCKS)
    width: Width = 128
    layers: Annotated[int, bounded(1, 100)] = 6
    heads: Annotated[int, bounded(1, 1024)] = 8
    feed_forward: Width = 2048
    dropout: Share = 0.3

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads, and {self.width} is none of {self.heads}")
        return self


class ConvResNet(NetSettings):
    """Fourth place: three convolutions over the columns, a linear layer to an image of `side` squared, a ResNet-18.

    With `interleaved` blocks of one width take turns, as published: the first column of each, then the second, and so
    on, so that a convolution reads what all blocks say of one component.
    """

    kind: Literal["conv_resnet"] = "conv_resnet"
    interleaved: bool = True
    side: Annotated[int, bounded(32, 512, "the image is halved five times")] = 64
    dropout: Share = 0.2


class SampleGeneMlp(NetSettings):
    """JN-AP-OP2: a net over all genes of a pair, then one small net that all genes share.

    Every block of the feature set must have one column a target, such as means by cell type and by compound: they are
    the channels of a target. The first net reads all channels of all targets and makes as many. The second makes a
    target's prediction of its channels before and after. No layer has a bias.
    """

    kind: Literal["sample_gene_mlp"] = "sample_gene_mlp"
    sample: tuple[Width, ...] = Field(
        default=(16, 128, 128, 64, 32, 16), min_length=1, max_length=MOST_BLOCKS
    )
    gene: tuple[Width, ...] = Field(default=(12, 12, 12, 12), min_length=1, max_length=MOST_BLOCKS)


class Tower(NetSettings):
    """The layers that a block of the feature set goes through, and which side of the encoder it belongs to."""

    of: Literal["cell_type", "compound"]
    widths: tuple[Width, ...] = Field(min_length=1, max_length=MOST_BLOCKS)


class ConditionalEncoderDecoder(NetSettings):
    """ScAPE: towers for what is known of compound and cell type, a code of both, a decoder that reads the cell type.

    `towers` are those of the feature set's blocks, in their order; a block beyond them has a tower of the cell type
    with one layer of 32. The compound's towers are joined by the layers of `compound`, all towers by those of `code`.
    The decoder has towers of the cell type of its own, joined by `condition`, and the layers of `decoder`.
    """

    kind: Literal["conditional_encoder_decoder"] = "conditional_encoder_decoder"
    towers: tuple[Tower, ...] = Field(
        default=(Tower(of="cell_type", widths=(32,)), Tower(of="compound", widths=(256, 128))),
        max_length=MOST_BLOCKS,
    )
    compound: tuple[Width, ...] = Field(default=(128, 128), max_length=MOST_BLOCKS)
    code: tuple[Width, ...] = Field(default=(128, 128), min_length=1, max_length=MOST_BLOCKS)
    condition: tuple[Width, ...] = Field(default=(32,), max_length=MOST_BLOCKS)
    decoder: tuple[Width, ...] = Field(default=(128, 512), max_length=MOST_BLOCKS)
    dropout: Share = 0.05
    last_dropout: Share = 0.1
    norm_momentum: Momentum = 0.1

    @model_validator(mode="after")
    def _both_sides(self) -> Self:
        if {tower.of for tower in self.towers} != {"cell_type", "compound"}:
            raise ValueError("towers must have one of the cell type and one of the compound at least")
        return self


Architecture = Annotated[
    EmbeddingMlp
    | Mlp
    | Recurrent
    | Conv1d
    | Transformer
    | ConvResNet
    | SampleGeneMlp
    | ConditionalEncoderDecoder,
    Field(discriminator="kind"),
]


def _loss(value: Any) -> Any:
    """Return the weights of losses; a name alone weighs 1."""
    return {value: 1.0} if isinstance(value, str) else value


class Training(NetSettings):
    """How nets are trained.

    Attributes
    ----------
    loss : dict of loss to weight
        One name alone weighs 1.
    optimizer : {"adam", "adamw", "lion", "rmsprop"}
        By its name in the literature.
    learning_rate, weight_decay : float
        Decay is decoupled (of adamw and lion; the others have none).
    betas : tuple of float
        Of adam, adamw, lion; the second is rmsprop's smoothing.
    eps : float
        Of adam, adamw, rmsprop.
    schedule : {"constant", "linear", "plateau"}
        linear: the learning rate falls to 0 by equal steps, one an epoch. It averages the noise of the last epochs out.
        plateau: the learning rate falls by `factor` where the mean training loss of an epoch, over all replicas, has
        not fallen for `plateau_patience` epochs, down to `least_learning_rate`.
    batch_size, epochs : int
        Rows a batch, and passes over all rows.
    clip_norm : float, optional
        Largest norm of a net's gradient.
    checkpoint : {"last", "best"}
        best: the parameters after the epoch with the lowest loss on one of `validation_folds` folds of a fit's own
        rows, which are then not trained on. Each replica has its own best epoch.
    validation : {"rows", "clusters", "scarce", "most_measured"}
        What those folds are made of. rows: all rows. clusters: all rows, each kind of response in every fold (second
        place). scarce: compounds within the cell types that have at most half as many compounds as the one with the
        most, where others have them, too (fourth place). most_measured: likewise within the cell type that has the
        most (ScAPE). Rows, where there are fewer than two such compounds.
    validation_folds : int
        How many folds `validation` deals.
    patience : int, optional
        With "best": epochs without a better loss in any replica after which training ends.
    masking : float
        Share of a row's features that are set to 0, drawn anew in every batch.
    input_noise : float
        Standard deviation of normal noise that is added to the features.
    target_noise : float
        s · ½ log10(u) with u uniform in [0.001, 1] and a random sign is added to the targets, times this: draws from
        the null distribution of a signed log10 p-value. Only of use where the targets are such.
    """

    loss: Annotated[dict[LossName, Annotated[float, bounded(0.0, 1e6)]], BeforeValidator(_loss)] = Field(
        default={"mrrmse": 1.0}, min_length=1
    )
    optimizer: Literal["adam", "adamw", "lion", "rmsprop"] = "adam"
    learning_rate: Annotated[float, bounded(1e-8, 10.0)] = 1e-3
    weight_decay: Annotated[float, bounded(0.0, 100.0)] = 0.0
    betas: tuple[Annotated[float, bounded(0.0, 0.999999)], Annotated[float, bounded(0.0, 0.999999)]] = (
        0.9,
        0.999,
    )
    eps: Annotated[float, bounded(1e-16, 1.0)] = 1e-7
    schedule: Literal["constant", "linear", "plateau"] = "linear"
    factor: Annotated[float, bounded(1e-3, 0.9999, "the learning rate is multiplied by it")] = 0.85
    plateau_patience: Annotated[int, bounded(1, 100_000)] = 12
    least_learning_rate: Annotated[float, bounded(0.0, 10.0)] = 1e-5
    batch_size: Annotated[int, bounded(1, 1_000_000, "a batch is in memory")] = 128
    epochs: Annotated[int, bounded(1, 1_000_000)] = 40
    clip_norm: Annotated[float | None, bounded(1e-6, 1e6, optional=True)] = None
    checkpoint: Literal["last", "best"] = "last"
    validation: Literal["rows", "clusters", "scarce", "most_measured"] = "rows"
    validation_folds: Annotated[int, bounded(2, 1000, "one of them is not trained on")] = 10
    patience: Annotated[int | None, bounded(1, 1_000_000, optional=True)] = None
    masking: Share = 0.0
    input_noise: Annotated[float, bounded(0.0, 1e3)] = 0.0
    target_noise: Annotated[float, bounded(0.0, 1e3)] = 0.0

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not sum(self.loss.values()):
            raise ValueError("the weights of all losses are 0")
        if self.patience is not None and self.checkpoint == "last":
            raise ValueError(
                "patience needs checkpoint = 'best': the last parameters are those of all epochs"
            )
        if self.weight_decay and self.optimizer in ("adam", "rmsprop"):
            raise ValueError(f"weight_decay is of adamw and lion, and the optimizer is {self.optimizer}")
        return self
