"""Hostile molecules, paths and sizes: what RDKit cannot bear, what is no regular file, and what no machine holds."""

import gzip
import random
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pyarrow as pa

from benchmarks.faults.roles import DATA, GENES, ROLES, RUN, case, csv_of, parquet_of, training
from benchmarks.faults.runner import FIFO, LINK, SOCKET, SPARSE, Case

# --- molecules --------------------------------------------------------------------------------------------------

MOLECULES = {
    "20,000 atoms": "C" * 20_000,
    "200,000 atoms": "C" * 200_000,
    "1,900 atoms": "C" * 1900,
    "nested 3,000": "C(" * 3000 + "C" + ")" * 3000,
    "nested 100,000": "C(" * 100_000,
    "nested 60": "C(" * 60 + "C" + ")" * 60,
    "side by side": "C" + "(C)" * 3000,
    "open parentheses": "(" * 1000,
    "closed parentheses": ")" * 1000,
    "500 rings": "C1CC1" * 500,
    "rings that stay open": "".join(f"C%{k}" for k in range(10, 100)),
    "ring of %(100)": "C%(100)CC%(100)",
    "ring of %(99999)": "C%(99999)CC%(99999)",
    "5,000 fragments": ".".join(["C"] * 5000),
    "fused aromatic rings": "c1ccc2" + "c3ccc2" * 40 + "ccc1",
    "long aromatic ring": "c1" + "c" * 500 + "1",
    "odd aromatic ring": "c1cccc1",
    "300 double bonds": "C=" * 300 + "C",
    "300 stereo bonds": "F/C=C/" * 300 + "F",
    "400 stereo centres": "[C@H](F)(Cl)" * 400,
    "cube": "C12C3C4C1C5C2C3C45",
    "bonds of five": "C(C)(C)(C)(C)C",
    "isotope": "[999999999999C]",
    "charge": "[C+999999999999]",
    "many pluses": "[C" + "+" * 5000 + "]",
    "hydrogens": "[CH99]",
    "atom map": "[C:99999999999999]",
    "no element": "[Xx]",
    "element 0": "*" * 100,
    "open bracket": "[" * 2000,
    "digits": "C" + "1" * 2000,
    "long number": "C%" + "9" * 5000,
    "reaction": "CCO>>CC=O",
    "with a name": "CCO ethanol",
    "with an extension": "CCO |$a;b;c$|",
    "with coordinates": "CCO |(0,0,;1,0,;1e400,0,)|",
    "query": "[#6]~[!C;R]",
    "InChI": "InChI=1S/CH4/h1H4",
    "bytes": "C\x00O",
    "escape": "C\x1b[31mO",
    "lines": "C\nO",
    "markup": "[/x]",
    "other letters": "Ｃ\u202eО",
    "polymer": "{[]CC[]}",
    "dative bonds": "N->[Pt]<-N",
    "ring bonds that differ": "C=1CC-1",
    "itself": "C11",
    "a dendrimer": "C" + "(C(C)(C)C)" * 300,
    "metals": "[U]" * 150,
    "radicals": "[CH2]" * 150,
    "a cage": "".join(f"C{k}" for k in range(1, 10)) * 2,
    "salts": ".".join(["[Na+]", "[Cl-]"] * 1000),
    "spaces": " " * 100_000,
    "quoted": '"CCO',
}


def molecules() -> Iterator[Case]:
    """Yield tables with a hostile SMILES in one row."""
    for name, smiles in MOLECULES.items():
        for role in ("train", "screen", "pairs", "batch"):
            frame = ROLES[role][1]()
            frame.loc[frame.index[1], ["sm_name", "SMILES"]] = ["other", smiles]
            frame.loc[frame["sm_name"] == frame["sm_name"].iloc[1], "SMILES"] = smiles
            yield case(f"SMILES, {name}", role, parquet_of(frame), ".parquet")


# --- places and sizes ---------------------------------------------------------------------------------------------

ODD = {
    **{"pipe": FIFO, "socket": SOCKET, "terabyte": SPARSE, "folder/": b"", "empty": b""},
    **{
        "dangling": f"{LINK}nowhere",
        "circle": f"{LINK}circle@",
        "zero": f"{LINK}/dev/zero",
        "full": f"{LINK}/dev/full",
    },
    **{"null": f"{LINK}/dev/null", "terminal": f"{LINK}/dev/tty", "memory": f"{LINK}/proc/self/mem"},
    **{
        "process": f"{LINK}/proc/self/environ",
        "password": f"{LINK}/etc/passwd",
        "input": f"{LINK}/dev/stdin",
    },
}
PATHS = (
    *(
        "/dev/zero",
        "/dev/full",
        "/dev/null",
        "/dev/stdin",
        "/proc/self/mem",
        "/",
        ".",
        "",
        "missing.csv",
        "-",
        "~/x.csv",
    ),
    *(
        "x" * 300 + ".csv",
        "x/" * 3000 + "a.csv",
        "[/x].csv",
        "\x1b[31mred.csv",
        "a\nb.parquet",
        "\udcff.csv",
        "y" * 100_000,
    ),
    *(
        "train.csv/",
        "train.csv/x.csv",
        "http://127.0.0.1:9/x.csv",
        "s3://x/y.parquet",
        "file:///etc/passwd",
        "id_map.csv*",
    ),
)


def places(draw: random.Random) -> Iterator[Case]:
    """Yield paths that name no regular file, or a name that is none."""
    for role in ROLES:
        for name, content in ODD.items():
            suffix = draw.choice((".csv", ".parquet", ".h5ad", ".csv.gz", ".gct", ".txt"))
            bare, end = name.removesuffix("/"), "/" if name.endswith("/") else ""
            content = content.replace("circle@", f"circle{suffix}") if isinstance(content, str) else content
            made = case(f"no file, {bare}", role, b"", suffix, bare)
            files = {key: one for key, one in made.files.items() if key != f"{bare}{suffix}"}
            yield made._replace(files={**files, f"{bare}{suffix}{end}": content})
        argv, _ = ROLES[role]
        for path in draw.sample(PATHS, 8):
            yield Case(f"no file, a path: {role}", [path if word == "@" else word for word in argv], DATA)


def zipped(head: bytes, repeated: bytes, times: int) -> bytes:
    """Return a gzip file of `head` and then `repeated`, `times` times; its checksum, the last thing read, is wrong."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    start = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)  # after a full flush a block needs nothing before it
    block = packer.compress(repeated) + packer.flush(zlib.Z_FULL_FLUSH)
    return b"\x1f\x8b\x08" + bytes(5) + b"\x02\xff" + start + block * times + b"\x03\x00" + bytes(8)


def claims(rows: int, draw: random.Random) -> bytes:
    """Return a Parquet file whose footer says that it has so many rows."""
    whole = parquet_of(training(), compression="none")
    (length,) = struct.unpack("<I", whole[-8:-4])
    footer = bytearray(whole[-8 - length : -8])
    # Thrift's compact protocol: zigzag varints; 32 rows are 0x40, wherever they stand.
    many, n = b"", 2 * rows
    while n:
        many += bytes([n & 0x7F | (0x80 if n > 0x7F else 0)])
        n >>= 7
    places = [k for k in range(len(footer)) if footer[k] == 0x40 and footer[k - 1] in (0x16, 0x15)]
    for place in sorted(
        draw.sample(places, draw.randint(1, len(places))) if draw.random() < 0.7 else places, reverse=True
    ):
        footer[place : place + 1] = many
    return whole[: -8 - length] + bytes(footer) + struct.pack("<I", len(footer)) + b"PAR1"


def sizes(draw: random.Random) -> Iterator[Case]:
    """Yield files that are more than a machine holds, or say that they are."""
    head, million = csv_of(training()), b"B,ethanol,CCO,1.5,2.5,3.5\n" * 40_000
    bombs = {
        "rows": zipped(head, million, 2500),
        "one line": zipped(head[:-1], b"9" * 2**20, 3000),
        "one quote": zipped(head + b'"', b"\n" * 2**20, 3000),
        "NULs": zipped(b"", bytes(2**20), 5000),
        "NULs after": zipped(head, bytes(2**20), 3000),
        "commas": zipped(b"cell_type", b"," * 2**20, 3000),
        "columns": zipped(b"", b"".join(b"g%06d," % k for k in range(100_000)), 1500),
        "twice packed": gzip.compress(zipped(head, million, 100), mtime=0),
    }
    for role in ROLES:
        for name in draw.sample([*bombs], 3):
            yield case(f"sizes, gzip bomb of {name}", role, bombs[name], ".csv.gz")
        for rows in (10**6, 10**12, 2**62):
            yield case("sizes, rows that are not there", role, claims(rows, draw), ".parquet")
    wide = pd.DataFrame(np.random.default_rng(0).normal(size=(6, 30_000)).astype("float32"))
    wide = pd.concat(
        [training().iloc[[0, 1, 8, 9, 16, 17], :3].reset_index(drop=True), wide.add_prefix("G")], axis=1
    )
    flat = pa.table({name: pa.array(np.zeros(30_000_000, np.float32)) for name in GENES}).append_column(
        "cell_type", pa.array(["B"]).take(pa.array(np.zeros(30_000_000, np.int32)))
    )
    million_rows = parquet_of(
        flat.append_column("sm_name", flat["cell_type"]), use_dictionary=["cell_type", "sm_name", *GENES]
    )
    for role in ("train", "cv", "screen", "truth"):
        yield case("sizes, 30,000 genes", role, parquet_of(wide), ".parquet")
        yield case("sizes, 30,000 genes", role, csv_of(wide), ".csv")
        yield case("sizes, 30,000,000 rows of nothing", role, million_rows, ".parquet")
        yield case("sizes, a cell of 20 MB", role, head.replace(b"ethanol", b"e" * 20_000_000, 1), ".csv")
        yield case("sizes, a name of 20 MB", role, head.replace(b"A1BG", b"e" * 20_000_000, 1), ".csv")
        yield case("sizes, a SMILES of 20 MB", role, head.replace(b"CCO", b"C" * 20_000_000, 1), ".csv")
        yield case(
            "sizes, 200,000 names",
            role,
            head.replace(b"A1BG", b",".join(b"x" * 100 for _ in range(200_000)), 1),
            ".csv",
        )
    for name in ("genes.txt", "columns.toml"):
        option = {"genes.txt": "--genes", "columns.toml": "--columns"}[name]
        for content in (
            b"e" * 20_000_000,
            FIFO,
            SPARSE,
            b"\xff" * 100,
            b"A1BG\nA1BG\n",
            b"\x1b[31m\n",
            b"[/x]\n",
            b"\0\n",
        ):
            yield Case(f"lists, {option}", [*RUN, option, f"bad-{name}"], {**DATA, f"bad-{name}": content})


def cases(seed: int = 0) -> list[Case]:
    """Return all cases, in an order that the seed determines."""
    draw = random.Random(seed)
    found = [*molecules(), *places(draw), *sizes(draw)]
    draw.shuffle(found)
    return found
