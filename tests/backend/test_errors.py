"""Errors and stages: how a command ends, what its messages quote, and what its stages took."""

import warnings

import pytest

from rapids_pipeline.backend.errors import (
    EXIT_INTERRUPTED,
    InputError,
    ProblemsError,
    UnavailableError,
    exits_cleanly,
    one_line,
    quoted,
    shown,
    visible,
)
from rapids_pipeline.backend.progress import Progress, Stages


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (InputError("bad row 3"), 2, "error: bad row 3\n"),
        (UnavailableError("no GPU"), 3, "error: no GPU\n"),
        (KeyboardInterrupt(), EXIT_INTERRUPTED, "interrupted\n"),
        (
            MemoryError("8 GB"),
            2,
            "error: this machine: out of memory (8 GB); allow more, or take fewer rows, genes or --block-rows\n",
        ),
        (
            RuntimeError("can't start new thread"),
            2,
            "error: this machine: no room for another thread; allow more memory or threads (ulimit -v, -u)\n",
        ),
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

    @exits_cleanly
    def other():
        raise RuntimeError("a fault of ours")

    with pytest.raises(RuntimeError, match="a fault of ours"):
        other()


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("plain µ × …", "plain µ × …"),
        ("[/x] :smile: \\[red]", "[/x] :smile: \\[red]"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("\x9b31m\x00", "\\x9b31m\\x00"),
        ("a\nb\rc\td", "a\\nb\\rc\\td"),
        ("a\u202eb\u200bc\ufeff", "a\\u202eb\\u200bc\\ufeff"),
        ("\udcff", "\\udcff"),
        ("\U000e0001", "\\U000e0001"),
    ],
)
def test_what_a_terminal_obeys_or_hides_is_spelled_out(text, seen):
    assert visible(text) == seen == visible(seen)
    assert quoted(text) == f"'{seen}'" and shown(text) == seen


def test_what_is_quoted_is_cut_in_its_middle():
    assert quoted("x" * 80) == f"'{'x' * 80}'"
    assert quoted("a" * 50 + "b" * 50) == f"'{'a' * 40}…{'b' * 39}'"
    assert len(shown("\x1b" * 10_000_000)) == 200
    assert quoted(7.5) == "7.5" and quoted(10**5000) == "an integer of thousands of digits"


def test_a_message_is_one_line_of_500_characters_at_most():
    assert one_line("  first\nsecond\x1b\n") == "  first second\\x1b"
    long = one_line("begins " + "x" * 20_000_000 + " ends")
    assert len(long) == 490 and long.startswith("begins x") and long.endswith("x ends") and "…" in long


def test_messages_and_warnings_are_cut_and_made_visible(capsys):
    @exits_cleanly
    def command(error):
        warnings.warn("\x1b[2J\n" + "w" * 1000, stacklevel=1)
        raise error

    with pytest.raises(SystemExit):
        command(ProblemsError(["\x1b]0;x\x07", "y" * 1000]))
    warned, first, second = capsys.readouterr().err.splitlines()
    assert warned.startswith("warning: \\x1b[2J www") and len(warned) <= 500
    assert first == "error: \\x1b]0;x\\x07"
    assert len(second) <= 500 and second == f"error: {'y' * 245}…{'y' * 244}"


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
