"""recipes and features: all by name, one in full, and one as a TOML file that says the same."""

import json

import pytest

from tests.command_line import error_line, invoke, succeed

ALL = {
    "recipes": ["best", "standard", "published", "quick"],
    "features": ["svr_shared", "boosting", "op2_first_heavy"],
}
ONE = {
    "recipes": ("published", ["1000", "svr_per_target"]),
    "features": ("boosting", ["loo:sm_name", "predictions", "targets"]),
}


@pytest.mark.parametrize(("command", "what"), [("recipes", "recipe"), ("features", "feature set")])
def test_all_are_listed_and_one_is_shown(tmp_path, command, what):
    listed = succeed(command).output
    assert all(name in listed for name in ALL[command])
    name, words = ONE[command]
    shown = succeed(command, name).output
    assert all(word in shown for word in words)
    (tmp_path / "copy.toml").write_text(succeed(command, name, "--toml").output)
    assert succeed(command, tmp_path / "copy.toml").output == shown
    assert error_line(invoke(command, "magic")).startswith(f"error: no {what} 'magic'; choose among ")
    every = [one["name"] for one in json.loads(succeed(command, "--json").stdout)]
    assert set(ALL[command]) < set(every) and all(name in listed for name in every)
    [told] = json.loads(succeed(command, name, "--json").stdout)
    assert told["name"] == name and {"members", "blocks"} & set(told)
    assert "exclude each other" in error_line(invoke(command, name, "--toml", "--json"))
    assert error_line(invoke(command, "--toml")) == f"error: --toml needs the name of a {what}"
