"""Write the README of the bundled stores from their manifests: totals, licences and how to rebuild them."""
# ruff: noqa: E501 (a page with tables)

from __future__ import annotations

from titan_speech.store.manifest import Manifest

TEXT = """# Bundled token stores

Real speech as tokens, so that a first run needs no download: `demo_data` (train) and `demo_data/heldout`, which holds prompts
that occur in no language and no voice of the train store. Every code is the embedded codec's (`titan_speech/codec`,
hash `{codec}`), **not XCodec2's**; text ids are those of `tokenizer/tiny`.

{tables}
`asterisk` and `espeak` are paired with transcripts; `asterisk-speech` and `espeak-speech` are other samples, speech only;
`gnome-help`, `wordnet` and `libreoffice-ui` are text only. Segments of one help page (`source_video_id`) are adjacent in
`segment_order` and read by one voice.

## Licences

| data | what it is | from the Debian package | licence |
|---|---|---|---|
| `asterisk`, `asterisk-speech` | human voices (Allison Smith: en es, June Wallack: fr, Carlo Flora: it, Maxim and others: ru) reading telephone prompts, encoded | asterisk-core-sounds-en, -es, -fr, -it, -ru 1.6.1 | CC-BY-SA-3.0 |
| `espeak`, `espeak-speech`, pages | espeak-ng 1.51 reading Indic help pages, encoded | gnome-user-docs 43.0 (GNOME documentation authors and translators) | CC-BY-SA-3.0 |
| `espeak`, `espeak-speech`, strings | espeak-ng 1.51 reading Indic user interface messages, encoded | libreoffice-l10n-as, -bn, -gu, -hi, -kn, -ml, -mr, -or, -pa-in, -ta, -te 7.4.7 (The Document Foundation and translators) | MPL-2.0 |
| `gnome-help` | help pages as text ids | gnome-user-docs 43.0 | CC-BY-SA-3.0 |
| `libreoffice-ui` | user interface messages as text ids | libreoffice-l10n-* 7.4.7 | MPL-2.0 |
| `wordnet` | glosses as text ids | wordnet-base 3.0 (Princeton University) | WordNet 3.0 licence |

These stores are derived from those works, changed by trimming, encoding and tokenizing, and are shared under the same
licences, not under the licence of the code. WordNet 3.0 Copyright 2006 by Princeton University. All rights reserved.

## Rebuild

```
python scripts/build_corpus.py --output corpus
python scripts/build_demo_data.py --corpus corpus --output demo_data
```

The same packages, codec weights and tokenizer give the same bytes on one machine; elsewhere at least 99.9 % of the
codes are equal (the resampler and the synthesiser compute in single precision, the encoder in double).
"""


def readme(train: Manifest, heldout: Manifest) -> str:
    tables = "\n".join(_table(title, manifest) for title, manifest in (("Train", train), ("Held out", heldout)))
    return TEXT.format(codec=train.codec.hash if train.codec else "", tables=tables)


def _table(title: str, manifest: Manifest) -> str:
    lines = [
        f"## {title}",
        "",
        "| source | kind | languages | samples | tokens | hours |",
        "|---|---|---|---|---|---|",
    ]
    for source, kind in sorted({(part.dataset_source, part.kind) for part in manifest.parts}):
        parts = [part for part in manifest.parts if (part.dataset_source, part.kind) == (source, kind)]
        samples, tokens = sum(p.num_samples for p in parts), sum(p.num_tokens for p in parts)
        hours = f"{sum(p.duration_sec for p in parts) / 3600:.2f}" if str(kind) == "speech" else ""
        languages = " ".join(sorted(p.language for p in parts))
        lines.append(f"| {source} | {kind} | {languages} | {samples:,d} | {tokens:,d} | {hours} |")
    return "\n".join([*lines, ""])
