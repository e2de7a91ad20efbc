"""Files and commands that nothing is wrong with, for hostile settings to stand in."""

from collections.abc import Mapping

CELLS = "BNTM"
COMPOUNDS = {
    **{
        "ethanol": "CCO",
        "benzene": "c1ccccc1",
        "propane": "CCC",
        "water": "O",
        "methane": "C",
        "phenol": "Oc1ccccc1",
    },
    **{"pyridine": "c1ccncc1", "urea": "NC(N)=O"},
}


def table(cell: str = "B", compound: str = "ethanol", gene: str = "G1") -> str:
    """Return a training file of 32 rows and 3 genes, one cell type, one compound and one gene named so."""
    lines = [f"cell_type,sm_name,SMILES,{cell_of(gene)},G2,G3"]
    cells = [cell, *CELLS[1:]]
    names = {compound if name == "ethanol" else name: smiles for name, smiles in COMPOUNDS.items()}
    for i, one in enumerate(cells):
        for j, (name, smiles) in enumerate(names.items()):
            numbers = f"{i - j + i * j / 7:.3f},{(i * 3 + j * 5) % 7},{j - 1.5 + i / 3:.3f}"
            lines.append(f"{cell_of(one)},{cell_of(name)},{smiles},{numbers}")
    return "\n".join(lines) + "\n"


def cell_of(text: str) -> str:
    """Return a text as a cell of a CSV file."""
    quoted = text.replace('"', '""')
    return f'"{quoted}"'


def pairs(cell: str = "B", compound: str = "ethanol", key: str = "0") -> str:
    """Return the pairs to predict of such a training file."""
    return f"id,cell_type,sm_name\n{cell_of(key)},{cell_of(cell)},{cell_of(compound)}\n1,T,benzene\n"


DATA = {"train.csv": table(), "id_map.csv": pairs()}
RUN = "run --train train.csv --test id_map.csv --out out --molecules morgan --device cpu".split()
CV = "cv --train train.csv --out out --molecules morgan --device cpu --quick --folds 2 --split random".split()
SCREEN = (
    "screen --train train.csv --out out --molecules morgan --features onehot --folds 2 --target G1".split()
)
TUNE = "tune --train train.csv --out out --molecules morgan --device cpu --trials 1 --split random".split()
TUNE += ["--minutes", "0.02"]
DEMO = "demo --data-only --genes 3 --out out".split()

SVR = {"C": "1.0", "epsilon": "0.1", "gamma": "'scale'", "tol": "0.01", "max_iter": "100"}
BOOSTER = {
    **{"n_components": "2", "n_estimators": "2", "learning_rate": "0.1", "max_depth": "2", "n_seeds": "1"},
    **{
        "min_samples_leaf": "1",
        "colsample": "0.5",
        "subsample": "1.0",
        "reg_lambda": "1.0",
        "max_bins": "16",
    },
    **{"early_stopping_rounds": "1", "encoder_sigma": "0.2", "transform_scale": "2.0"},
}
KERNEL = {
    **{"profile_shrinkage": "1.0", "dose_length": "0.5", "time_length": "0.5", "transform_scale": "2.0"},
    **{
        "n_components": "2",
        "penalty": "1.5",
        "penalty_growth": "1.0",
        "epsilon": "0.0",
        "noise_exponent": "0.1",
    },
    **{"tol": "0.01", "max_iter": "100"},
}
BLOCK = {"smoothing": "0.0", "n_folds": "2", "n_components": "1"}


def lines_of(settings: Mapping[str, str]) -> str:
    """Return lines of TOML."""
    return "".join(f"{name} = {value}\n" for name, value in settings.items())


def member(kind: str, **settings: str) -> str:
    """Return a recipe's table of a member."""
    return f"[[members]]\nkind = '{kind}'\n{lines_of(settings)}"


def recipe(*members: str, head: str = "name = 'mine'\nn_folds = 3\n") -> str:
    """Return a recipe."""
    return head + "".join(members)


def composite(
    settings: Mapping[str, str] = KERNEL, weights: str = "cell_type = 1.0\ntanimoto = 1.0\n"
) -> str:
    """Return a composite member whose model of known compounds has these settings."""
    return (
        f"[[members]]\nkind = 'composite'\n[members.known_compounds]\n{lines_of(settings)}"
        f"[members.known_compounds.weights]\n{weights}[members.new_compounds.weights]\ntanimoto = 1.0\n"
    )


def feature_set(blocks: str = "", name: str = "'mine'", description: str = "''") -> str:
    """Return a feature set, by default of one block."""
    head = f"name = {name}\ndescription = {description}\n"
    return head + (blocks or "[[blocks]]\nkind = 'onehot'\ncolumn = 'cell_type'\n")


def statistics(**settings: str) -> str:
    """Return a feature set with a block of statistics."""
    return feature_set(
        "[[blocks]]\nkind = 'onehot'\ncolumn = 'cell_type'\n"
        f"[[blocks]]\nkind = 'statistics'\ncolumn = 'sm_name'\n{lines_of(BLOCK | settings)}"
    )
