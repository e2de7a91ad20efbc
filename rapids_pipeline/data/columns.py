"""Names that files give their parts: metadata columns and layers."""

DEFAULT_LAYER = "clipped_sign_log10_pval"
"""The layer of an Open Problems `.h5ad` file that holds the responses."""
PREDICTION_LAYER = "prediction"
"""The layer of an Open Problems prediction `.h5ad`."""
PAIR = ["cell_type", "sm_name"]
TRAINING_COLUMNS = [*PAIR, "SMILES"]
TEST_COLUMNS = ["id", *PAIR]
METADATA_COLUMNS = frozenset(
    "id cell_type sm_name sm_lincs_id SMILES control split cell_id sm_cell_type donor_id plate_name well row "
    "col library_id library_lot container_format hashtag_id raw_cell_id timepoint_hr dose_uM leiden_res1 "
    "cell_count n_cells n_obs obs_id group cell_count_by_well_celltype cell_count_by_plate_celltype "
    "tanimoto cell_type_rows compound_rows".split()
)
"""Numeric and other metadata names of the Kaggle and Open Problems files and of `predict`; never taken for genes."""
