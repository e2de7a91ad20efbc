"""Genes by rule: which numeric columns of a table are genes, and which names cannot be.

    known metadata     a meaning (`columns.ALIASES`), or a name or pattern below: never a gene
    --genes FILE       exactly the columns that the file names are genes
    suspicious         a covariate's name, or a constant or whole numbers under no gene's name: stops
    everything else    a gene

A gene's name is a symbol (human, mouse or rat spelling), an Ensembl, Entrez or RefSeq identifier, or a probe's. No word
of `COVARIATES` and no name of `METADATA` is the symbol of a human gene.
"""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rapids_pipeline.backend.arrays import Float32
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.limits import require_file
from rapids_pipeline.data.checks import refuse_repeated, some_of
from rapids_pipeline.data.columns import meaning_of

METADATA = frozenset(
    # Kaggle, Open Problems, and `predict`
    "id cell_type sm_name sm_lincs_id SMILES control split cell_id sm_cell_type donor_id plate_name well row "
    "col library_id library_lot container_format hashtag_id raw_cell_id timepoint_hr dose_uM leiden_res1 "
    "cell_count n_cells n_obs obs_id group cell_count_by_well_celltype cell_count_by_plate_celltype "
    "tanimoto cell_type_rows compound_rows untested_genes "
    # L1000 (and its signatures), scPerturb and pertpy, Tahoe, Chem-PerturBridge
    "distil_cc_q75 distil_nsample distil_ss tas sig_id sig_index ngenes ncounts nperts tss_distance gene_count "
    "tscp_count mread_count S_score G2M_score pubchem_cid dataset sample_unique_id hmdb_id chembl_id doublet_score "
    "library_size size_factor size_factors is_exemplar is_hiq".split()
)
"""Names of metadata columns of the formats that are known; never taken for genes."""
PATTERNS = re.compile(
    r"(pct|pcnt|percent|pert|psbulk|n|num|nr|qc|total|log1p|det|rna|mfc|pr|bead|count|cell|dose|leiden|louvain|obs|"
    r"sample|batch|plate|well|donor|time|timepoint)_\w+|\w+_(score|id|unit|units|counts|cells|hr|uM|pval)|PC_\d+|"
    r"(X_)?(umap|tsne|pca)_?\d+",
)
"""Patterns of such names."""
COVARIATES = frozenset(
    "age barcode batch cluster conc concentration count counts covariate day days depth donor dose fraction hour hours "
    "index leiden library louvain passage patient pct percent plate pvalue replicate score sex size time timepoint "
    "tsne umap umi umis viability weight well".split()
)
"""Words of a covariate's name."""
GENE = re.compile(
    r"[A-Z0-9][A-Za-z0-9]*([-._@/][A-Za-z0-9]+)*|mt-[A-Z]\w*|\d{1,9}|ENS[A-Z]*[GT]\d{11}(\.\d+)?|[NX][MR]_\d+(\.\d+)?|"
    r"(AFFX-)?\w+_(at|st)|ILMN_\d+|A_\d+_P\d+|(gene|g)[ _-]?\d+",
    re.ASCII,
)
"""What a gene's name looks like."""
_MONTH = "jan feb mar apr may jun jul aug sep sept oct nov dec".replace(" ", "|")
EXCEL_DATE = re.compile(rf"\d{{1,2}}-({_MONTH})|({_MONTH})-\d{{1,2}}|\d{{4}}-\d\d-\d\d( 00:00:00)?", re.I)
"""What Excel makes of MARCHF1 (MARCH1), SEPTIN2 (SEPT2) and DEC1."""


def is_metadata(name: str) -> bool:
    """Say whether a column is known not to be a gene, by its name."""
    return name in METADATA or meaning_of(name) is not None or PATTERNS.fullmatch(name) is not None


def looks_like_gene(name: str) -> bool:
    """Say whether a name is spelled as a gene's symbol or identifier."""
    return GENE.fullmatch(name) is not None


def check_genes(path: Path, genes: Sequence[str], Y: Float32, said: bool) -> list[str]:
    """Return a note on constant genes; `said` where the user named the genes, or the format keeps them apart.

    Raises
    ------
    InputError
        A gene's name that Excel made a date, or occurs twice, or a column that is no gene as it seems.
    """
    dates = [name for name in genes if EXCEL_DATE.fullmatch(name)]
    if dates:
        raise InputError(
            f"{path}: Excel has turned gene names into dates: {some_of(dates)}; restore the names (1-Mar was MARCHF1, "
            "2-Sep was SEPTIN2)"
        )
    refuse_repeated(path, "gene", genes)
    constant = (Y == Y[:1]).all(axis=0)
    if not said:
        _refuse_suspicious(path, genes, Y, constant)
    if not constant.any() or len(Y) == 1:
        return []
    names = some_of([name for name, same in zip(genes, constant, strict=True) if same])
    return [f"{path}: {constant.sum()} gene(s) have one value in all rows: {names}"]


def gene_list(path: Path) -> list[str]:
    """Read gene names in order from a text file with one name a line.

    Raises
    ------
    InputError
        No such file, no text, no names, or a name twice.
    """
    require_file(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is no text; a list of genes has one name a line") from error
    genes = [line.strip() for line in lines if line.strip()]
    if not genes:
        raise InputError(f"{path}: names no genes")
    refuse_repeated(path, "gene", genes)
    return genes


def listed_genes(path: Path, columns: Sequence[str], genes: Path) -> list[str]:
    """Return the columns of the file `path` that the list `genes` names, in the order of the columns."""
    listed = set(gene_list(genes))
    missing = sorted(listed - set(columns))
    if missing:
        raise InputError(f"{path}: has no column {some_of(missing)}, which {genes} names as a gene")
    return [name for name in columns if name in listed]


def _refuse_suspicious(path: Path, genes: Sequence[str], Y: Float32, constant: np.ndarray) -> None:
    """Raise InputError, with the remedies, for columns that are no genes as it seems."""
    found: dict[str, str] = {}
    for k, name in enumerate(genes):
        if COVARIATES & {word.casefold() for word in re.split(r"[\s_\-.()]+|(?<=[a-z])(?=[A-Z])", name)}:
            found[name] = "a covariate's name"
        elif (
            not looks_like_gene(name)
            and (np.isnan(Y[:, k]) | (Y[:, k] == np.rint(Y[:, k])) | constant[k]).all()
        ):
            found[name] = "one value in all rows" if constant[k] else "whole numbers"
    if found:
        names, first = list(found), next(iter(found))
        more = f" and {len(names) - 6} more" if len(names) > 6 else ""
        raise InputError(
            f"{path}: {len(names)} numeric column(s) seem to be no genes: {', '.join(names[:6])}{more} ({first}: "
            f"{found[first]}); leave them out by --metadata-columns {','.join(names[:6])}, or name the genes in a text "
            "file, one a line, by --genes FILE"
        )


def gene_index(genes: Sequence[str], name: str, option: str) -> int:
    """Return the position of a gene; InputError names the option and the nearest genes where there is none."""
    if name in genes:
        return list(genes).index(name)
    spelled = {gene.casefold(): gene for gene in genes}
    near = [spelled[one] for one in difflib.get_close_matches(name.casefold(), spelled, n=5, cutoff=0.5)]
    hint = f"; nearest names: {', '.join(near)}" if near else f"; the genes are {genes[0]} … {genes[-1]}"
    raise InputError(f"{option} {name}: no such gene among {len(genes)}{hint}")
