"""Hostile matrix files: `.h5ad`, GCT and GCTX whose parts are damaged, missing, of another shape or do not agree.

A good file is made of the good training rows; then its bytes are damaged (`tables.damages`), or one part of it is
replaced (`H5AD`, `SPARSE`, `GCTX`, `gct_texts`).
"""

import gzip
import io
import random
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import h5py
import numpy as np

from benchmarks.faults.roles import GENES, case, training
from benchmarks.faults.runner import Case
from benchmarks.faults.tables import damages, texts

Change = Callable[[h5py.File], Any]
ROLES = ("train", "cv", "screen", "truth", "prediction", "baselines")
"""What such a file is read as."""
N, G = len(training()), len(GENES)
TEXT = h5py.string_dtype()


@cache
def h5ad(sparse: bool = False) -> bytes:
    """Return the training rows as a file of anndata's layout: X, obs, var."""
    frame, sink = training(), io.BytesIO()
    with h5py.File(sink, "w") as file:
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        for name, index, columns in (
            ("obs", [str(k) for k in range(N)], {name: frame[name] for name in frame.columns[:3]}),
            ("var", [*GENES], {}),
        ):
            group = file.create_group(name)
            group.attrs.update(
                {"encoding-type": "dataframe", "encoding-version": "0.2.0", "_index": "_index"}
            )
            group.attrs["column-order"] = np.array([*columns], dtype=object if columns else "S1")
            for column, values in {"_index": index, **columns}.items():
                made = group.create_dataset(column, data=np.array([*values], dtype=object), dtype=TEXT)
                made.attrs.update({"encoding-type": "string-array", "encoding-version": "0.2.0"})
        Y = frame[[*GENES]].to_numpy(np.float32)
        if sparse:
            group = file.create_group("X")
            group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": [N, G]})
            group["data"], group["indices"] = Y.ravel(), np.tile(np.arange(G, dtype=np.int32), N)
            group["indptr"] = np.arange(0, N * G + 1, G, dtype=np.int32)
        else:
            made = file.create_dataset("X", data=Y)
            made.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    return sink.getvalue()


def gct(version: str = "#1.3") -> bytes:
    """Return the training rows as GCT text."""
    frame = training()
    annotations = [*frame.columns[:3]] if version == "#1.3" else []
    lines = [version, "\t".join(map(str, (G, N, 0, len(annotations)) if annotations else (G, N)))]
    lines.append("\t".join(["id"] + ["Description"] * (not annotations) + [f"s{k}" for k in range(N)]))
    lines += ["\t".join([name, *frame[name]]) for name in annotations]
    lines += ["\t".join([name] + ["na"] * (not annotations) + [*map(str, frame[name])]) for name in GENES]
    return ("\n".join(lines) + "\n").encode()


@cache
def gctx() -> bytes:
    """Return the training rows as GCTX."""
    frame, sink = training(), io.BytesIO()
    with h5py.File(sink, "w") as file:
        file["0/DATA/0/matrix"] = frame[[*GENES]].to_numpy(np.float32)
        file["0/META/ROW/id"] = np.array(GENES, dtype="S")
        file["0/META/COL/id"] = np.array([f"s{k}" for k in range(N)], dtype="S")
        for name in frame.columns[:3]:
            file[f"0/META/COL/{name}"] = np.array([*frame[name]], dtype="S")
    return sink.getvalue()


# --- changes of one part -----------------------------------------------------------------------------------------


def put(place: str, value: Any, file: h5py.File) -> None:
    """Replace a part by other data, with the attributes that it had."""
    attributes = dict(file[place].attrs) if place in file else {}
    if place in file:
        del file[place]
    file[place] = value
    if not isinstance(file.get(place, getlink=True), h5py.ExternalLink | h5py.SoftLink):
        file[place].attrs.update(attributes)


def drop(place: str, file: h5py.File) -> None:
    """Leave a part out."""
    del file[place]


def claim(place: str, shape: tuple[int, ...], file: h5py.File) -> None:
    """Replace a part by one that says to have a shape, and has nothing written."""
    attributes = dict(file[place].attrs)
    del file[place]
    chunks = tuple(min(size, 1000) for size in shape)
    file.create_dataset(place, shape, "f4", chunks=chunks).attrs.update(attributes)


def mark(place: str, attribute: str, value: Any, file: h5py.File) -> None:
    """Replace an attribute, None: leave it out."""
    if value is None:
        del file[place].attrs[attribute]
    else:
        file[place].attrs[attribute] = value


def coded(codes: Any, categories: Any, file: h5py.File) -> None:
    """Make the cell types a categorical column."""
    del file["obs/cell_type"]
    group = file["obs"].create_group("cell_type")
    group.attrs.update({"encoding-type": "categorical", "encoding-version": "0.2.0", "ordered": False})
    group["codes"], group["categories"] = np.asarray(codes), categories


def as_text(values: Any) -> Any:
    """Return texts as HDF5 keeps them."""
    return np.array([*values], dtype=h5py.string_dtype())


MATRICES: dict[str, Any] = {
    "short": np.ones((N - 3, G), "f4"),
    "long": np.ones((N + 3, G), "f4"),
    "narrow": np.ones((N, G - 1), "f4"),
    "wide": np.ones((N, G + 5), "f4"),
    "turned round": np.ones((G, N), "f4"),
    "1-D": np.ones(N, "f4"),
    "3-D": np.ones((N, G, 2), "f4"),
    "scalar": np.float32(1),
    "empty": np.ones((0, G), "f4"),
    "without genes": np.ones((N, 0), "f4"),
    "text": as_text(["x"] * N),
    "bytes": np.full((N, G), b"x"),
    "complex": np.ones((N, G), "c8"),
    "boolean": np.ones((N, G), bool),
    "float16": np.ones((N, G), "f2"),
    "records": np.ones(N, [("a", "f4"), ("b", "f4")]),
    "NaN": np.full((N, G), np.nan, "f4"),
    "inf": np.full((N, G), np.inf, "f4"),
    "1e300": np.full((N, G), 1e300),
    "external": h5py.ExternalLink("/etc/passwd", "/X"),
    "a dangling link": h5py.SoftLink("/nowhere"),
    "a circle": h5py.SoftLink("/X"),
    "nothing": h5py.Empty("f4"),
}
CLAIMS = ((10**12, G), (N, 10**9), (2**31, G), (10**7, G), (N, 10**7))
H5AD: dict[str, Change] = {
    **{f"X {name}": partial(put, "X", value) for name, value in MATRICES.items()},
    **{f"X of {'×'.join(map(str, shape))}": partial(claim, "X", shape) for shape in CLAIMS},
    "no X": partial(drop, "X"),
    "no obs": partial(drop, "obs"),
    "no var": partial(drop, "var"),
    "obs an array": partial(put, "obs", np.ones((N, 2))),
    "obs a text": partial(put, "obs", "x"),
    "obs records": partial(put, "obs", np.ones(N, [("cell_type", "f4"), ("sm_name", "f4")])),
    "var an array": partial(put, "var", np.ones(G)),
    "no index": partial(drop, "obs/_index"),
    "no index named": partial(mark, "obs", "_index", None),
    "an index of nothing": partial(mark, "obs", "_index", "nowhere"),
    "an index elsewhere": partial(mark, "obs", "_index", "../var/_index"),
    "an index of numbers": partial(put, "obs/_index", np.arange(N)),
    "a short index": partial(put, "obs/_index", as_text("x" * (N - 5))),
    "a short column": partial(put, "obs/cell_type", as_text("x" * (N - 5))),
    "a column of lists": partial(put, "obs/cell_type", np.ones((N, 3))),
    "a scalar column": partial(put, "obs/cell_type", "x"),
    "a missing column": partial(drop, "obs/cell_type"),
    "columns of nothing": partial(mark, "obs", "column-order", np.array(["a", "b"], dtype=object)),
    "columns of a number": partial(mark, "obs", "column-order", 7),
    "an unknown kind": partial(mark, "obs", "encoding-type", "[/x]"),
    "an unknown kind of X": partial(mark, "X", "encoding-type", "awkward-array"),
    "no kind": partial(mark, "X", "encoding-type", None),
    "another version": partial(mark, "obs", "encoding-version", "99.0.0"),
    "a kind that is a number": partial(mark, "X", "encoding-type", 7),
    "genes twice": partial(put, "var/_index", as_text(["A1BG"] * G)),
    "genes of escapes": partial(put, "var/_index", as_text(["\x1b[31m", "[/x]", "\x07"])),
    "a long gene": partial(put, "var/_index", as_text(["x" * 100_000, "b", "c"])),
    "genes that are metadata": partial(put, "var/_index", as_text(["cell_type", "sm_name", "c"])),
    "codes out of bounds": partial(coded, np.full(N, 99, "i1"), as_text("ab")),
    "negative codes": partial(coded, np.full(N, -7, "i1"), as_text("ab")),
    "codes of nothing": partial(coded, np.zeros(N, "i1"), as_text([])),
    "codes of floats": partial(coded, np.full(N, 0.5), as_text("ab")),
    "categories twice": partial(coded, np.zeros(N, "i1"), as_text("aa")),
    "layers an array": partial(put, "layers", np.ones(3)),
    "a layer of nothing": partial(put, "layers/x", h5py.Empty("f4")),
    "a layer beside X": partial(put, "layers/[/x]", np.ones((N, G))),
}
SPARSE: dict[str, Change] = {
    "indices out of bounds": partial(put, "X/indices", np.full(N * G, 10**6, "i4")),
    "indices far out of bounds": partial(put, "X/indices", np.full(N * G, 2**31 - 1, "i4")),
    "negative indices": partial(put, "X/indices", np.full(N * G, -(10**6), "i4")),
    "short indptr": partial(put, "X/indptr", np.arange(0, 5 * G, G, dtype="i4")),
    "long indptr": partial(put, "X/indptr", np.arange(0, (N + 9) * G, G, dtype="i4")),
    "indptr beyond": partial(put, "X/indptr", np.arange(0, N * G + 1, G, dtype="i8") * 10**6),
    "indptr falling": partial(put, "X/indptr", np.arange(N * G, -1, -G, dtype="i4")),
    "negative indptr": partial(put, "X/indptr", np.full(N + 1, -5, "i4")),
    "empty indptr": partial(put, "X/indptr", np.zeros(0, "i4")),
    "indptr of floats": partial(put, "X/indptr", np.linspace(0, N * G, N + 1)),
    "2-D indptr": partial(put, "X/indptr", np.zeros((N + 1, 2), "i4")),
    "short data": partial(put, "X/data", np.ones(5, "f4")),
    "data of text": partial(put, "X/data", as_text("x" * (N * G))),
    "no data": partial(drop, "X/data"),
    "no indices": partial(drop, "X/indices"),
    "a long shape": partial(mark, "X", "shape", [10**12, G]),
    "a wide shape": partial(mark, "X", "shape", [N, 10**9]),
    "a small shape": partial(mark, "X", "shape", [2, 1]),
    "a negative shape": partial(mark, "X", "shape", [-1, G]),
    "a 3-D shape": partial(mark, "X", "shape", [N, G, 2]),
    "no shape": partial(mark, "X", "shape", None),
    "columns for rows": partial(mark, "X", "encoding-type", "csc_matrix"),
    "entries twice": partial(put, "X/indices", np.zeros(N * G, "i4")),
}
GCTX: dict[str, Change] = {
    **{f"matrix {name}": partial(put, "0/DATA/0/matrix", value) for name, value in MATRICES.items()},
    **{
        f"matrix of {'×'.join(map(str, shape))}": partial(claim, "0/DATA/0/matrix", shape) for shape in CLAIMS
    },
    "no matrix": partial(drop, "0/DATA/0/matrix"),
    "no rows": partial(drop, "0/META/ROW"),
    "no columns": partial(drop, "0/META/COL"),
    "no ids": partial(drop, "0/META/COL/id"),
    "rows an array": partial(put, "0/META/ROW", np.ones(3)),
    "ids of numbers": partial(put, "0/META/COL/id", np.arange(N)),
    "ids alike": partial(put, "0/META/ROW/id", np.array([b"A1BG"] * G)),
    "ids of bytes": partial(put, "0/META/ROW/id", np.array([b"\xff\xfe", b"a", b"b"])),
    "short ids": partial(put, "0/META/COL/id", np.array([b"a", b"b"])),
    "a scalar id": partial(put, "0/META/COL/id", b"a"),
    "2-D ids": partial(put, "0/META/COL/id", np.full((N, 2), b"a")),
    "ids of escapes": partial(put, "0/META/ROW/id", np.array([b"\x1b[31m", b"[/x]", b"\x07"])),
}


def gct_texts(draw: random.Random) -> Iterator[tuple[str, bytes]]:
    """Yield GCT files whose head does not fit, and what can happen to any text."""
    whole = gct()
    lines = whole.split(b"\n")
    for sizes in (
        *(
            "",
            "3",
            "-3\t32\t0\t3",
            "3\t-1\t0\t3",
            "3\t32\t0\t-3",
            "99\t32\t0\t3",
            "3\t32\t0\t99",
            "3\t32\t9\t3",
        ),
        *("1000000000000\t32\t0\t3", "3\t1000000000\t0\t3", "x\ty", "9" * 5000, "0\t0\t0\t0"),
    ):
        yield f"sizes {sizes[:20]!r}", b"\n".join([lines[0], sizes.encode(), *lines[2:]])
    for version in (b"", b"#1.1", b"#9", b"\x1b[31m", b"#1.2", b"x" * 100_000):
        yield f"version {version[:9]!r}", b"\n".join([version, *lines[1:]])
    yield "commas", whole.replace(b"\t", b",")
    yield "no annotations", b"\n".join(lines[:3] + lines[6:])
    yield "text among numbers", whole.replace(b"0.25", b"[/x]")
    yield "commas for points", whole.replace(b".", b",")
    yield "ids alike", whole.replace(b"TP53", b"A1BG")
    yield "of version 1.2", gct("#1.2")
    yield from texts(whole, draw)


def changed(whole: bytes, change: Change) -> bytes:
    """Return an HDF5 file in which one part is another."""
    sink = io.BytesIO(whole)
    with h5py.File(sink, "r+") as file:
        change(file)
    return sink.getvalue()


def cases(seed: int = 0) -> list[Case]:
    """Return all cases, in an order that the seed determines."""
    draw, found = random.Random(seed), []
    for kind, suffix, whole, changes in (
        ("h5ad", ".h5ad", h5ad(), H5AD),
        ("sparse h5ad", ".h5ad", h5ad(sparse=True), SPARSE),
        ("GCTX", ".gctx", gctx(), GCTX),
    ):
        roles = [
            role for role in ROLES if (role, suffix) != ("prediction", ".h5ad")
        ]  # has a layer of that name
        found += [case("good", role, whole, suffix, "good") for role in roles]
        for name, change in changes.items():
            content = changed(whole, change)
            found += [case(f"{kind}, {name}", role, content, suffix) for role in draw.sample(roles, 2)]
        for role in roles:
            for name, content in damages(whole, draw):
                found.append(case(f"bytes, {name} of {kind}", role, content, suffix))
    for name, content in gct_texts(draw):
        for role in draw.sample(ROLES, 2):
            packed = draw.random() < 0.3
            content = gzip.compress(content, mtime=0) if packed else content
            found.append(case(f"GCT, {name}", role, content, ".gct.gz" if packed else ".gct"))
    draw.shuffle(found)
    return found
