"""Every key of a TOML file is found at its line, whatever way it is written."""

from __future__ import annotations

import math
import textwrap

import pytest
import tomli
from hypothesis import given, settings
from hypothesis import strategies as st

from titan_speech.config.problem import ConfigProblem, KeyPath
from titan_speech.config.toml_text import key_lines, parse_toml, toml_key, toml_string
from titan_speech.config.tree import TableNode


def paths_of(value: object, path: KeyPath = ()) -> set[KeyPath]:
    """Every path of tomli's value, tables and array elements included."""
    inner: list[tuple[str | int, object]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    return {path}.union(*(paths_of(child, (*path, key)) for key, child in inner))


AWKWARD = textwrap.dedent('''\
    # a comment = "with a key"
    top = 1
    "quoted key" = "# no comment"
    'literal.key' = 'x = 1'
    dotted.inner . "third" = true

    [data]  # [not.a.header]
    text = """
    [fake.header]
    key = "no key" \\
    """
    literal = \'\'\'
    a = 1\'\'\'
    quotes = """ends in two quotes"""""
    mixed = [
        1, # one
        "two]",
        [3, { four = 4, five.six = [5, 6] }],
    ]
    inline = { a = 1, b = { "c d" = "}" } }

    [[data.source]]
    name = "first"

    [data.source.floor]
    hi = 0.1

    [[data.source]]
    name = "second"
    rules = [
        { x = 1 },
        { x = 2 }
    ]

    [[data.source.inner]]
    deep = 1
    [[data.source.inner]]
    deep = 2
''')


def test_every_key_of_an_awkward_file_has_the_line_it_is_written_on() -> None:
    lines = key_lines(AWKWARD)
    written = AWKWARD.splitlines()
    assert paths_of(tomli.loads(AWKWARD)) <= set(lines)
    expected = {
        ("top",): "top = 1",
        ("quoted key",): '"quoted key"',
        ("literal.key",): "'literal.key'",
        ("dotted", "inner", "third"): "dotted.inner",
        ("data", "text"): 'text = """',
        ("data", "literal"): "literal = '''",
        ("data", "quotes"): "quotes =",
        ("data", "mixed", 1): '"two]"',
        ("data", "mixed", 2, 1, "five", "six"): "[3, {",
        ("data", "inline", "b", "c d"): "inline =",
        ("data", "source", 0): "[[data.source]]",
        ("data", "source", 0, "floor", "hi"): "hi = 0.1",
        ("data", "source", 1, "name"): 'name = "second"',
        ("data", "source", 1, "rules", 1, "x"): "{ x = 2 }",
        ("data", "source", 1, "inner", 1, "deep"): "deep = 2",
    }
    for path, start in expected.items():
        assert written[lines[path] - 1].strip().startswith(start), path


def test_windows_line_ends_do_not_shift_the_lines() -> None:
    assert key_lines(AWKWARD.replace("\n", "\r\n")) == key_lines(AWKWARD)


SCALARS = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
)
KEYS = st.one_of(
    st.sampled_from(["a", "b", "source", "name", "a-b"]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=12,
)
DOCUMENTS = st.dictionaries(KEYS, VALUES | st.lists(st.dictionaries(KEYS, VALUES, max_size=3), max_size=3))


def inline(value: object, draw_break) -> str:
    """A value on one or, inside arrays, several lines."""
    if isinstance(value, dict):
        pairs = (f"{toml_key(key)} = {inline(child, draw_break)}" for key, child in value.items())
        return "{ " + ", ".join(pairs) + " }"
    if isinstance(value, list):
        gap = draw_break()
        return f"[{gap}" + f",{gap}".join(inline(child, draw_break) for child in value) + f"{gap}]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return toml_string(value)
    return repr(value) if not isinstance(value, float) or math.isfinite(value) else f"{value:f}"


def document(tables: dict, draw_break, header: str = "") -> str:
    """A TOML file with headers for the tables and arrays of tables of the outer two levels."""
    own, headed = [], []
    for key, value in tables.items():
        path = f"{header}.{toml_key(key)}" if header else toml_key(key)
        if isinstance(value, dict) and header.count(".") < 2:
            headed.append(f"{draw_break()}[ {path} ] # = [\n{document(value, draw_break, path)}")
        elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            headed += [f"[[{path}]]\n{document(item, draw_break, path)}" for item in value]
        else:
            own.append(f"{draw_break()}{toml_key(key)} = {inline(value, draw_break)} # tail\n")
    return "".join(own + headed)


@settings(max_examples=150, deadline=None)
@given(DOCUMENTS, st.data())
def test_the_scan_finds_exactly_the_paths_that_tomli_reads(tables: dict, data: st.DataObject) -> None:
    text = document(tables, lambda: data.draw(st.sampled_from(["", "\n", "  # x = [{\n", "\n\n  "])))
    read = tomli.loads(text)
    assert read == tables
    lines = key_lines(text)
    assert set(lines) == paths_of(read)
    assert all(1 <= line <= text.count("\n") + 1 for line in lines.values())


@pytest.mark.parametrize(
    ("text", "line"),
    [("a = 1\nb = \n", 2), ("[x\n", 1), ("a = 1\na = 2\n", 2), ('a = "open\n', 1)],
)
def test_a_syntax_error_is_a_problem_with_its_line(text: str, line: int) -> None:
    problem = parse_toml(text, "x.toml")
    assert isinstance(problem, ConfigProblem)
    assert str(problem).startswith(f"x.toml:{line}: found a syntax error")


def test_every_node_of_the_tree_knows_its_file() -> None:
    tree = parse_toml(AWKWARD, "dir/x.toml")
    assert isinstance(tree, TableNode)
    assert str(tree.entries["top"].origin) == "dir/x.toml:2"


def test_values_nested_too_deeply_are_a_problem_not_a_crash() -> None:
    assert isinstance(parse_toml("a = " + "[" * 20_000 + "]" * 20_000, "x.toml"), ConfigProblem)
