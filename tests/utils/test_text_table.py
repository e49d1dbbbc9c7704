"""Columns of printed tables, and numbers as text."""

from __future__ import annotations

from titan_speech.utils.text_table import gigabytes, large, table_lines


def test_columns_are_aligned_as_asked_and_lines_have_no_trailing_blanks() -> None:
    rows = [("name", "share", "tokens", ""), ("a", "5.0%", "1,000", "new"), ("long", "95.0%", "9", "")]
    assert table_lines(rows, "<>>>") == [
        "name  share  tokens",
        "a      5.0%   1,000  new",
        "long  95.0%       9",
    ]


def test_the_last_alignment_holds_for_all_further_columns() -> None:
    rows = [("a", "bb", "c"), ("dd", "e", "ff")]
    assert table_lines(rows) == ["a   bb  c", "dd  e   ff"]
    assert table_lines(rows, "<>") == ["a   bb   c", "dd   e  ff"]


def test_no_rows_give_no_lines() -> None:
    assert table_lines([]) == []


def test_small_sizes_keep_two_digits() -> None:
    assert [gigabytes(value) for value in (0, 1234567, 12_345_678_901)] == ["0.00 GB", "0.0012 GB", "12.35 GB"]
    assert [large(value) for value in (950, 1.855e9)] == ["950", "1.855 B"]
