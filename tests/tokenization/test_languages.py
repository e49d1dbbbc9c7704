"""Language tags: those of sources become those of a store."""

from __future__ import annotations

from pathlib import Path

from titan_speech.tokenization.languages import script_of, tag_of_path, to_tag


def test_tags_of_sources_become_those_of_a_store() -> None:
    names = ["hin", "hin_Deva", "Hindi", "hi-IN", "hin_Latn", "eng_Latn", "ory", "pan_Guru", "xx1"]
    assert [to_tag(name) for name in names] == ["hi", "hi", "hi", "hi-IN", "hi-Latn", "en", "or", "pa", "xx1"]
    names = ["pan_Arab", "pa-arab", "ben_Mtei", "aze_Cyrl", "zh_Hant", "urd_Arab", "sat_Olck", "de-1901"]
    tags = ["pa-Arab", "pa-Arab", "bn-Mtei", "aze-Cyrl", "zh-Hant", "ur", "sat-Olck", "de-1901"]
    assert [to_tag(name) for name in names] == tags
    assert script_of("de-1901") == "Latin"
    paths = [
        "hi/hi_part_00000.parquet",
        "verified/hin/data-0.parquet",
        "synthetic/hin_Latn/d.parquet",
        "pan_Arab/d.jsonl",
        "hi-1.txt",
        "a/b",
    ]
    assert [tag_of_path(Path(path)) for path in paths] == ["hi", "hi", "hi-Latn", "pa-Arab", "hi", None]
