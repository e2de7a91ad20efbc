"""Hostile settings: recipes, feature sets, columns.toml, options and names, none of which may do more than be refused.

Every number, name and word that a person can give is tried in its place with what does not belong there. What a command
may do then is the same for all (`benchmarks.faults.runner`): work, or refuse it in one line.
"""

import json
import random
from collections.abc import Iterator, Mapping

from benchmarks.faults.plain_files import (
    BLOCK,
    BOOSTER,
    CV,
    DATA,
    DEMO,
    KERNEL,
    RUN,
    SCREEN,
    SVR,
    TUNE,
    cell_of,
    composite,
    feature_set,
    lines_of,
    member,
    pairs,
    recipe,
    statistics,
    table,
)
from benchmarks.faults.runner import FIFO, Case

# --- numbers ----------------------------------------------------------------------------------------------

NUMBERS = (
    "nan inf -inf 1e300 -1e300 1e-300 5e-324 1e308 1e400 0 0.0 -0.0 -1 -1e-9 0.5 1e12 1_000_000_000_000 1000000000 "
    f"9223372036854775807 18446744073709551616 true [] {{}} 1979-05-27 '' '1' 'inf' {'9' * 5000} {'9' * 4000} "
    f"0x{'f' * 5000} {'1' * 400} {'9' * 310}.0 0.{'0' * 5000}1"
).split()
"""TOML values where a number belongs."""


def numbers(draw: random.Random, each: int = 6) -> Iterator[Case]:
    """Yield runs whose recipe has a hostile number in one place."""

    def run(kind: str, text: str) -> Case:
        return Case(kind, [*RUN, "--recipe", "mine.toml"], {**DATA, "mine.toml": text})

    def booster(**settings: str) -> str:
        return member("booster", features="'onehot_loo'", **settings)

    for name in SVR:
        for value in draw.sample(NUMBERS, each):
            yield run(f"settings: numbers, svr.{name}", recipe(member("svr", **(SVR | {name: value}))))
    for name in BOOSTER:
        for value in draw.sample(NUMBERS, each):
            yield run(f"settings: numbers, booster.{name}", recipe(booster(**(BOOSTER | {name: value}))))
    for name in KERNEL:
        for value in draw.sample(NUMBERS, each):
            yield run(f"settings: numbers, composite.{name}", recipe(composite(KERNEL | {name: value})))
    for value in NUMBERS:
        yield run("settings: numbers, composite.weights", recipe(composite(weights=f"tanimoto = {value}\n")))
        yield run(
            "settings: numbers, composite.weights",
            recipe(composite(weights=f"tanimoto = {value}\ncell_type = {value}\n")),
        )
    for name in ("weight", "use", "teacher"):
        for value in draw.sample(NUMBERS, each):
            labels = lines_of({"use": "'on'", name: value}).replace("\n", ", ").rstrip(", ")
            yield run(
                f"settings: numbers, pseudo_labels.{name}",
                recipe(member("svr", pseudo_labels=f"{{ {labels} }}")),
            )
    for name in ("n_folds", "name", "description", "members", "blend"):
        for value in draw.sample(NUMBERS, each):
            head = lines_of({"name": "'mine'", name: value})
            yield run(
                f"settings: numbers, recipe.{name}",
                recipe(*([] if name == "members" else [member("svr")]), head=head),
            )
    for name in BLOCK:
        for value in draw.sample(NUMBERS, each):
            files = {**DATA, "mine.toml": statistics(**{name: value})}
            yield Case(
                f"settings: numbers, features.{name}",
                [*SCREEN[:-4], "--features", "mine.toml", "--folds", "2"],
                files,
            )


# --- shapes of files --------------------------------------------------------------------------------------


def shapes() -> Iterator[Case]:
    """Yield files that are no recipe, feature set or columns.toml, and such as are too much of one."""
    onehot = "[[blocks]]\nkind = 'onehot'\ncolumn = 'cell_type'\n"
    blocks = "".join(
        f"[[blocks]]\nkind = 'molecules'\nencoder = 'morgan'\nn_components = {k}\n" for k in range(1, 5001)
    )
    members = [member("svr", name=f"'m{k}'") for k in range(3000)]
    names = [f"a{k}" for k in range(300)]
    booster = "kind = 'booster'\nfeatures = 'boosting'\n"
    texts: dict[str, bytes | str] = {
        "empty": "",
        "no TOML": "name = ",
        "binary": bytes(range(256)) * 20,
        "UTF-16": "name = 'x'\n".encode("utf-16"),
        "BOM": b"\xef\xbb\xbfname = 'mine'\n[[members]]\nkind = 'svr'\n",
        "Latin-1": "name = 'caf\u00e9'\n".encode("latin-1"),
        "a JSON": json.dumps({"name": "mine", "members": [{"kind": "svr"}]}),
        "NUL": "name = 'a\0b'\n",
        "carriage returns": "name = 'mine'\r[[members]]\rkind = 'svr'\r",
        "nested arrays": f"name = {'[' * 20_000}{']' * 20_000}\n",
        "nested arrays, open": f"name = {'[' * 100_000}",
        "nested tables": f"name = {'{a=' * 20_000}1{'}' * 20_000}\n",
        "dotted key": ".".join("a" * 50_000) + " = 1\n",
        "dotted quoted key": ".".join(["'a'"] * 50_000) + " = 1\n",
        "dotted header": f"[{'.'.join('a' * 50_000)}]\n" + "".join(f"k{n} = 1\n" for n in range(20_000)),
        "nested values 90 deep": f"name = {'[' * 90}{']' * 90}\n[[members]]\nkind = 'svr'\n",
        "long line": f"name = '{'x' * 900_000}'\n",
        "2 MB": "# nothing\n" * 200_000,
        "30 MB": "a" * 30_000_000,
        "many keys": "".join(f"k{n} = {n}\n" for n in range(50_000)),
        "a key twice": "name = 'x'\nname = 'y'\n",
        "a long key": f"{'k' * 100_000} = 1\n",
        "a key of escapes": '"\\u001b[31m\\u0007" = 1\n',
        "unicode escape": 'name = "\\ud800"\n',
        "escape of nothing": 'name = "\\x"\n',
        "5,000 members": recipe(*members),
        "two alike": recipe(member("svr"), member("svr")),
        "a cycle": recipe(
            *(f"[[members]]\nname = '{a}'\n{booster}stacks_on = ['{b}']\n" for a, b in ("xy", "yx"))
        ),
        "a long cycle": recipe(
            *(
                f"[[members]]\nname = '{name}'\n{booster}stacks_on = ['{names[k - 1]}']\n"
                for k, name in enumerate(names)
            )
        ),
        "on itself": recipe(f"[[members]]\nname = 'x'\n{booster}stacks_on = ['x']\n"),
        "on 100,000": recipe(
            f"[[members]]\n{booster}stacks_on = {json.dumps([f'm{k}' for k in range(80_000)])}\n"
        ),
        "on nothing": recipe(f"[[members]]\n{booster}stacks_on = []\n"),
        "on nested": recipe(f"[[members]]\n{booster}stacks_on = [['x']]\n"),
        "members as a table": "name = 'x'\n[members]\nkind = 'svr'\n",
        "members as text": "name = 'x'\nmembers = 'svr'\n",
        "members of numbers": "name = 'x'\nmembers = [1, 2]\n",
        "members of lists": "name = 'x'\nmembers = [[], [[]]]\n",
        "no members": "name = 'x'\nmembers = []\n",
        "a kind that is a list": "name = 'x'\n[[members]]\nkind = ['svr']\n",
        "a kind that is a table": "name = 'x'\n[[members]]\nkind = { a = 1 }\n",
        "features as a list": recipe(member("svr", features="[]")),
        "features as a number": recipe(member("svr", features="7")),
        "features as an empty table": recipe(member("svr", features="{}")),
        "features of no blocks": recipe(member("svr", features="{ name = 'x', blocks = [] }")),
        "features with 5,000 blocks": recipe(
            member("svr", features=f"{{ name = 'x', blocks = [{'{kind = 1},' * 5000}] }}")
        ),
        "no weights": recipe(composite(weights="")),
        "10,000 weights": recipe(composite(weights="".join(f"'rbf(e{k})' = 1.0\n" for k in range(10_000)))),
        "a product of 50,000": recipe(composite(weights=f"'{' * '.join(['tanimoto'] * 50_000)}' = 1.0\n")),
        "a factor of 100,000": recipe(composite(weights=f"'{'x' * 100_000}' = 1.0\n")),
        "a power of 5,000 digits": recipe(composite(weights=f"'tanimoto^{'9' * 5000}' = 1.0\n")),
        "a factor of brackets": recipe(composite(weights=f"'rbf({'(' * 10_000}' = 1.0\n")),
        "weights as a list": recipe(member("composite", known_compounds="[]", new_compounds="[]")),
        "a composite of nothing": recipe(member("composite")),
        "known": recipe(member("composite", known="{}")),
        "5,000 blocks": feature_set(blocks),
        "50,000 blocks alike": feature_set(onehot * 20_000),
        "20,000 statistics": statistics(
            statistics=json.dumps([f"quantile_0.{k:05d}" for k in range(1, 20_000)])
        ),
        "one statistic 20,000 times": statistics(statistics=json.dumps(["mean"] * 20_000)),
        "no statistics": statistics(statistics="[]"),
        "quantile 2": statistics(statistics="['quantile_2']"),
        "quantile nan": statistics(statistics="['quantile_nan']"),
        "quantile of 5,000 digits": statistics(statistics=f"['quantile_0.{'9' * 5000}']"),
        "a statistic of markup": statistics(statistics="['[/x]']"),
        "a column of markup": feature_set("[[blocks]]\nkind = 'onehot'\ncolumn = '[/x]'\n"),
        "a kind of markup": feature_set("[[blocks]]\nkind = '[/x]'\n"),
        "an encoder of markup": feature_set("[[blocks]]\nkind = 'molecules'\nencoder = '[/x]'\n"),
        "an empty encoder": feature_set("[[blocks]]\nkind = 'molecules'\nencoder = ''\n"),
        "an encoder of 5,000": feature_set(f"[[blocks]]\nkind = 'molecules'\nencoder = '{'x' * 5000}'\n"),
        "an engine of markup": recipe(member("svr", engine="'[/x]'")),
        "an engine of 100,000": recipe(member("svr", engine=f"'{'x' * 100_000}'")),
        "an empty engine": recipe(member("svr", engine="''")),
        "a feature file of 300": recipe(member("svr", features=f"'{'x' * 300}.toml'")),
        "a feature file of 5,000": recipe(member("svr", features=f"'{'x' * 5000}.toml'")),
        "a feature file with NUL": recipe(member("svr", features='"a\\u0000.toml"')),
        "itself as a feature file": recipe(member("svr", features="'mine.toml'")),
        "a feature file above": recipe(member("svr", features="'../../../etc/passwd.toml'")),
        "columns as text": "columns = 'x'\n",
        "columns of numbers": "[columns]\ncell_type = 7\n",
        "columns without meaning": "[columns]\n'[/x]' = 'cell_type'\n",
        "a long meaning": f"[columns]\n{'k' * 100_000} = 'cell_type'\n",
        "columns of markup": "[columns]\ncell_type = '[/x]'\n",
        "a long column": f"[columns]\ncell_type = '{'k' * 100_000}'\n",
    }
    for kind, content in texts.items():
        for argv in (["recipes"], ["features"], [*RUN, "--columns"]):
            yield Case(f"settings: shapes, {kind}", [*argv, "mine.toml"], {**DATA, "mine.toml": content})


def places(draw: random.Random, each: int = 7) -> Iterator[Case]:
    """Yield paths that are no regular files, or name none that can be."""
    odd: dict[str, Mapping[str, bytes | str]] = {
        **{
            "/dev/zero": {},
            "/dev/full": {},
            "/dev/null": {},
            "/proc/self/mem": {},
            "missing.toml": {},
            "/": {},
        },
        **{
            ".": {},
            "": {},
            "~nobody/x.toml": {},
            "a\0b.toml": {},
            f"{'x' * 300}.toml": {},
            f"{'x/' * 3000}a.toml": {},
        },
        **{
            "[/x].toml": {},
            "\x1b[31mred.toml": {},
            "a\nb.toml": {},
            "x" * 100_000: {},
            "\udcff.toml": {},
            "-": {},
        },
        "pipe.toml": {"pipe.toml": FIFO},
        "folder.toml": {"folder.toml/": b""},
        "empty.toml": {"empty.toml": b""},
        "train.csv": {},
    }
    options = [
        *(["recipes"], ["features"], [*RUN, "--columns"], [*RUN, "--recipe"], [*RUN, "--svr-features"]),
        *([*RUN, "--boosting-features"], [*RUN, "--molecules"], [*RUN, "--genes"]),
        *([*CV, "--recipe"], [*TUNE, "--recipe"], [*SCREEN, "--features"], [*DEMO, "--recipe"]),
    ]
    for path, files in odd.items():
        if "\0" in path:  # no argument of a program has one
            continue
        for argv in draw.sample(options, each):
            yield Case(f"settings: places, {argv[0]} {argv[-1]}", [*argv, path], {**DATA, **files})


# --- options ----------------------------------------------------------------------------------------------

WORDS = (
    *(
        "0",
        "-1",
        "1",
        "2",
        "1000000000",
        "1e9",
        "18446744073709551616",
        "9" * 5000,
        "nan",
        "inf",
        "-inf",
        "1e300",
    ),
    *(
        "1e-300",
        "0x10",
        "1_0",
        "",
        " ",
        "[/x]",
        "[red]",
        "\x1b[31m",
        "x" * 100_000,
        "1,2",
        "\N{FULLWIDTH DIGIT ONE}",
    ),
)
OPTIONS = {
    "run": "--folds --seed --device --engine --boosting-engine --layer --metadata-columns --column --replicates "
    "--combine --gene-column --out --quick",
    "cv": "--folds --repeats --seed --split --device",
    "screen": "--folds --repeats --seed --split --target --search --model --reference --out",
    "tune": "--minutes --trials --seed --split",
    "demo": "--genes --seed --device --out",
    "predict": "--block-rows --doses --times --draw --out --model --pairs",
    "submit": "--combine --float-format --dataset-id --method-id --out --run --check",
    "evaluate": "--prediction --truth --train",
    "start": "--demo-genes --seed --data --out",
    "doctor": "--device",
}
COMMANDS = {
    **{"run": RUN, "cv": CV, "screen": SCREEN, "tune": TUNE, "demo": DEMO, "doctor": ["doctor"]},
    "predict": "predict --model out --pairs id_map.csv --out predicted.csv".split(),
    "submit": "submit --run out --out submission.csv".split(),
    "evaluate": "evaluate --prediction out/submission.csv --truth train.csv".split(),
    "start": "start --data none --out out --quick --device cpu --molecules morgan --demo-genes 3".split(),
}


def options(draw: random.Random, each: int = 5) -> Iterator[Case]:
    """Yield commands with a hostile word after one option."""
    for command, names in OPTIONS.items():
        for option in names.split():
            for word in draw.sample(WORDS, each):
                quick = ["--quick"] if command == "run" else []
                yield Case(f"options: {command} {option}", [*COMMANDS[command], *quick, option, word], DATA)


# --- names ------------------------------------------------------------------------------------------------

NAMES = (
    *("[/x]", "[red]", "[bold]x", "[link=file:///etc/passwd]x", "[/]", "\\[x]", ":smile:", "[@click=quit]x"),
    *(
        "\x1b[31m",
        "\x1b]0;x\x07",
        "\x9b31m",
        "\x07",
        "\x00",
        "\u202eabc",
        "a\nb",
        "a\rb",
        "a\tb",
        "\u200b",
        "\ufeff",
    ),
    *(
        "x" * 256,
        "x" * 5000,
        "x" * 100_000,
        "../../x",
        "/etc/passwd",
        "a/b",
        ".",
        "..",
        "",
        " ",
        " x ",
        "con",
        "nul",
    ),
    *(
        "pipeline",
        "zeros",
        "mean_outcome",
        "svr_shared",
        "svr_shared_pseudo",
        "blend",
        "__class__",
        "id",
        "cell_type",
    ),
    *(
        "<script>alert(1)</script>",
        '"onmouseover="alert(1)',
        "</script><b>",
        "{{7*7}}",
        "{% x %}",
        "{0.__class__}",
    ),
    *(
        "$x^2$",
        "$\\frac{",
        "%s%n",
        "%(x)s",
        "\U0001f600",
        "e" + "\u0301" * 2000,
        "\ufffe",
        "-x",
        "--help",
        "=1+1",
    ),
)


def names(draw: random.Random, each: int = 14) -> Iterator[Case]:
    """Yield commands with hostile names in recipes, feature sets, data, files and folders."""
    for name in draw.sample(NAMES, min(each, len(NAMES))):
        text = json.dumps(name, ensure_ascii=False).replace("\x7f", "\\u007f")
        # TOML has \u escapes only for what is no control character; JSON escapes those below 0x20 as TOML does.
        heads = recipe(member("svr"), head=f"name = {text}\nn_folds = 3\n")
        described = recipe(member("svr"), head=f"name = 'x'\ndescription = {text}\nn_folds = 3\n")
        called = recipe(member("svr", name=text, **SVR))
        sets, told = feature_set(name=text), feature_set(description=text)
        yield Case("names: recipe", ["recipes", "mine.toml"], {"mine.toml": heads})
        yield Case("names: description", ["recipes", "mine.toml"], {"mine.toml": described})
        yield Case("names: member", [*RUN, "--recipe", "mine.toml"], {**DATA, "mine.toml": called})
        yield Case("names: feature set", ["features", "mine.toml"], {"mine.toml": sets})
        yield Case("names: feature set's words", ["features", "mine.toml", "--toml"], {"mine.toml": told})
        screened = [*SCREEN[:-4], "--features", "mine.toml,onehot", "--folds", "2"]
        yield Case("names: screened set", screened, {**DATA, "mine.toml": sets})
        for what in ("cell", "compound", "gene"):
            data = {"train.csv": table(**{what: name})}
            data["id_map.csv"] = pairs(**({} if what == "gene" else {what: name}))
            yield Case(f"names: {what}", [*RUN, "--quick"], data)
            argv = [*SCREEN[:-1], name if what == "gene" and "," not in name and "\0" not in name else "G2"]
            yield Case(f"names: {what}, screen", argv, data)
            yield Case(f"names: {what}, cv", CV, data)
        yield Case("names: id", [*RUN, "--quick"], {**DATA, "id_map.csv": pairs(key=name)})
        if "\0" not in name:
            yield Case("names: out", [*RUN, "--quick", "--out", name], DATA)
            yield Case("names: screen's out", [*SCREEN, "--out", name], DATA)
            column = table().replace("cell_type", cell_of(name), 1)
            yield Case(
                "names: column",
                [*RUN, "--quick", "--column", f"cell_type={name}"],
                {**DATA, "train.csv": column},
            )
        if len(name) < 200 and "/" not in name and "\0" not in name and name not in ("", ".", ".."):
            files = {f"{name}.csv": table(), "id_map.csv": pairs()}
            yield Case(
                "names: file",
                [f"{name}.csv" if word == "train.csv" else word for word in [*RUN, "--quick"]],
                files,
            )


def cases(seed: int = 0) -> list[Case]:
    """Return all cases in an order that a seed determines, 1,000 of them and more."""
    draw = random.Random(seed)
    found = [*numbers(draw), *shapes(), *places(draw), *options(draw), *names(draw)]
    draw.shuffle(found)
    return found
