"""Errors and stages: how a command ends, and what its stages took."""

import pytest

from rapids_pipeline.backend.errors import EXIT_INTERRUPTED, InputError, UnavailableError, exits_cleanly
from rapids_pipeline.backend.progress import Progress, Stages


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (InputError("bad row 3"), 2, "error: bad row 3\n"),
        (UnavailableError("no GPU"), 3, "error: no GPU\n"),
        (KeyboardInterrupt(), EXIT_INTERRUPTED, "interrupted\n"),
    ],
)
def test_commands_end_with_one_line_and_their_code(capsys, error, code, message):
    @exits_cleanly
    def command():
        raise error

    with pytest.raises(SystemExit) as caught:
        command()
    assert caught.value.code == code
    assert capsys.readouterr().err == message


def test_other_errors_keep_their_traceback():
    @exits_cleanly
    def command(value):
        return 1 / value

    assert command(2) == 0.5
    with pytest.raises(ZeroDivisionError):
        command(0)


def test_stages_are_timed_in_order_and_a_failed_one_is_not():
    finished = []

    class Recording(Stages):
        def finished(self, name):
            finished.append(name)

    stages = Recording()
    with stages.stage("one") as progress:
        assert isinstance(progress, Progress)
        progress.start(2)
        progress.advance()
    with pytest.raises(ValueError), stages.stage("two"):
        raise ValueError
    assert list(stages.seconds) == finished == ["one"]
    assert stages.seconds["one"] >= 0
