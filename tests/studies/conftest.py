"""Small data whose pairs are of scarce cell types."""

from types import SimpleNamespace

import pytest

from rapids_pipeline.data.demo import simulate


@pytest.fixture(scope="session")
def scarce_files(tmp_path_factory):
    """Files of the demo data cut down to 8 genes and a number of compounds, some of which scarce cell types have."""

    def made(n_compounds, n_scarce):
        data = simulate(0, 8)
        names = list(dict.fromkeys(data.de_train["sm_name"]))
        scarce = dict.fromkeys(data.de_train["sm_name"][data.de_train["cell_type"] == "B cells"])
        few = list(scarce)[:n_scarce]
        some = {*few, *[name for name in names if name not in few][: n_compounds - n_scarce]}
        folder = tmp_path_factory.mktemp("scarce")
        files = SimpleNamespace(train=folder / "de_train.parquet", test=folder / "id_map.csv")
        kept = data.de_train["sm_name"].isin(some)
        files.de_train, files.others = data.de_train[kept].reset_index(drop=True), data.de_train[~kept]
        files.de_train.to_parquet(files.train)
        data.id_map[data.id_map["sm_name"].isin(some)].to_csv(files.test, index=False)
        return files

    return made
