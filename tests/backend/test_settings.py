"""Settings from files: what is read, what bounds say, and how a fault is told."""

import os
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.settings import bounded, by_name_or_toml, first_fault, named, read_toml, words


class Block(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: Literal["a", "b"] = "a"


class Other(BaseModel):
    kind: Literal["c"] = "c"


class Example(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: Annotated[str, named()] = "x"
    description: Annotated[str, words()] = ""
    number: Annotated[float, bounded(1e-3, 1e3, "it is a share")] = 1.0
    count: Annotated[int, bounded(1, 10_000, "each is fitted")] = 1
    least: Annotated[int, bounded(2, 3)] = 2
    size: Annotated[float | Literal["scale"], bounded(0.0, 1.0, words=["scale"])] = "scale"
    limit: Annotated[int | None, bounded(1, 5, optional=True)] = None
    used: bool = True
    how: Literal["auto", "on"] = "auto"
    listed: tuple[Annotated[str, Field(max_length=3)], ...] = Field(default=(), max_length=2)
    blocks: tuple[Annotated[Block | Other, Field(discriminator="kind")], ...] = Field(
        (Block(),), min_length=1
    )
    table: Block = Block()


DIGITS = "9" * 5000


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("number = 0", "number: must be a number from 0.001 to 1000, not 0: it is a share"),
        ("number = nan", "number: must be a number from 0.001 to 1000, not nan: it is a share"),
        ("number = -inf", "number: must be a number from 0.001 to 1000, not -inf: it is a share"),
        ("number = 1e300", "number: must be a number from 0.001 to 1000, not 1e+300: it is a share"),
        ("number = 1e400", "number: must be a number from 0.001 to 1000, not inf: it is a share"),
        ("number = true", "number: must be a number from 0.001 to 1000, not true"),
        ("number = '1'", "number: must be a number from 0.001 to 1000, not '1'"),
        ("number = []", "number: must be a number from 0.001 to 1000, not a list"),
        ("number = {}", "number: must be a number from 0.001 to 1000, not a table"),
        ("number = 1979-05-27", "number: must be a number from 0.001 to 1000, not 1979-05-27"),
        (
            "count = 1e12",
            "count: must be a whole number from 1 to 10,000, not 1000000000000.0: each is fitted",
        ),
        (
            "count = 1000000000",
            "count: must be a whole number from 1 to 10,000, not 1,000,000,000: each is fitted",
        ),
        ("count = 1.5", "count: must be a whole number from 1 to 10,000, not 1.5: each is fitted"),
        ("count = nan", "count: must be a whole number from 1 to 10,000, not nan: each is fitted"),
        (
            f"count = 0x{'f' * 5000}",
            "count: must be a whole number from 1 to 10,000, not an integer of thousands of digits: each is fitted",
        ),
        (
            f"count = {'1' * 400}",
            f"count: must be a whole number from 1 to 10,000, not {'1' * 40}…{'1' * 39}: each is fitted",
        ),
        ("least = 7", "least: must be a whole number from 2 to 3, not 7"),
        ("size = 'large'", "size: must be a number from 0 to 1 or 'scale', not 'large'"),
        ("limit = 6", "limit: must be a whole number from 1 to 5, not 6"),
        ("used = 'maybe'", "used: must be true or false, not 'maybe'"),
        ("used = []", "used: must be true or false, not a list"),
        ("how = 'off'", "how: must be 'auto' or 'on', not 'off'"),
        ("how = 7", "how: must be 'auto' or 'on', not 7"),
        ("name = ''", "name: must be a name without blanks at its ends, not ''"),
        ("name = ' x'", "name: must be a name without blanks at its ends, not ' x'"),
        ("name = 7", "name: must be a text, in quotation marks, not 7"),
        (
            f"name = '{'x' * 101}'",
            f"name: a name has at most 100 characters, and '{'x' * 40}…{'x' * 39}' has 101",
        ),
        (
            'name = "\\u001b[31m"',
            "name: '\\x1b[31m' has characters that cannot be seen; a name is seen in tables",
        ),
        (
            'name = "a\\u202eb"',
            "name: 'a\\u202eb' has characters that cannot be seen; a name is seen in tables",
        ),
        (
            'description = "\\u009b"',
            "description: '\\x9b' has characters that cannot be seen; a description is seen in tables",
        ),
        (
            f"description = '{'x' * 2001}'",
            "description: has 2,001 characters, and a description at most 2,000",
        ),
        ("listed = 'x'", "listed: must be a list"),
        ("listed = ['x', 'y', 'z']", "listed: has more than 2"),
        ("listed = ['long']", "listed[0]: has more than 3 characters"),
        ("blocks = []", "blocks: must have at least 1"),
        ("blocks = [{ kind = 'd' }]", "blocks[0]: no kind 'd'; choose among 'a', 'b', 'c'"),
        ("blocks = [{ kind = '[/x]' }]", "blocks[0]: no kind '[/x]'; choose among 'a', 'b', 'c'"),
        ("blocks = [{}]", "blocks[0]: has no 'kind'"),
        ("blocks = [7]", "blocks[0]: must be a table"),
        ("table = 7", "table: must be a table"),
        ("table = { colour = 1 }", "table.colour: there is no such setting"),
        ("colour = 1", "colour: there is no such setting"),
        ('"\\u001b[31m" = 1', "\\x1b[31m: there is no such setting"),
        (f"{'k' * 1000} = 1", f"{'k' * 20}…{'k' * 19}: there is no such setting"),
    ],
)
def test_a_fault_is_told_by_its_key_in_plain_words(tmp_path, text, says):
    path = tmp_path / "x.toml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        by_name_or_toml(path, {}, Example, "example")
    assert str(caught.value) == f"{path}: {says}"


def test_what_is_within_its_bounds_comes_back_in_its_type():
    found = Example(number=1000, count=10_000.0, size=1, limit=None, description="two\nlines", name="[/x] µ")
    assert (type(found.number), type(found.count), found.size) == (float, int, 1.0)
    assert Example(size="scale", number=1e-3).size == "scale"
    assert Example.model_validate(found.model_dump()) == found


def test_the_first_of_many_faults_is_told():
    with pytest.raises(ValidationError) as caught:
        Example.model_validate({"blocks": [{"kind": 7}] * 5000})
    assert first_fault(caught.value).startswith("blocks[0]: no kind '7'; choose among")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"name = ", "not a TOML file (Invalid value (at end of document))"),
        (b"name = 'caf\xe9'", "not a TOML file ('utf-8' codec can't decode byte 0xe9 in position 11: "),
        ("x = 1".encode("utf-16"), "not a TOML file ('utf-8' codec can't decode byte 0xff in position 0: "),
        (f"x = {'[' * 50_000}".encode(), "not a TOML file that can be read: it is nested too deeply"),
        (f"x = {'{a=' * 50_000}".encode(), "not a TOML file that can be read: it is nested too deeply"),
        (
            f"x = {DIGITS}".encode(),
            "not a TOML file that can be read: it has an integer of thousands of digits",
        ),
        (f"\n{'.'.join('a' * 500)} = 1".encode(), "line 2 has more than 200 dots; write it in several lines"),
        (f"[{'.'.join('a' * 500)}]".encode(), "line 1 has more than 200 dots; write it in several lines"),
        (b"#" * 2**20 + b"#", "has more than 1,048,576 bytes: that is no file of settings"),
        (b"x = 1\nx = 2", "not a TOML file (Cannot overwrite a value (at end of document))"),
    ],
)
def test_a_file_that_is_no_toml_is_told(tmp_path, content, says):
    path = tmp_path / "x.toml"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_toml(path)
    assert str(caught.value).startswith(f"{path}: {says}")


def test_a_byte_order_mark_is_left_out(tmp_path):
    (tmp_path / "x.toml").write_bytes(b"\xef\xbb\xbfx = 1\n")
    assert read_toml(tmp_path / "x.toml") == {"x": 1}


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "loop.toml").symlink_to(tmp_path / "loop.toml")
    for path, says in {
        tmp_path / "pipe.toml": "is a pipe or a device, expected a TOML file",
        "/dev/zero": "is a pipe or a device, expected a TOML file",
        tmp_path: "is a folder, expected a TOML file",
        tmp_path / "loop.toml": "Too many levels of symbolic links",
        tmp_path / "none.toml": "No such file or directory",
    }.items():
        with pytest.raises(InputError) as caught:
            read_toml(type(tmp_path)(path))
        assert str(caught.value) == f"{path}: {says}"


def test_paths_that_cannot_be_are_told(tmp_path):
    for path, says in {
        "x" * 300 + ".toml": f"{'x' * 100}…{'x' * 94}.toml: File name too long",
        "a\0b.toml": "a\\x00b.toml: not a TOML file that can be read: its name has a NUL",
    }.items():
        with pytest.raises(InputError) as caught:
            by_name_or_toml(path, {}, Example, "example")
        assert str(caught.value) == says


def test_a_name_that_is_none_is_cut_and_made_visible():
    with pytest.raises(InputError) as caught:
        by_name_or_toml("\x1b[31m" + "x" * 100_000, {"a": Example()}, Example, "example")
    assert str(caught.value) == (
        f"no example '\\x1b[31m{'x' * 32}…{'x' * 39}'; choose among a, or name a .toml file"
    )
