"""`PerturbationModel`: what the commands do, in Python.

    from rapids_pipeline import PerturbationModel

    model = PerturbationModel().fit("de_train.parquet")
    model.predict([("NK cells", "Vorinostat")])

It takes the same steps as the command line (`rapids_pipeline.pipeline.fit`), so a model that is fitted to the same rows
and pairs is the same model, to the byte. What it saves is the `model/` of a run, and either can be loaded by the other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError

from features.rows import DOSE, TIME
from rapids_pipeline import pipeline
from rapids_pipeline.backend.devices import resolve_device
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.files import model_folder, written, written_folder
from rapids_pipeline.backend.parallel import executor_of
from rapids_pipeline.backend.progress import Stages
from rapids_pipeline.commands.option_groups import FITS_IMPORT
from rapids_pipeline.data.columns import DEFAULT_LAYER, PAIR, TableOptions, chosen_columns
from rapids_pipeline.data.pairs import context_columns, table_of_tuples
from rapids_pipeline.data.problem import Problem, ProblemFiles, Replicates, open_problem
from rapids_pipeline.data.tables import PerturbationData, read_responses, training_from_frame
from rapids_pipeline.evaluation.evaluate import evaluated, with_genes
from rapids_pipeline.predictions.design import design
from rapids_pipeline.predictions.formats import as_anndata
from rapids_pipeline.predictions.predict import PairPredictor, predictor_of, rows_a_block
from rapids_pipeline.predictions.readouts import drivers
from rapids_pipeline.stack.changes import RecipeChanges, run_config
from rapids_pipeline.stack.recipe import Objective, Recipe, RunConfig
from rapids_pipeline.stack.saved import SavedModel, load_model, save_model
from rapids_pipeline.studies.cv import CrossValidation, CvRequest, cross_validate

if TYPE_CHECKING:
    from anndata import AnnData

Output = Literal["frame", "anndata"]


class PerturbationModel(BaseEstimator):
    """A recipe of `rapids-perturb` that is fitted to measured responses and predicts others.

    Parameters
    ----------
    recipe : str or Recipe
        A name (`rapids-perturb recipes` lists them), a TOML file, or a recipe.
    molecules : str
        The molecule features, as `--molecules`: "auto", "chemberta", "morgan", "descriptors", "none", a folder or a
        hub id of a language model, or a table of embeddings.
    atlas : str or Path, optional
        The folder of an atlas, as `--atlas`: what new compounds did in other data sets.
    device : {"auto", "cpu", "cuda"}
        Where fits run; "auto" takes the GPU where a run can start.
    seed : int
        Of the folds and of all that is drawn.
    layer : str
        The layer of an AnnData object, or of an .h5ad file, that holds the responses.
    columns : dict of str to str, optional
        The column of a meaning, such as {"cell_type": "line"}, where its name does not say it.
    metadata_columns : sequence of str
        Numeric columns that are not genes.
    replicates : {"mean", "keep"}
        Several rows of one compound in one context: their mean, or rows of their own.
    cluster : str, optional
        Where fits run, as `--cluster`: "local:4", "cuda", "tcp://HOST:PORT" or a scheduler's file.
    objective : {"mrrmse", "discrimination", "balanced"}, optional
        What predictions are tuned for, as `--objective`; the recipe's own by default.
    progress : bool
        Whether bars on stderr show what is done.

    Attributes
    ----------
    model_ : SavedModel
        What predicts.
    genes_ : tuple of str
        In the order of the columns of a prediction.
    scores_ : pandas.DataFrame
        Out-of-fold MRRMSE by method, its weight in the blend, and by how much the error rises without it. Random rows
        are easier than the task; `cross_validate` says what to expect. Not there after `load`.
    oof_ : pandas.DataFrame
        Out-of-fold predictions of the training rows, metadata first, in the order of the rows. Not there after `load`.
    notes_ : list of str
        What a reader of the predictions should know.

    Examples
    --------
    >>> import pandas as pd
    >>> from rapids_pipeline import PerturbationModel
    >>> from rapids_pipeline.data.demo import simulate
    >>> data = simulate(n_genes=5)  # the layout of the competition, simulated
    >>> model = PerturbationModel(recipe="quick", molecules="morgan").fit(data.de_train)
    >>> model.predict([("NK cells", "Vorinostat"), ("B cells", "Vorinostat")]).shape
    (2, 5)
    """

    def __init__(
        self,
        recipe: str | Recipe = "best",
        *,
        molecules: str = "auto",
        atlas: str | Path | None = None,
        device: str = "auto",
        seed: int = 0,
        layer: str = DEFAULT_LAYER,
        columns: Mapping[str, str] | None = None,
        metadata_columns: Sequence[str] = (),
        replicates: Replicates = "mean",
        cluster: str | None = None,
        objective: Objective | None = None,
        progress: bool = False,
    ) -> None:
        self.recipe = recipe
        self.molecules = molecules
        self.atlas = atlas
        self.device = device
        self.seed = seed
        self.layer = layer
        self.columns = columns
        self.metadata_columns = metadata_columns
        self.replicates = replicates
        self.cluster = cluster
        self.objective = objective
        self.progress = progress

    # --- fit and predict ----------------------------------------------------------------------------------

    def fit(self, data: Any, pairs: Any = None) -> Self:
        """Fit the recipe to measured responses.

        Parameters
        ----------
        data : str, Path, table or AnnData
            One row a measured response: cell type, compound, SMILES, and a number for each gene. A file, a pandas,
            polars, cuDF or pyarrow table, or an AnnData object.
        pairs : optional
            The pairs that will be predicted, as `predict` takes them. Recipes with pseudo-labels learn from them, too.

        Raises
        ------
        InputError, UnavailableError
            As the command `run`.
        """
        config, problem = self._problem(data, pairs)
        with executor_of(self.cluster, None, FITS_IMPORT) as executor:
            device = resolve_device(self.device)
            found = pipeline.fit(problem, config, device, stages=self._stages(), executor=executor)
        self._take(found.model)
        self.fit_, self.notes_ = found, found.notes
        blend, dropping = found.document["blend"]["weights"], found.document["cost_of_dropping"]
        scores = {name: row["mean_rowwise_rmse"] for name, row in found.document["out_of_fold"].items()}
        self.scores_ = pd.DataFrame({"mrrmse": scores, "weight": blend, "without it": dropping}, list(scores))
        obs, oof = problem.data.obs, pd.DataFrame(found.stack.oof, columns=list(self.genes_))
        self.oof_ = pd.concat([obs, oof], axis=1).iloc[problem.file_order].reset_index(drop=True)
        return self

    def predict(self, pairs: Any, *, output: Output = "frame") -> "pd.DataFrame | AnnData":
        """Predict the responses of pairs.

        Parameters
        ----------
        pairs : list of tuple, table, str or Path
            Tuples (cell type, compound) or (cell type, compound, SMILES); a table with `cell_type`, and `sm_name` or
            `SMILES`, also `dose_uM` and `time_h` where training rows differ in them; or a file of such a table. A
            compound that is new to the model needs a SMILES.
        output : {"frame", "anndata"}
            "frame": a table of genes, whose index names the pairs. "anndata": the same as X, with the pairs and how
            far they are from the training rows (`applicability`) in `obs`.

        Returns
        -------
        DataFrame, (m, n_genes), or AnnData
            float32, in the unit of the training data.
        """
        if output not in ("frame", "anndata"):
            raise InputError(f"output={output!r}: choose 'frame' or 'anndata'")
        work = self._predictor(pairs)
        predicted = self._predicted(work)
        if output == "anndata":
            return as_anndata(predicted, work.metadata, self.genes_, work.notes)
        columns = [*PAIR, *context_columns(work.metadata)]
        index = pd.MultiIndex.from_frame(work.metadata[columns])
        return pd.DataFrame(predicted, index, list(self.genes_))

    def applicability(self, pairs: Any) -> pd.DataFrame:
        """Return how far pairs are from the training rows (`rapids_pipeline.predictions.applicability`)."""
        return self._predictor(pairs).metadata

    def drivers(self, pair: Sequence[str], gene: str | None = None, *, top: int | None = 20) -> pd.DataFrame:
        """Return the training rows that drive a prediction of the composite kernels, exactly.

        Parameters
        ----------
        pair : (cell type, compound) or (cell type, compound, SMILES)
            Need not have been measured; a compound that is new to the model needs a SMILES.
        gene : str, optional
            By default all genes together.
        top : int, optional
            How many rows, those of the largest contributions; None for all.

        Returns
        -------
        DataFrame
            `rapids_pipeline.predictions.readouts.drivers`.
        """
        return drivers(self._predictor([tuple(pair)]), 0, gene, top)

    def next(self, candidates: Any, n: int = 20, *, pairs: Any = None) -> pd.DataFrame:
        """Return which pairs to measure next, as the command `next`: those that make the others least uncertain.

        Parameters
        ----------
        candidates
            The pairs that can be measured, as `predict` takes pairs.
        n : int
            How many to choose, as one batch.
        pairs : optional
            The pairs of interest, by default the candidates.

        Returns
        -------
        DataFrame
            `rapids_pipeline.predictions.design.Design.table`. `attrs["notes"]` has what a reader should know.
        """
        can = self._predictor(candidates)
        found = design(can if pairs is None else self._predictor(pairs), can, n)
        found.table.attrs["notes"] = found.sentences
        return found.table

    # --- how good is it -----------------------------------------------------------------------------------

    def cross_validate(
        self,
        data: Any,
        pairs: Any = None,
        *,
        split: str = "auto",
        n_folds: int = 5,
        repeats: int = 1,
        folder: str | Path | None = None,
    ) -> CrossValidation:
        """Cross-validate the recipe, as the command `cv`: scores with intervals, and an audit of the split.

        Parameters
        ----------
        data, pairs
            As `fit`; the pairs choose the split that is most like them.
        split : str
            What is held out: a name of `rapids_pipeline.evaluation.splits.SPLITS`, or "auto".
        n_folds, repeats : int
            Folds of the rows, and how often they are dealt anew.
        folder : str or Path, optional
            Where finished splits are kept, so that the same call goes on after an interruption.
        """
        config, problem = self._problem(data, pairs)
        request = CvRequest(split, n_folds, repeats, self.seed)
        named: dict[str, Any] = {"source": problem.source, "table": problem.table, "atlas": problem.atlas}
        where = None if folder is None else Path(folder)
        with executor_of(self.cluster, None, FITS_IMPORT) as executor:
            given = problem.data, problem.pairs, request, config, resolve_device(self.device)
            found, _ = cross_validate(*given, **named, stages=self._stages(), folder=where, executor=executor)
        return found

    def evaluate(self, truth: Any, *, perturbations: bool = False) -> pd.DataFrame:
        """Score the model beside the baselines on measured responses, as the command `evaluate`.

        Parameters
        ----------
        truth : str, Path, table or AnnData
            Measured responses, as `fit` takes them. Genes that it does not have are not scored.
        perturbations : bool
            Also score how well single perturbations are told apart.

        Returns
        -------
        DataFrame
            Methods (`model` first, then the baselines) × metrics. Without the training rows, after `load`, the only
            baseline is `zeros`.
        """
        measured = self._responses(truth)
        genes = _places_of(self.genes_, measured.genes)
        columns = [*PAIR, "SMILES", DOSE, TIME]
        pairs = measured.obs[[name for name in columns if name in measured.obs.columns]]
        values = self._predicted(self._predictor(pairs))[:, genes]
        training = None
        if hasattr(self, "fit_"):
            training = with_genes(self.fit_.problem.data, measured.genes, Path("the training data"))
        found = evaluated("model", values, measured, measured.obs, training, perturbations, self.replicates)
        scores = pd.DataFrame(found.scores).T
        if perturbations:
            scores = scores.join(pd.DataFrame(found.perturbation_scores).T)
        scores.attrs["note"] = found.note
        return scores

    def score(self, data: Any, y: Any = None) -> float:
        """Return −MRRMSE on measured responses, for model selection by scikit-learn; `y` is not used."""
        return -float(self.evaluate(data)["mean_rowwise_rmse"].iloc[0])

    def report(self, path: str | Path) -> None:
        """Write the page of the fit and of the pairs that `fit` was given: report.html of a run."""
        from rapids_pipeline.reports.predicted import write_run_report

        self._fitted()
        if not hasattr(self, "fit_") or not len(self.fit_.responses.Y):
            raise ValueError("fit the model with pairs to predict first: the page is about them")
        with written(Path(path)) as place:
            write_run_report(self.fit_, place)

    # --- files --------------------------------------------------------------------------------------------

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the model as a folder: JSON and safetensors, which `load` and `rapids-perturb predict` read."""
        folder = Path(path)
        if folder.exists() and not overwrite:
            raise InputError(f"{folder}: exists already; choose another name, or give overwrite=True")
        with written_folder(folder) as made:
            save_model(made, self._fitted())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Return the model of a folder that `save` or `rapids-perturb run` wrote: `DIR`, or `DIR/model`."""
        found = load_model(model_folder(Path(path)))
        config = found.config
        made = cls(config.recipe, molecules=config.molecules, seed=config.seed)
        made._take(found)
        made.notes_ = []
        return made

    # --- details ------------------------------------------------------------------------------------------

    def set_params(self, **params: Any) -> Self:
        """Set parameters of the constructor; the settings of a recipe are the recipe's own.

        Raises
        ------
        ValueError
            Of a parameter `recipe__…`, and of one that there is not.
        """
        nested = [name for name in params if name.startswith("recipe__")]
        if nested:
            raise ValueError(
                f"{nested[0]}: a recipe is checked as a whole; give recipe=recipe('best').updated(...), with recipe of "
                "rapids_pipeline.stack.named_recipes"
            )
        return super().set_params(**params)  # type: ignore[no-any-return]

    def _repr_html_(self) -> str:
        """Return a small table for notebooks."""
        facts = {"recipe": self.recipe if isinstance(self.recipe, str) else self.recipe.name}
        if hasattr(self, "model_"):
            obs = self.model_.obs
            facts |= {
                "training rows": f"{len(obs):,}",
                "cell types": f"{obs['cell_type'].nunique():,}",
                "compounds": f"{obs['sm_name'].nunique():,}",
                "genes": f"{len(self.genes_):,}",
                "molecules": self.model_.config.molecules,
            }
        else:
            facts["state"] = "not fitted"
        if hasattr(self, "scores_"):
            facts["out-of-fold MRRMSE"] = f"{self.scores_['mrrmse'].iloc[0]:.4f}"
        rows = "".join(
            f"<tr><th>{name}</th><td>{escape(str(fact))}</td></tr>" for name, fact in facts.items()
        )
        return f"<table><caption>PerturbationModel</caption>{rows}</table>"

    def _take(self, model: SavedModel) -> None:
        """Take what a fitted or loaded model has; what an earlier fit left is forgotten."""
        for name in {"fit_", "scores_", "oof_"} & set(vars(self)):
            delattr(self, name)
        self.model_, self.genes_ = model, model.genes

    def _fitted(self) -> SavedModel:
        if not hasattr(self, "model_"):
            raise NotFittedError(
                "this PerturbationModel is not fitted yet: call fit, or PerturbationModel.load"
            )
        return self.model_

    def _stages(self) -> Stages:
        if not self.progress:
            return Stages()
        from rapids_pipeline.reports.page import LiveStages

        return LiveStages()

    def _options(self) -> TableOptions:
        columns = chosen_columns([f"{meaning}={name}" for meaning, name in (self.columns or {}).items()])
        return TableOptions(self.layer, tuple(self.metadata_columns), columns)

    def _problem(self, data: Any, pairs: Any) -> tuple[RunConfig, Problem]:
        how = RecipeChanges(objective=self.objective), str(self.molecules), self.seed
        recipe = self.recipe if isinstance(self.recipe, Recipe) else str(self.recipe)
        config, asked = run_config(recipe, *how), None if pairs is None else _table_of(pairs)
        atlas = None if self.atlas is None else Path(self.atlas)
        files = ProblemFiles(_source_of(data), asked, self._options(), self.replicates, atlas=atlas)
        return config, open_problem(files.for_molecules(config.molecules), resolve_device(self.device).name)

    def _responses(self, truth: Any) -> PerturbationData:
        source, options = _source_of(truth), self._options()
        if isinstance(source, Path):
            return read_responses(source, options)
        return training_from_frame(source, f"the {type(source).__name__}", replace(options, structures=False))

    def _predictor(self, pairs: Any) -> PairPredictor:
        columns = TableOptions(columns=self._options().columns)
        model = self._fitted()
        return predictor_of(model, _table_of(pairs), "the model", columns)

    def _predicted(self, work: PairPredictor) -> Any:
        n, step = len(work.metadata), rows_a_block(len(self.genes_))
        blocks = [slice(start, min(start + step, n)) for start in range(0, n, step)]
        return np.concatenate([work.predict(block) for block in blocks])


def _places_of(known: Sequence[str], wanted: Sequence[str]) -> Any:
    """Return where genes are among a model's; InputError where one is not."""
    place = {gene: number for number, gene in enumerate(known)}
    unknown = [gene for gene in wanted if gene not in place]
    if unknown:
        raise InputError(
            f"the truth: {len(unknown)} of its genes are not the model's, such as {unknown[0][:80]!r}; leave them out"
        )
    return np.array([place[gene] for gene in wanted])


def _source_of(data: Any) -> Any:
    """Return a path for text that names one, a table as it is; InputError for anything else."""
    if isinstance(data, str | Path):
        return Path(data)
    if not any(hasattr(data, name) for name in ("columns", "column_names", "layers")):
        raise InputError(f"the {type(data).__name__}: is neither a file, nor a table, nor an AnnData object")
    return data


def _table_of(pairs: Any) -> Any:
    """Return tuples of pairs as a table; a file or a table as it is."""
    return table_of_tuples(pairs) if isinstance(pairs, list | tuple) else _source_of(pairs)
