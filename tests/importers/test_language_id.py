"""Text is compared with its tag: the language by identification, the script by its letters."""

from __future__ import annotations

import json
from pathlib import Path

from titan_speech.importers.language_id import identify, language_fits, script_share
from titan_speech.tokenization.normalize import normalize

DOCUMENTS = [json.loads(line) for line in (Path(__file__).parents[1] / "assets/documents.jsonl").open(encoding="utf-8")]


def test_every_language_of_the_recipe_is_told_from_the_others() -> None:
    for document in DOCUMENTS:
        text = normalize(document["text"], document["language"])
        assert identify(text) == document["language"]
        assert language_fits(text, document["language"])[0]
        assert script_share(text, document["language"]) > 0.9
    assert len({document["language"] for document in DOCUMENTS}) == 12


def test_a_tag_that_is_wrong_is_seen() -> None:
    hindi = next(document["text"] for document in DOCUMENTS if document["language"] == "hi")
    assert language_fits(hindi, "mr") == (False, "hi")
    assert script_share(hindi, "ta") < 0.1


def test_text_is_compared_with_the_script_that_its_tag_names() -> None:
    shahmukhi, gurmukhi = "ایہہ پنجابی وچ لکھیا ہویا اک جملہ اے", "ਇਹ ਪੰਜਾਬੀ ਵਿੱਚ ਲਿਖਿਆ ਹੋਇਆ ਇੱਕ ਵਾਕ ਹੈ"
    assert script_share(shahmukhi, "pa-Arab") == script_share(gurmukhi, "pa") == 1
    assert script_share(shahmukhi, "pa") == script_share(gurmukhi, "pa-Arab") == 0
    assert language_fits(shahmukhi, "pa-Arab")[0], "identification knows Punjabi in one script only"
