"""Estimate what a parser of HTML has to do for a text, before it is given one.

In: text with tags. Out: whether parsing it would take far more than reading it. The rules of browsers make parsers slow
for tags that nobody writes: every tag looks through the elements that are open (100 kB of `<div>` took 5 s, and four
times as much for twice the text), every attribute through the others of its tag (170 kB: 5 s), and every paragraph
repeats formatting that was never closed, so the tree can be many times the text. The sum of these is counted, from
above, in one pass of about 1 us per tag; it depends on the text alone, so what is kept is the same on every machine.
"""

from __future__ import annotations

import regex

WORK_PER_CHAR, FREE_WORK = 32, 4_000_000
"""Pages have 1 to 10 per character; a unit takes the parser about 25 ns."""
_WORK_PER_FORMAT = 64
"""A repeated formatting element is an allocation."""

_TAG = regex.compile(
    r"<(?P<close>/?)(?P<name>[a-z][^\s/>]*+)(?P<rest>(?:(?<=[\w-])=\s*+(?:\"[^\"]*+\"|'[^']*+')|[^>])*+)",
    flags=regex.IGNORECASE,
)
_QUOTED = regex.compile(r"(?<=[\w-])=\s*+(?:\"[^\"]*+\"|'[^']*+')")
_SEPARATOR = regex.compile(r"[\s/]++")
_VOID = frozenset(
    ["area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"]
)
_ENDS = {
    name: frozenset(ended.split())
    for name, ended in (
        ("p", "p"),
        ("li", "li"),
        ("dt", "dt dd"),
        ("dd", "dt dd"),
        ("option", "option"),
        ("tr", "tr td th"),
        ("td", "td th"),
        ("th", "td th"),
    )
}
"""The elements whose end tag may be left out before the next one of a name."""
_FORMATS = frozenset(["a", "b", "big", "code", "em", "font", "i", "nobr", "s", "small", "strike", "strong", "tt", "u"])
_BARRIERS = frozenset(["applet", "caption", "marquee", "object", "table", "td", "template", "th"])
"""Formatting from outside is not closed inside of these."""
_EQUAL_FORMATS = 3
"""Of the equal formatting tags that are open, a parser repeats three."""
_SEARCHED = 64
_FEW_TAGS, _FEW_CHARS = 300, 2_500
"""Texts with fewer stay below `FREE_WORK` whatever their tags are."""


def is_tangled(text: str) -> bool:
    """Whether parsing takes more than `WORK_PER_CHAR` per character and `FREE_WORK`."""
    if len(text) <= _FEW_CHARS or (text.count("<") <= _FEW_TAGS and not _has_long_tag(text)):
        return False
    budget, work, opened = WORK_PER_CHAR * len(text) + FREE_WORK, 0, _Open()
    for tag in _TAG.finditer(text):
        name = tag["name"].lower()
        if tag["close"]:
            opened.close(name)
        elif name not in _VOID:
            opened.open(name, tag["rest"])
        num_attributes = len(_SEPARATOR.findall(_QUOTED.sub(" ", tag["rest"]))) if len(tag["rest"]) > 1000 else 0
        work += len(opened.elements) + _WORK_PER_FORMAT * len(opened.formats) + num_attributes**2 // 2
        if work > budget:
            return True
    return False


def _has_long_tag(text: str) -> bool:
    """Whether a `<` is further than that from the next."""
    return any(len(piece) > _FEW_CHARS for piece in text.split("<")[1:])


class _Open:
    """Elements and formatting that are open, at least as many as a parser has."""

    def __init__(self) -> None:
        self.elements: list[str] = []
        self.formats: list[tuple[str, str, int]] = []
        """Name, attributes, and the number of barriers around it."""
        self._num_barriers = 0

    def open(self, name: str, rest: str) -> None:
        if name in _FORMATS:
            entry = (name, rest, self._num_barriers)
            if self.formats[-_SEARCHED:].count(entry) < _EQUAL_FORMATS:
                self.formats.append(entry)
            return
        while self.elements and self.elements[-1] in _ENDS.get(name, ()):
            self._pop()
        self.elements.append(name)
        self._num_barriers += name in _BARRIERS

    def close(self, name: str) -> None:
        if name in _FORMATS:
            for index in range(len(self.formats) - 1, max(-1, len(self.formats) - 1 - _SEARCHED), -1):
                if self.formats[index][0] == name and self.formats[index][2] == self._num_barriers:
                    del self.formats[index]
                    return
        elif name in self.elements[-_SEARCHED:]:
            while self._pop() != name:
                pass

    def _pop(self) -> str:
        name = self.elements.pop()
        if name in _BARRIERS:
            self._num_barriers -= 1
            while self.formats and self.formats[-1][2] > self._num_barriers:
                self.formats.pop()
        return name
