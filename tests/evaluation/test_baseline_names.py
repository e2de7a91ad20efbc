import subprocess
import sys

import pytest

from rapids_pipeline.evaluation.baseline_names import SIMPLE, called
from rapids_pipeline.evaluation.baselines import ALL_BASELINES, CONTEXT_BASELINES
from rapids_pipeline.stack.named_recipes import recipe


@pytest.mark.parametrize("name", [*ALL_BASELINES, *CONTEXT_BASELINES])
def test_every_baseline_has_a_plain_name_that_no_member_may_take(name):
    assert called(name) != name and called(called(name)) == called(name)
    with pytest.raises(ValueError, match=f"a member is called {name}, as something else in a run's scores"):
        quick = recipe("quick")
        quick.updated(members=(quick.members[0].updated(name=name), *quick.members[1:]))


def test_plain_names_tell_baselines_apart():
    assert len(set(SIMPLE.values())) == len(SIMPLE)


def test_names_are_had_without_what_computes_baselines():
    code = "import sys, rapids_pipeline.reports.run; sys.exit(bool({'scipy', 'sklearn'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
