"""What is wrong with a submission, beside the ids and genes it should have: a line for each kind of fault.

Rows and genes must be those expected, each once and in that order: Open Problems' metric takes rows by position, and a
file in another order than its sample is a likely slip in any format.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from rapids_pipeline.data.columns import METADATA_COLUMNS
from rapids_pipeline.predictions.found import Found
from rapids_pipeline.predictions.parquet import is_integer
from rapids_pipeline.predictions.table import as_float32

EXAMPLES = 3


def faults_of(found: Found, ids: Sequence[str], genes: Sequence[str] | None = None) -> list[str]:
    """Return all faults of a submission, none where it is right.

    Parameters
    ----------
    found : Found
    ids : sequence of str, (n_rows,)
        The ids it should have, in order.
    genes : sequence of str, (n_genes,), optional
        The genes it should have, in order; without them, any genes will do, each once.

    Returns
    -------
    list of str
        One line a fault: the file as such, its rows, its genes, its values; each with the first few examples.
    """
    return [
        *found.faults,
        *_row_faults(found, ids),
        *_gene_faults(found, genes),
        *_value_faults(found, genes),
    ]


def _row_faults(found: Found, ids: Sequence[str]) -> list[str]:
    n_rows = len(found.rows) + len(found.broken)
    faults = _count("rows", n_rows, len(ids), "the id map")
    if found.ids is None:
        return faults
    names, not_integers = found.ids, []
    if all(map(is_integer, ids)):
        not_integers = [k for k, name in enumerate(names) if re.fullmatch(r"-?\d+\.0*", name)]
        names = [
            re.sub(r"\.0*$", "", name) if k in set(not_integers) else name for k, name in enumerate(names)
        ]
    if not_integers:
        first = not_integers[0]
        faults.append(
            f"{len(not_integers)} id(s) are no integers: row {found.rows[first]} has {found.ids[first]}; write "
            f"{names[first]}"
        )
    empty = [f"row {found.rows[k]}" for k, name in enumerate(names) if not name.strip()]
    if empty:
        faults.append(f"no id in {len(empty)} row(s): {_some(empty)}")
    places: dict[str, list[int]] = {}
    for number, name in zip(found.rows, names, strict=True):
        if name.strip():
            places.setdefault(name, []).append(number)
    twice = [
        f"{name} in rows {', '.join(map(str, rows[:5]))}" for name, rows in places.items() if len(rows) > 1
    ]
    if twice:
        faults.append(f"duplicate id: {len(twice)} id(s) occur more than once: {_some(twice, '; ')}")
    faults += _unlike("id", list(places), ids, "the id map", broken=found.broken)
    return faults + _order(
        "row order differs: row {} has id {}, where the order of the id map has id {}; {} of {} rows stand elsewhere",
        {name: rows[0] for name, rows in places.items()},
        ids,
    )


def _gene_faults(found: Found, genes: Sequence[str] | None) -> list[str]:
    wanted = None if genes is None else set(genes)
    metadata = [name for name in found.columns if _is_metadata(name, wanted)]
    columns = [name for name in found.columns if not _is_metadata(name, wanted)]
    faults = []
    if metadata:
        faults.append(f"extra column: {_some(metadata)}; a submission has id and genes only")
    twice = [name for name, count in Counter(columns).items() if count > 1]
    if twice:
        faults.append(f"duplicate gene: {len(twice)} gene(s) occur more than once: {_some(twice)}")
    if genes is None:
        return faults if columns else [*faults, "wrong number of genes: 0"]
    places: dict[str, int] = {}
    for number, name in enumerate(columns, start=1):
        places.setdefault(name, number)
    order = "gene order differs: gene {} is {}, where the order of the gene list has {}; {} of {} genes stand elsewhere"
    return [
        *_count("genes", len(columns), len(genes), "the gene list"),
        *faults,
        *_unlike("gene", list(places), genes, "the gene list"),
        *_order(order, places, genes),
    ]


def _value_faults(found: Found, genes: Sequence[str] | None) -> list[str]:
    if found.Y is None:
        return []
    wanted = None if genes is None else set(genes)
    counted = np.array(
        [name in wanted if wanted is not None else not _is_metadata(name, None) for name in found.columns],
        bool,
    )

    def cell(row: int, column: int) -> str:
        name = "" if found.ids is None else f" (id {found.ids[row]})"
        return f"row {found.rows[row]}{name}, gene {found.columns[column]}"

    faults = []
    text = [(row, column, value) for row, column, value in found.text if counted[column]]
    if text:
        shown = [f"{cell(row, column)}: {value!r}" for row, column, value in sorted(text)[: EXAMPLES + 1]]
        faults.append(f"text in a number column, {len(text)} value(s): {_some(shown, '; ', len(text))}")
    numbers = as_float32(found.Y)
    for what, bad in (
        ("NaN or no value", np.isnan(numbers)),
        ("infinite as float32", np.isinf(numbers)),
    ):
        faults += _cells(what, bad & counted, cell)
    return faults


def _cells(what: str, bad: NDArray[np.bool_], cell: Callable[[int, int], str]) -> list[str]:
    places = np.argwhere(bad)
    shown = [cell(int(row), int(column)) for row, column in places[: EXAMPLES + 1]]
    return [f"{what}, {len(places)} value(s): {_some(shown, '; ', len(places))}"] if shown else []


def _is_metadata(name: str, wanted: set[str] | None) -> bool:
    return name in METADATA_COLUMNS and (wanted is None or name not in wanted)


def _count(what: str, n: int, expected: int, source: str) -> list[str]:
    return [f"wrong number of {what}: {n}, {source} has {expected}"] if n != expected else []


def _unlike(
    what: str, have: Sequence[str], wanted: Sequence[str], source: str, *, broken: Sequence[str] = ()
) -> list[str]:
    present, expected = {*have, *broken}, set(wanted)
    missing = [name for name in wanted if name not in present]
    extra = [name for name in have if name not in expected]
    faults = []
    if missing:
        faults.append(f"missing {what}: {len(missing)} of the {len(wanted)} of {source}: {_some(missing)}")
    if extra:
        faults.append(f"extra {what}: {len(extra)} not in {source}: {_some(extra)}")
    return faults


def _order(sentence: str, places: dict[str, int], wanted: Sequence[str]) -> list[str]:
    """Return where the order first differs, among the names that both have; `places` is in file order."""
    expected = [name for name in wanted if name in places]
    common = set(expected)
    mine = [name for name in places if name in common]
    differ = [k for k, (one, other) in enumerate(zip(mine, expected, strict=True)) if one != other]
    if not differ:
        return []
    first = differ[0]
    return [sentence.format(places[mine[first]], mine[first], expected[first], len(differ), len(mine))]


def _some(names: Sequence[str], separator: str = ", ", total: int | None = None) -> str:
    total = len(names) if total is None else total
    more = f"{separator}… {total - EXAMPLES} more" if total > EXAMPLES else ""
    return separator.join(names[:EXAMPLES]) + more
