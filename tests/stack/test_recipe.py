"""Recipes: shown, copied, changed, and refused with the key that is wrong."""

import tomllib

import pytest

from features.feature_sets import FEATURE_SETS
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.stack.changes import RecipeChanges, changed_recipe, run_config
from rapids_pipeline.stack.members.booster import BoosterMember
from rapids_pipeline.stack.members.composite import CompositeMember
from rapids_pipeline.stack.members.kernel_model import KernelModelConfig
from rapids_pipeline.stack.members.svr import SvrMember
from rapids_pipeline.stack.named_recipes import RECIPES, recipe
from rapids_pipeline.stack.recipe import Recipe, RunConfig, to_toml


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_comes_back_from_its_toml(name, tmp_path):
    (tmp_path / "copy.toml").write_text(to_toml(RECIPES[name]))
    assert recipe(tmp_path / "copy.toml") == recipe(name) == RECIPES[name]
    sets = [member.get("features", "none") for member in tomllib.loads(to_toml(RECIPES[name]))["members"]]
    assert not {x["name"] for x in sets if isinstance(x, dict)} & set(FEATURE_SETS), "named, not spelt out"


def test_composite_members_come_back_from_toml_to_the_last_bit(tmp_path):
    known = {"tanimoto^2 * cell_type": 0.1 + 0.2, "correlation * profile_linear": 1e-7, "compound": 0.0}
    new = KernelModelConfig(
        weights={"rbf(molecules)": 1 / 3}, engine="smo", epsilon=0.1, max_iter=7, tol=1e-5
    )
    member = CompositeMember(
        name="mine", known_compounds=KernelModelConfig(weights=known, targets="genes"), new_compounds=new
    )
    changed = RECIPES["best"].with_members(member)
    (tmp_path / "copy.toml").write_text(to_toml(changed))
    found = recipe(tmp_path / "copy.toml")
    assert found == changed
    assert list(found.members[0].known_compounds.weights) == list(known), "and in their order"


def test_the_published_recipe_has_the_published_settings():
    *svrs, boosting = RECIPES["published"].members
    assert [(svr.kind, svr.name, svr.C, svr.epsilon, svr.gamma) for svr in svrs] == [
        ("svr", "svr_shared", 1.0, 0.1, "scale"),
        ("own_target_svr", "svr_per_target", 1.0, 0.1, "scale"),
    ]
    assert (boosting.n_estimators, boosting.learning_rate, boosting.max_depth) == (1000, 0.01, 10)
    assert (boosting.colsample, boosting.min_samples_leaf, boosting.encoder_sigma) == (0.2, 1, 0.21)
    assert (RECIPES["published"].n_folds, boosting.n_components) == (5, 45)
    assert boosting.features.name == "boosting_aggregates" and boosting.pseudo_labels.use == "auto"


MINE = """name = "mine"
[[members]]
kind = "svr"
C = 2.0
features = "onehot"
[[members]]
kind = "booster"
name = "trees"
stacks_on = ["onehot"]
pseudo_labels = { teacher = ["onehot"], weight = 0.5 }
"""


def test_a_changed_recipe_keeps_the_rest(tmp_path):
    (tmp_path / "mine.toml").write_text(MINE)
    mine = recipe(tmp_path / "mine.toml")
    svr, trees = mine.members
    assert (svr.name, svr.C, svr.epsilon) == ("onehot", 2.0, 0.1)
    labels = {"teacher": ("onehot",), "weight": 0.5, "use": "auto"}
    assert trees == BoosterMember(name="trees", stacks_on=("onehot",), pseudo_labels=labels)
    assert recipe(tmp_path / "mine.toml") == mine and [form.name for form in mine.forms] == [
        "onehot",
        "trees",
        "trees_pseudo",
    ]
    changes = RecipeChanges(folds=4, engine="sklearn", svr_features="svr_shared,svr_per_target")
    changed = changed_recipe(mine, changes)
    shared, own, trees = changed.members
    assert (shared.kind, shared.name, shared.C, shared.engine) == ("svr", "svr_shared", 2.0, "sklearn")
    assert (own.kind, own.name, own.C, own.engine) == ("own_target_svr", "svr_per_target", 2.0, "auto")
    assert trees.stacks_on == trees.pseudo_labels.teacher == ("svr_shared", "svr_per_target")
    assert changed.n_folds == 4 and trees.features == mine.members[1].features
    assert changed_recipe(mine, RecipeChanges()) == mine


def test_new_svrs_stand_where_the_old_ones_were_read():
    changed = changed_recipe(RECIPES["quick"], RecipeChanges(svr_features="onehot"))
    assert [member.name for member in changed.members] == ["onehot", "boosting"]
    assert changed.members[1].stacks_on == ("onehot",)


def test_options_of_boosters_change_all_of_them():
    svr = SvrMember()
    both = (BoosterMember(name=name, stacks_on=("svr_shared",)) for name in ("one", "other"))
    two = Recipe(name="two", members=(svr, *both))
    changes = RecipeChanges(boosting_engine="xgboost", boosting_features="boosting_aggregates")
    found = changed_recipe(two, changes)
    assert [(m.engine, m.features.name) for m in found.members[1:]] == [
        ("xgboost", "boosting_aggregates")
    ] * 2
    below = changed_recipe(two, RecipeChanges(boosting_features="onehot_loo"))
    assert {member.stacks_on for member in below.members} == {()}, "these features read no predictions"


def member(kind, more=""):
    return f'name = "x"\n[[members]]\nkind = "{kind}"\n{more}\n'


def above(name, stacks_on, more=""):
    return f'[[members]]\nkind = "booster"\nname = "{name}"\nstacks_on = {stacks_on}\n{more}\n'


SVR = member("svr")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name = ", "not a TOML file"),
        ("n_folds = 5", "name: is missing"),
        ('name = "x"\ncolour = 1\n[[members]]\nkind = "svr"', "colour: there is no such setting"),
        ('name = "x"', "members: is missing"),
        ('name = "x"\nmembers = []', "members: must have at least 1"),
        (
            'name = "x"\n[[members]]\nC = 1',
            r"members\[0\]: no kind of member None; choose among svr, own_target_svr",
        ),
        (member("magic"), r"members\[0\]: no kind of member 'magic'"),
        (
            member("svr", "C = -1"),
            r"members\[0\].C: must be a number from 1e-08 to 1e\+08, not -1: far beyond, all models are alike",
        ),
        (member("svr", "colour = 1"), r"members\[0\].colour: there is no such setting"),
        (member("svr", 'features = "magic"'), r"members\[0\].features: no feature set 'magic'"),
        (member("own_target_svr", 'kernel = "linear"'), "kernel: there is no such setting"),
        (SVR + '[[members]]\nkind = "svr"', "two members are called svr_shared"),
        (
            SVR + above("a", ["svr_shared"], "pseudo_labels = {}") + above("a_pseudo", ["svr_shared"]),
            "two members are called a_pseudo",
        ),
        (SVR + above("a", ["magic"]), "a: there is no member magic; the members are svr_shared, a"),
        (SVR + above("a", ["svr_shared", "svr_shared"]), "a names a member twice"),
        (SVR + above("a", ["a"]), "a stacks on itself"),
        (SVR + above("a", ["b"]) + above("b", ["a"]), "a stacks on b, which itself stacks on others"),
        (
            member("svr", 'pseudo_labels = { use = "on" }') + above("a", ["svr_shared"]),
            "a stacks on svr_shared, whose pseudo_labels are on",
        ),
        (
            SVR + above("a", ["svr_shared"], 'pseudo_labels = { teacher = ["magic"] }'),
            "a: there is no member magic",
        ),
        (
            SVR + above("a", ["svr_shared"], 'pseudo_labels = { use = "maybe" }'),
            r"members\[1\].pseudo_labels.use: must be 'auto', 'on' or 'off', not 'maybe'",
        ),
        (
            SVR + above("a", ["svr_shared"], 'transform = "magic"'),
            r"members\[1\].transform: must be 'none', 'asinh' or 'gene_scale', not 'magic'",
        ),
        (
            SVR
            + """[[members]]
            kind = "composite"
            stacks_on = ["svr_shared"]
            known_compounds = { weights = { tanimoto = 1.0 } }
            new_compounds = { weights = { tanimoto = 1.0 } }""",
            "composite: kind composite reads no predictions, so it cannot stack on others",
        ),
        (
            member("composite", "known = { weights = { tanimoto = 1.0 } }"),
            "known is called known_compounds now; `rapids-perturb recipes best --toml` prints a recipe to copy",
        ),
        *(
            (
                f'name = "x"\n{old}',
                f"{key} is a key of earlier versions, members are listed now; `rapids-perturb",
            )
            for key, old in (
                ("svrs", "[[svrs]]\nC = 1.0"),
                ("kernels", "[[kernels]]"),
                ("boosting", "[boosting]\nn_estimators = 3"),
                ("pseudo_labels", '[pseudo_labels]\nuse = "off"'),
            )
        ),
    ],
)
def test_a_file_that_is_no_recipe_is_refused_by_its_key(tmp_path, text, says):
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(InputError, match=rf"bad.toml: .*{says}"):
        recipe(tmp_path / "bad.toml")


KERNEL = "{ weights = { tanimoto = 1.0 }, SETTING }"
BOUNDS = [
    ("svr", "C", "1e-300", "a number from 1e-08 to 1e+08, not 1e-300: far beyond, all models are alike"),
    ("svr", "epsilon", "1e308", "a number from 0 to 1e+09, not 1e+308: a tube wider than all responses"),
    ("svr", "gamma", "0", "a number from 1e-09 to 1e+09 or 'scale', not 0: far beyond, all models are alike"),
    ("svr", "gamma", "-1", "a number from 1e-09 to 1e+09 or 'scale', not -1"),
    ("svr", "gamma", "inf", "a number from 1e-09 to 1e+09 or 'scale', not inf"),
    ("svr", "gamma", "nan", "a number from 1e-09 to 1e+09 or 'scale', not nan"),
    ("svr", "gamma", "'auto'", "a number from 1e-09 to 1e+09 or 'scale', not 'auto'"),
    ("svr", "tol", "inf", "a number from 1e-12 to 1, not inf: it is a share of what a solution may be off"),
    ("svr", "max_iter", "0", "a whole number from 1 to 1,000,000,000, not 0"),
    ("booster", "n_estimators", "1e12", "a whole number from 1 to 100,000, not 1000000000000.0: all trees"),
    (
        "booster",
        "n_seeds",
        "1000000000",
        "a whole number from 1 to 1,000, not 1,000,000,000: each is a booster",
    ),
    ("booster", "n_components", "1e9", "a whole number from 1 to 100,000 or 'none', not 1000000000.0"),
    ("booster", "learning_rate", "0", "a number from 1e-06 to 1, not 0"),
    ("booster", "learning_rate", "nan", "a number from 1e-06 to 1, not nan"),
    ("booster", "max_depth", "31", "a whole number from 1 to 30, not 31: a tree doubles with each level"),
    ("booster", "max_bins", "257", "a whole number from 3 to 256, not 257: a bin is a byte"),
    ("booster", "min_samples_leaf", "0", "a whole number from 1 to 1,000,000,000, not 0"),
    ("booster", "colsample", "1.5", "a number from 1e-06 to 1, not 1.5: it is a share of the columns"),
    ("booster", "subsample", "0", "a number from 1e-06 to 1, not 0: it is a share of the rows"),
    ("booster", "reg_lambda", "inf", "a number from 0 to 1e+09, not inf"),
    ("booster", "encoder_sigma", "-1", "a number from 0 to 100, not -1"),
    ("booster", "early_stopping_rounds", "0", "a whole number from 1 to 100,000, not 0"),
    ("booster", "transform_scale", "1e300", "a number from 0.001 to 1000, not 1e+300: it counts root mean"),
    ("composite", "penalty", "0", "a number from 1e-08 to 1e+08, not 0: far beyond, all models are alike"),
    ("composite", "penalty_growth", "11", "a number from 0 to 10, not 11: it is an exponent"),
    ("composite", "n_components", "0", "a whole number from 1 to 100,000, not 0"),
    ("composite", "dose_length", "0", "a number from 0.001 to 1000, not 0: it counts decades"),
    ("composite", "time_length", "1e300", "a number from 0.001 to 1000, not 1e+300: it counts decades"),
    ("composite", "profile_shrinkage", "nan", "a number from 0 to 1e+06, not nan: it counts rows"),
    ("composite", "noise_exponent", "2", "a number from 0 to 1, not 2"),
]


@pytest.mark.parametrize(("kind", "setting", "value", "says"), BOUNDS)
def test_every_number_has_bounds(tmp_path, kind, setting, value, says):
    more = f"{setting} = {value}"
    place = "members[0]." + ("known_compounds." * (kind == "composite")) + setting
    if kind == "composite":
        kernels = KERNEL.replace("SETTING", more), KERNEL.replace(", SETTING", "")
        more = f"known_compounds = {kernels[0]}\nnew_compounds = {kernels[1]}"
    path = tmp_path / "bad.toml"
    path.write_text(member(kind, more if kind == "composite" else f"features = 'onehot_loo'\n{more}"))
    with pytest.raises(InputError) as caught:
        recipe(path)
    assert str(caught.value).startswith(f"{path}: {place}: must be {says}")


def weighted(weights):
    return member(
        "composite", f"[members.known_compounds.weights]\n{weights}\n[members.new_compounds.weights]"
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            weighted("tanimoto = 1e300"),
            "the weight of 'tanimoto' must be a number from 0 to 1e+06, not 1e+300",
        ),
        (weighted("tanimoto = nan"), "the weight of 'tanimoto' must be a number from 0 to 1e+06, not nan"),
        (weighted("tanimoto = true"), "the weight of 'tanimoto' must be a number from 0 to 1e+06, not True"),
        (
            weighted(f"{'x' * 1000} = 1"),
            f"no kernel factor '{'x' * 40}…{'x' * 39}': it has 1,000 characters",
        ),
        (
            weighted("\n".join(f"x{k} = 1" for k in range(101))),
            "has 101 terms, and a kernel at most 100: each is a matrix between all rows",
        ),
        (
            member("composite", "known_compounds = { weights = [] }"),
            "must be a table of weights, such as { tanimoto = 1.0 }",
        ),
    ],
)
def test_weights_of_kernels_have_bounds(tmp_path, text, says):
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(InputError) as caught:
        recipe(tmp_path / "bad.toml")
    assert str(caught.value) == f"{tmp_path}/bad.toml: members[0].known_compounds.weights: {says}"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            member("svr", "name = 'pipeline'"),
            "a member is called pipeline, as something else in a run's scores",
        ),
        (member("svr", "name = 'zeros'"), "a member is called zeros, as something else in a run's scores"),
        (member("svr", "name = ''"), "members[0].name: must be a name without blanks at its ends, not ''"),
        (member("svr", "engine = ' '"), "members[0].engine: must be a name without blanks at its ends"),
        ('name = "x"\n' + "[[members]]\nkind = 'svr'\n" * 51, "members: has more than 50"),
        (SVR + above("a", ["x"] * 51), "members[1].stacks_on: has more than 50"),
        (SVR + above("a", ["x" * 1000]), f"a: there is no member {'x' * 100}…{'x' * 99}; the members are"),
        (SVR.replace('"x"', '"[/x]"') + "n_folds = 1e9", "members[0].n_folds: there is no such setting"),
        (
            "n_folds = 1e9\n" + SVR,
            "n_folds: must be a whole number from 3 to 20, not 1000000000.0: every member",
        ),
        ('name = "x"\nmembers = [[]]', "members[0]: must be a table with the settings of a member"),
        (
            'name = "x"\n[[members]]\nkind = ["svr"]',
            "members[0]: no kind of member ['svr']; choose among svr",
        ),
        (member("svr", f"kind2 = 1\nengine = '{'x' * 101}'"), "members[0].engine: a name has at most 100"),
        (
            member("svr", "pseudo_labels = { weight = 1e300 }"),
            "members[0].pseudo_labels.weight: must be a",
        ),
    ],
)
def test_names_and_lists_have_bounds(tmp_path, text, says):
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(InputError) as caught:
        recipe(tmp_path / "bad.toml")
    assert says in str(caught.value)


def test_unknown_names_and_files():
    with pytest.raises(
        InputError,
        match=r"no recipe 'magic'; choose among best, best_with_nets, .*jn_ap_faithful, or name",
    ):
        recipe("magic")
    with pytest.raises(InputError, match=r"missing\.toml: No such file"):
        recipe("missing.toml")


@pytest.mark.parametrize(
    ("changes", "seed", "says"),
    [
        (RecipeChanges(folds=2), 0, "--folds: must be a whole number from 3 to 20, not 2: every member"),
        (RecipeChanges(svr_features="boosting"), 0, "--svr-features: boosting: feature set boosting reads"),
        (RecipeChanges(svr_features="onehot,onehot"), 0, "--svr-features: two members are called onehot"),
        (RecipeChanges(boosting_features="svr_per_target"), 0, "--boosting-features: svr_per_target gives"),
        (RecipeChanges(), -1, "--seed: must be a whole number from 0 to 2,147,483,647, not -1"),
        (
            RecipeChanges(engine="ridge"),
            0,
            "--engine: engine = 'ridge' has squared errors, which have no tube",
        ),
    ],
)
def test_options_that_cannot_be_used_are_named(changes, seed, says):
    with pytest.raises(InputError, match=says):
        run_config("standard", changes, "morgan", seed)


@pytest.mark.parametrize(
    ("members", "changes", "says"),
    [
        (
            (SvrMember(),),
            RecipeChanges(boosting_engine="exact"),
            "--boosting-engine: .* no member of kind booster",
        ),
        ((SvrMember(),), RecipeChanges(boosting_features="onehot"), "--boosting-features: .* kind booster"),
        (RECIPES["best"].members[:1], RecipeChanges(engine="smo"), "--engine: .* no member of kind svr"),
        (RECIPES["best"].members[:1], RecipeChanges(svr_features="onehot"), "no SVR of the first level"),
        (
            (SvrMember(kernel="linear"),),
            RecipeChanges(svr_features="svr_per_target"),
            "--svr-features: svr_per_target gives every gene columns of its own, which needs kernel = 'rbf'",
        ),
    ],
)
def test_options_without_a_member_to_act_on_are_refused(members, changes, says):
    with pytest.raises(InputError, match=says):
        changed_recipe(Recipe(name="few", members=members), changes)


# --- without structures, or with a table of embeddings -----------------------------------------------------


@pytest.mark.parametrize("name", RECIPES)
def test_without_molecules_no_member_of_a_named_recipe_reads_them(name):
    found = RECIPES[name].without_molecules()
    assert [member.name for member in found.members] == [member.name for member in RECIPES[name].members]
    assert found.encoders == [] and found.without_molecules() == found
    for features in found.feature_sets:
        assert not any(block.kind == "molecules" for block in features.blocks)
    kernels = [model.kernel for m in found.members if isinstance(m, CompositeMember) for model in m.models]
    assert all("tanimoto" not in product and "rbf(" not in product for k in kernels for product in k.weights)


def test_without_molecules_equal_products_are_summed():
    known, new = RECIPES["best"].without_molecules().members[0].models
    assert known.weights == {
        "cell_type": 1.5,
        "compound": 0.7,
        "compound * correlation": 1.5,
        "correlation * profile_linear": 7.0,
        "correlation * profile_rbf": 2.0,
    }
    assert new.weights == {"cell_type": 0.1, "compound * correlation": 2.0, "compound": 0.7}
    model = KernelModelConfig(
        weights={"tanimoto": 1.0, "compound": 2.0, "tanimoto^2 * rbf(molecules)^3": 4.0}
    )
    member = CompositeMember(known_compounds=model, new_compounds=model)
    assert member.without_molecules().known_compounds.weights == {"compound": 7.0}


def test_a_member_that_reads_nothing_but_molecules_leaves_with_what_stacks_on_it_alone():
    structure = SvrMember(features="molecules")
    first, second = SvrMember(features="onehot"), SvrMember(features="cell_type_molecules")
    trees = BoosterMember(name="trees", stacks_on=("molecules",))
    more = BoosterMember(
        name="more", stacks_on=("molecules", "onehot"), pseudo_labels={"teacher": ("molecules", "onehot")}
    )
    mine = Recipe(name="mine", members=(structure, first, second, trees, more))
    found = mine.without_molecules()
    assert [member.name for member in found.members] == ["onehot", "cell_type_molecules", "more"]
    assert found.members[2].stacks_on == found.members[2].pseudo_labels.teacher == ("onehot",)
    assert [block.name for block in found.members[1].features.blocks] == ["onehot:cell_type"]
    left = RunConfig(recipe=mine, molecules="none").left_out()
    assert left == [
        "molecules: none; compounds are told apart by name; left out, as they read nothing but molecules: molecules, "
        "trees"
    ]
    with pytest.raises(
        InputError, match="--molecules none: the recipe mine reads nothing but molecules; take"
    ):
        mine.with_members(structure, trees).without_molecules()


def test_with_a_table_kernels_and_blocks_read_it():
    config = RunConfig(recipe=RECIPES["best"], molecules="somewhere/embeddings.parquet")
    found = config.resolved()
    known, new = found.recipe.members[0].models
    assert known.kernel.encoders == new.kernel.encoders == ("table",)
    assert known.weights["correlation * rbf(table)"] == 1.5
    assert new.weights["correlation * rbf(table)^2"] == 2.0 and new.weights["rbf(table)"] == 0.7
    assert found.encoders[0] == "table" and found.recipe.encoders == ["table"]
    assert found.resolved() == found and config.left_out() == []
    svr = RunConfig(recipe=RECIPES["quick"], molecules="embeddings.parquet").resolved().recipe.members[0]
    assert svr.features.blocks[-1].name == "molecules:table"


def test_other_molecules_leave_a_recipe_as_it_was():
    found = RunConfig(recipe=RECIPES["best"], molecules="morgan").resolved().recipe
    assert found == RECIPES["best"].with_molecules("morgan")
    assert found.members[0] == RECIPES["best"].members[0]
