"""Recipes of the winners of Open Problems – Single-Cell Perturbations (NeurIPS 2023), each in two settings.

    first_place    LSTM, GRU and convolutions on one-hot columns and statistics of the targets
    second_place   a transformer encoder
    third_place    embedding nets in a space of components, taught by their own predictions of the test rows
    fourth_place   SVRs and a booster on them, a ResNet, response transfer
    scape          an encoder and decoder with towers (16th place, judges' prize)
    jn_ap          a net over all genes and one that all genes share (20th place)

NAME is the winner's idea with what the original meant to do and did not: statistics of a row without the row's own
targets, checkpoints that are the best, seeds. Sizes come from the data, and targets and statistics are components, so
that it takes minutes on two cores. NAME_faithful has the published numbers; on a CPU they take hours or days.

In no recipe do the rows of a batch see each other, as those of the first and the second place did. In all of them

- targets are divided by their root mean square first, which was about 1 in the competition's data;
- one generator draws initial weights, orders, dropout and noise, which the originals seeded in part or not at all;
- out-of-fold predictions come from models that never saw the fold, pseudo-labels and statistics included.

What else differs is in each recipe's `differs`, which `rapids-perturb recipes NAME` prints.
"""

from rapids_pipeline.stack.winners import first_place, fourth_place, jn_ap, scape, second_place, third_place

WINNERS = tuple(
    recipe
    for winner in (first_place, second_place, third_place, fourth_place, scape, jn_ap)
    for recipe in (winner.sound(), winner.faithful())
)
