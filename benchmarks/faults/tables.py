"""Hostile tables: files whose bytes, columns or numbers are not what a table of responses or pairs should have.

A file is read in one of `roles.ROLES`: training rows, pairs, a truth, a submission to check, … Its bytes are damaged
(`damaged`), its columns are of kinds that no such column has (`column_kinds`), its values and names are hostile
(`values`, `names`), its numbers are no responses (`numbers`).
"""

import gzip
import random
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa

from benchmarks.faults.roles import ENCODED, GENES, ROLES, case, csv_of, good, parquet_of, training
from benchmarks.faults.runner import Case


def damages(whole: bytes, draw: random.Random) -> Iterator[tuple[str, bytes]]:
    """Yield what can happen to the bytes of any file, by name."""
    n = len(whole)
    at = draw.randrange(n)
    yield "cut", whole[: draw.choice((1, 4, n // 2, n - 1, at))]
    yield "without its start", whole[draw.choice((1, 4, at)) :]
    flipped = bytearray(whole)
    for place in draw.choices(range(n), k=draw.choice((1, 3, 30))):
        flipped[place] ^= 1 << draw.randrange(8)
    yield "flipped bits", bytes(flipped)
    yield "random bytes", whole[:at] + draw.randbytes(64) + whole[at + 64 :]
    yield "zeros", whole[:at] + bytes(min(512, n - at)) + whole[at + 512 :]
    yield "an insertion", whole[:at] + draw.randbytes(draw.choice((1, 7, 500))) + whole[at:]
    yield "a number", whole[:at] + draw.choice((b"\xff\xff\xff\x7f", bytes(8), b"\xff" * 8)) + whole[at + 8 :]
    yield "twice", whole + whole
    yield "backwards", whole[::-1]


def texts(whole: bytes, draw: random.Random) -> Iterator[tuple[str, bytes]]:
    """Yield what can happen to a text file."""
    lines = whole.split(b"\n")
    at = draw.randrange(1, len(lines) - 1)
    cell = lines[at].split(b",")
    yield "empty", b""
    yield "one byte", b"\n"
    yield "the header alone", lines[0]
    yield "no header", b"\n".join(lines[1:])
    yield "UTF-16", whole.decode().encode("utf-16")
    yield "UTF-32", whole.decode().encode("utf-32")
    yield "a byte-order mark", b"\xef\xbb\xbf" + whole
    yield "Latin-1", whole.replace(b"ethanol", "éthanol".encode("latin-1"))
    yield "NUL in a cell", whole.replace(b"ethanol", b"etha\0nol")
    yield "NULs after", whole + bytes(1000)
    yield "carriage returns", whole.replace(b"\n", b"\r")
    yield "CRLF", whole.replace(b"\n", b"\r\n")
    yield "an open quote", b"\n".join([*lines[:at], b'"' + lines[at], *lines[at + 1 :]])
    yield "a long row", b"\n".join([*lines[:at], b",".join(cell * 5), *lines[at + 1 :]])
    yield "a short row", b"\n".join([*lines[:at], cell[0], *lines[at + 1 :]])
    yield "ragged rows", b"\n".join(line + b"," * (k % 3) for k, line in enumerate(lines))
    yield "blank lines", b"\n\n\n".join(lines)
    yield "quotes", whole.replace(b",", b'","').replace(b"\n", b'"\n"')
    yield "HTML", b"<!DOCTYPE html><html><body>404</body></html>"
    yield "JSON", b'{"cell_type": ["B"], "sm_name": ["ethanol"]}'
    yield "a merge conflict", b"<<<<<<< HEAD\n" + whole + b"=======\n" + whole + b">>>>>>>\n"
    yield "vertical tabs", whole.replace(b"\n", b"\x0b\n\x0c")
    yield "escapes", whole.replace(b"B,", b"\x1b[31mB\x07,").replace(b"A1BG", b"\x1b]0;x\x07A1BG")


def damaged(draw: random.Random) -> Iterator[Case]:
    """Yield damaged files of every format, each in a few roles."""
    for suffix, encoded in ENCODED.items():
        roles = [role for role in ROLES if role != "check" or suffix in (".csv", ".csv.gz", ".parquet")]
        for role in roles:
            table = ROLES[role][1]()
            for name, content in draw.sample([*damages(encoded(table), draw)], 4):
                yield case(f"bytes, {name}", role, content, suffix)
    for role in ROLES:
        whole = csv_of(ROLES[role][1]())
        for name, content in draw.sample([*texts(whole, draw)], 15):
            packed = draw.random() < 0.2
            yield case(
                f"text, {name}",
                role,
                gzip.compress(content) if packed else content,
                ".csv.gz" if packed else ".csv",
            )
    suffixes = [
        *ENCODED,
        ".h5ad",
        ".gct",
        ".gct.gz",
        ".gctx",
        ".xlsx",
        "",
        ".CSV",
        ".pq",
        ".json",
        ".feather",
    ]
    for role in ROLES:
        for true in (".csv", ".parquet", ".csv.gz"):
            content = ENCODED[true](ROLES[role][1]())
            for suffix in draw.sample([one for one in suffixes if one != true], 2):
                yield case("wrong suffix", role, content, suffix)


# --- columns ----------------------------------------------------------------------------------------------------

T = datetime(2024, 2, 29, 12, tzinfo=UTC)


def arrays(n: int) -> dict[str, pa.Array]:
    """Return columns of every kind that Parquet keeps, n rows each."""

    def of(value: object, kind: pa.DataType) -> pa.Array:
        return pa.array([value] * n, kind)

    return {
        "map": of([("a", 1)], pa.map_(pa.string(), pa.int64())),
        "list": of(["a", "b"], pa.list_(pa.string())),
        "list of numbers": of([1.0, 2.0], pa.list_(pa.float64())),
        "empty lists": of([], pa.list_(pa.float64())),
        "large list": of([1.0], pa.large_list(pa.float64())),
        "list of lists": of([[1.0]], pa.list_(pa.list_(pa.float64()))),
        "fixed list": of([1.0, 2.0], pa.list_(pa.float64(), 2)),
        "struct": of({"a": 1, "b": "x"}, pa.struct([("a", pa.int64()), ("b", pa.string())])),
        "binary": of(b"\xff\xfe\x00", pa.binary()),
        "binary that is text": of(b"CCO", pa.binary()),
        "fixed binary": of(b"\xff" * 16, pa.binary(16)),
        "large binary": of(b"\xff", pa.large_binary()),
        "dictionary": of("CCO", pa.string()).dictionary_encode(),
        "dictionary of binary": of(b"\xff", pa.binary()).dictionary_encode(),
        "decimal": of(Decimal("1.25"), pa.decimal128(38, 10)),
        "wide decimal": of(Decimal("1e60"), pa.decimal256(76, 5)),
        "date": of(date(2024, 2, 29), pa.date32()),
        "date64": of(date(1, 1, 1), pa.date64()),
        "timestamp": of(T, pa.timestamp("us", tz="Europe/Berlin")),
        "timestamp of no zone": pa.array([T] * n, pa.timestamp("us", tz="UTC")).cast(
            pa.timestamp("us", tz="+00:00")
        ),
        "far timestamp": pa.array([2**62] * n, pa.timestamp("us")),
        "time": of(time(1, 2, 3), pa.time64("us")),
        "duration": of(timedelta(days=1), pa.duration("us")),
        "boolean": of(True, pa.bool_()),
        "null": pa.nulls(n),
        "null text": pa.nulls(n, pa.string()),
        "null numbers": pa.nulls(n, pa.float64()),
        "large text": of("CCO", pa.large_string()),
        "float16": pa.array(np.full(n, 1.5, np.float16)),
        "uint64": of(2**64 - 1, pa.uint64()),
        "int8": of(-128, pa.int8()),
        "int64 at its end": of(-(2**63), pa.int64()),
        "NaN": of(float("nan"), pa.float64()),
        "inf": of(float("inf"), pa.float64()),
        "1e300": of(1e300, pa.float64()),
        "denormal": of(5e-324, pa.float64()),
        "text": of("[/x]\x1b[31m", pa.string()),
        "long text": of("x" * 100_000, pa.string()),
        "empty text": of("", pa.string()),
        "numbers as text": of("1.5", pa.string()),
        "one text among numbers": pa.array(["1.5"] * (n - 1) + ["\x1b[31mx"], pa.string()),
    }


def column_kinds(draw: random.Random) -> Iterator[Case]:
    """Yield Parquet files with one column, or all, of an unexpected kind."""
    for role, (_, made) in ROLES.items():
        table = pa.Table.from_pandas(made(), preserve_index=False)
        for name, column in draw.sample([*arrays(len(table)).items()], 24):
            places = [draw.choice(table.column_names)]
            places = table.column_names if draw.random() < 0.1 else places
            changed = table
            for place in places:
                k = changed.column_names.index(place)
                changed = changed.set_column(k, place, column)
            yield case(f"columns, of {name}", role, parquet_of(changed), ".parquet")
        extra = draw.choice([*arrays(len(table)).items()])
        yield case(
            f"columns, one more of {extra[0]}",
            role,
            parquet_of(table.append_column("more", extra[1])),
            ".parquet",
        )


# --- names and values ---------------------------------------------------------------------------------------------

WORDS = (
    *(
        "1e400",
        "-1e400",
        "nan",
        "inf",
        "-inf",
        "1e39",
        "1e-400",
        "0x10",
        "1_000",
        "1,5",
        "1.5.2",
        "--1",
        "+",
        "１２",
    ),
    *(
        "2024-02-29",
        "12:30",
        "1-Mar",
        "TRUE",
        "false",
        "#N/A",
        "#REF!",
        "=1+1",
        "None",
        "NULL",
        "-666",
        "",
        " ",
        "\t",
    ),
    *(
        "[/x]",
        "[red]",
        "[link=file:///etc/passwd]x",
        "\x1b[31mred",
        "\x1b]0;x\x07",
        "\x9b31m",
        "\x07",
        "a\0b",
        "a\nb",
    ),
    *(
        "a\rb",
        "\u202eabc",
        "\u200b",
        "\ufeff",
        "x" * 5000,
        "y" * 200_000,
        "e" + "\u0301" * 2000,
        "\U0001f600",
        "\\x41",
    ),
    *(
        "<script>alert(1)</script>",
        "{0.__class__}",
        "%s%n",
        "$x^2$",
        "../../x",
        "9" * 400,
        "9" * 5000,
        "1" * 20,
    ),
)
NAMES = (
    *WORDS,
    "id",
    "cell_type",
    "SMILES",
    "control",
    "index",
    "__index_level_0__",
    "Unnamed: 0",
    "level_0",
    "A1BG",
)


def values(draw: random.Random) -> Iterator[Case]:
    """Yield tables with a hostile value in one cell, a row or a column."""
    for role, (_, made) in ROLES.items():
        for word in draw.sample(WORDS, 16):
            frame = made().astype(object).astype(str)
            row, column = draw.randrange(len(frame)), draw.randrange(frame.shape[1])
            where = draw.choice(("cell", "cell", "row", "column"))
            frame.iloc[
                row if where != "column" else slice(None), column if where != "row" else slice(None)
            ] = word
            suffix = draw.choice(
                (".csv", ".csv", ".tsv", ".parquet") if role != "check" else (".csv", ".parquet")
            )
            yield case(f"values, in a {where}", role, ENCODED[suffix](frame), suffix)


def names(draw: random.Random) -> Iterator[Case]:
    """Yield tables with a hostile name of a column, repeated, missing, swapped, many or no columns and rows."""
    for role, (_, made) in ROLES.items():
        frame = made()
        for word in draw.sample(NAMES, 10):
            k = draw.randrange(frame.shape[1])
            renamed = frame.set_axis(
                [word if j == k else name for j, name in enumerate(frame.columns)], axis=1
            )
            suffix = draw.choice((".csv", ".parquet"))
            if suffix == ".parquet" and not renamed.columns.is_unique:
                made_so = pa.Table.from_arrays(
                    [pa.array(frame[name]) for name in frame.columns], names=[*renamed.columns]
                )
                yield case("names, of a column", role, parquet_of(made_so), suffix)
            else:
                yield case("names, of a column", role, ENCODED[suffix](renamed), suffix)
        shapes = {
            "a column missing": frame.drop(columns=draw.choice([*frame.columns])),
            "a column twice": pd.concat([frame, frame.iloc[:, -1:]], axis=1),
            "columns swapped": frame.iloc[:, ::-1],
            "rows twice": pd.concat([frame, frame]),
            "no rows": frame.iloc[:0],
            "one row": frame.iloc[:1],
            "one column": frame.iloc[:, :1],
            "turned round": frame.T.reset_index().astype(str),
            "rows shuffled": frame.sample(frac=1, random_state=draw.randrange(100)),
            "3,000 columns": pd.concat(
                [frame, pd.DataFrame(1.5, frame.index, [f"g{k}" for k in range(3000)])], axis=1
            ),
        }
        for name, changed in shapes.items():
            suffix = ".csv" if name == "a column twice" else draw.choice((".csv", ".parquet"))
            changed.columns = changed.columns.astype(str)
            yield case(f"shapes, {name}", role, ENCODED[suffix](changed), suffix)


def numbers() -> Iterator[Case]:
    """Yield training rows whose numbers are no responses: all alike, vast, tiny."""
    frame = training()
    Y = frame[[*GENES]].to_numpy()
    made = {
        "all zero": 0 * Y,
        "all one": 0 * Y + 1,
        "all -0": -0.0 * np.abs(Y),
        "times 1e30": Y * 1e30,
        "times 1e37": Y * 1e37,
        "times 1e18": Y * 1e18,
        "times 1e-18": Y * 1e-18,
        "times 1e-30": Y * 1e-30,
        "times 1e-42": Y * 1e-42,
        "times 1e300": Y * 1e300,
        "all 3e38": 0 * Y + 3e38,
        "of two scales": Y * [1e30, 1, 1e-30],
        "1e20 with noise": 1e20 + Y,
        "one spike": np.where(np.arange(len(Y))[:, None] == 7, 3e38, Y),
        "one number": np.where(np.arange(len(Y))[:, None] == 7, Y, np.nan),
        "a gene all zero": Y * [0, 1, 1],
        "a gene all NaN": Y * [np.nan, 1, 1],
        "a row all NaN": np.where(np.arange(len(Y))[:, None] == 7, np.nan, Y),
        "half NaN": np.where(np.arange(Y.size).reshape(Y.shape) % 2, np.nan, Y),
        "rows alike": np.repeat(Y[:1], len(Y), axis=0),
    }
    for name, changed in made.items():
        content = parquet_of(frame.assign(**dict(zip(GENES, changed.T, strict=True))))
        for role in ("train", "cv", "screen", "truth", "prediction", "baselines"):
            yield case(f"numbers, {name}", role, content, ".parquet")


def cases(seed: int = 0) -> list[Case]:
    """Return all cases, in an order that the seed determines, those on good data first."""
    draw = random.Random(seed)
    found = [*damaged(draw), *column_kinds(draw), *values(draw), *names(draw), *numbers()]
    draw.shuffle(found)
    return [*good(), *found]
