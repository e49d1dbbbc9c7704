"""The audit finds each fault that was put in, finds nothing where nothing is, and its page is safe to open."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.audit_stores import (
    NUM_SAMPLES,
    OTHER_CODEC,
    lasting,
    sound_sample,
    tiny_tokenizer,
    write_audit_store,
)
from tests.support.s3_server import BUCKET, S3Server
from titan_speech.audit import check_samples
from titan_speech.audit.choose_samples import choose, fair_quotas
from titan_speech.audit.measures import expected_scripts, histogram, rate_distribution, script_counts
from titan_speech.audit.page import page
from titan_speech.audit.rules import RULE_NAMES, read_thresholds
from titan_speech.audit.sound import AuditSound, mulaw_wav
from titan_speech.cli.main import main
from titan_speech.codec.load import load_codec
from titan_speech.codec.wav import read_audio
from titan_speech.importers.base import SpeechSample
from titan_speech.storage.s3_url import S3Url
from titan_speech.store import sample_conflicts
from titan_speech.store.manifest import CodecInfo
from titan_speech.store.reader import open_store
from titan_speech.store.sample import SampleInfo
from titan_speech.store.transfer import push_store
from titan_speech.store.writer import StoreWriter
from titan_speech.tokenization.text_tokenizer import TextTokenizer

ROOT = Path(__file__).parents[2]
HOSTILE = "नमस्ते <script>alert(1)</script> & \"quoted\" <img src=x onerror='alert(2)'> \x07 अच्छा"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def sound_store(tmp_path_factory: pytest.TempPathFactory, tokenizer: TextTokenizer) -> Path:
    return write_audit_store(tmp_path_factory.mktemp("stores") / "calls", tokenizer, shard_bytes=2_000)


def audit(store: Path | str, folder: Path, *words: str) -> tuple[int, dict]:
    """Exit code and JSON of the verb."""
    out = folder / "audit.json"
    code = main(["store", "audit", str(store), "--output", str(folder / "audit.html"), "--json", str(out), *words])
    return code, json.loads(out.read_text(encoding="utf-8"))


def found(content: dict) -> dict[tuple[str, str], int]:
    """What was found, by language and rule."""
    return {
        (language["language"], check["rule"]): check["num_found"]
        for language in content["languages"]
        for check in language["checks"]
        if check["num_found"]
    }


def test_a_sound_store_audits_clean(sound_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, content = audit(sound_store, tmp_path)
    assert (code, found(content), content["is_good"]) == (0, {}, True)
    assert content["num_samples"] == content["num_stored"] == 2 * NUM_SAMPLES + 1
    out = capsys.readouterr().out
    assert "within thresholds" in out
    assert "not checked: unknown-token" in out


def test_the_bundled_store_has_the_findings_that_are_really_in_it(tmp_path: Path) -> None:
    """Prompts whose text is not what is said (a beep described in words), spelt names, prompts that repeat."""
    code, content = audit(ROOT / "demo_data", tmp_path, "--tokenizer", str(ROOT / "tokenizer/tiny"), "--codec", "none")
    kinds = {rule for _, rule in found(content)}
    assert code == 0
    assert kinds == {"script", "chars-per-sec", "chars-per-code", "duplicate-transcript"}
    assert {language for language, _ in found(content)} == {"en", "es", "fr", "it", "ru"}
    assert [finding["text"] for finding in content["worst"]["script"]] == ["<beep decending>"]
    assert "asterisk-it/confbridge-leave" in {f["sample_id"] for f in content["worst"]["chars-per-sec"]}
    assert len(content["languages"]) == 16
    assert content["not_checked"] == []


def changed(i: int, **info: object) -> SpeechSample:
    sample = sound_sample("hi", i)
    return replace(sample, info=replace(sample.info, **info))  # type: ignore[arg-type]


def said(i: int, text: str) -> SpeechSample:
    return replace(sound_sample("hi", i), transcripts={"native": text})


def shifted(i: int) -> SpeechSample:
    sample = sound_sample("hi", i)
    return changed(i, end_time=(sample.info.end_time or 0) + 1.0)


def stuck(i: int) -> SpeechSample:
    codes_T = sound_sample("hi", i).codes_T.copy()
    codes_T[5 : 5 + len(codes_T) // 2 + 1] = 43_690
    return replace(sound_sample("hi", i), codes_T=codes_T)


def long(i: int) -> SpeechSample:
    return lasting(sound_sample("hi", i), np.random.default_rng(i).integers(0, 65_536, 2_001, dtype=np.uint16))


def slow(i: int) -> SpeechSample:
    return lasting(sound_sample("hi", i), np.random.default_rng(i).integers(0, 65_536, 1_900, dtype=np.uint16))


FAULTS: list[tuple[str, Callable[[int], SpeechSample], set[str]]] = [
    ("duration", shifted, set()),
    ("length", long, {"chars-per-sec", "chars-per-code"}),
    ("transcript", lambda i: said(i, "। ॥ — … !"), {"chars-per-sec", "chars-per-code", "duplicate-transcript"}),
    ("transcript", lambda i: replace(sound_sample("hi", i), transcripts={}), set()),
    ("script", lambda i: said(i, f"please hold the line {i}"), set()),
    ("chars-per-sec", slow, {"chars-per-code"}),
    ("chars-per-code", slow, {"chars-per-sec"}),
    ("repeat", stuck, set()),
    ("duplicate-transcript", lambda i: said(i, "नमस्ते यह एक छोटा वाक्य है"), set()),
    ("duplicate-audio", lambda i: lasting(sound_sample("hi", i), sound_sample("hi", 3).codes_T), {"chars-per-code"}),
    ("speaker", lambda i: changed(i, speaker_id=None), set()),
]


@pytest.mark.parametrize(("rule", "fault", "also"), FAULTS)
def test_each_fault_is_found_where_it_is(
    rule: str,
    fault: Callable[[int], SpeechSample],
    also: set[str],
    tokenizer: TextTokenizer,
    tmp_path: Path,
) -> None:
    numbers = (3, 17, 31)
    store = write_audit_store(tmp_path / "store", tokenizer, {i: fault(i) for i in numbers})
    code, content = audit(store, tmp_path, "--max-" + rule, "0.05")
    assert set(found(content)) - {("hi", other) for other in also} == {("hi", rule)}
    assert {finding["sample_id"] for finding in content["worst"][rule]} == {f"hi-{i:03}" for i in numbers}
    assert code == 1
    assert audit(store, tmp_path, *(f"--max-{other}=0.1" for other in {rule, *also}))[0] == 0


def test_segments_whose_order_contradicts_their_times_are_found(
    tokenizer: TextTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer refuses most of these; stores from elsewhere may have them."""
    monkeypatch.setattr(sample_conflicts, "_find_contradictions", lambda *_: None)
    late = changed(13, start_time=1e4, end_time=1e4 + len(sound_sample("hi", 13).codes_T) / 50)
    twice = changed(25, segment_order=4)
    store = write_audit_store(tmp_path / "store", tokenizer, {13: late, 25: twice})
    code, content = audit(store, tmp_path)
    assert (code, found(content)) == (1, {("hi", "segment-order"): 2})
    details = " ".join(finding["detail"] for finding in content["worst"]["segment-order"])
    assert "segment 4 starts at 1400 s, before segment 3 at 10000 s" in details
    assert "two segments of its source are number 4" in details


def test_codes_that_the_codebook_does_not_have_are_found(sound_store: Path, tmp_path: Path) -> None:
    code, content = audit(sound_store, tmp_path, "--num-codes", "65000")
    assert code == 1
    assert {rule for _, rule in found(content)} == {"code-range"}


def test_ids_that_do_not_give_the_transcript_back_are_found(tmp_path: Path) -> None:
    """A word-level tokenizer knows the words it was trained on."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"<unk>": 0, "<s>": 1, "</s>": 2} | {
        word: 3 + i for i, word in enumerate(sorted({w for i in range(40) for w in _words(i)}))
    }
    lossy = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    lossy.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    lossy.add_special_tokens(["<s>", "</s>"])
    (tmp_path / "words").mkdir()
    lossy.save(str(tmp_path / "words" / "tokenizer.json"))
    tokenizer = TextTokenizer.load(tmp_path / "words")
    store = write_audit_store(tmp_path / "store", tokenizer, {7: said(7, "नमस्ते यह अनजाना शब्द 7")})
    code, content = audit(store, tmp_path, "--tokenizer", str(tmp_path / "words"))
    assert code == 1
    assert found(content)[("hi", "unknown-token")] == 1
    assert "unknown token" in content["worst"]["unknown-token"][0]["detail"]


def _words(i: int) -> list[str]:
    return " ".join(sound_sample(language, i).transcripts["native"] for language in ("hi", "en")).split()


def test_thresholds_come_from_a_file_by_language_and_from_options_over_it(
    tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    store = write_audit_store(tmp_path / "store", tokenizer, {i: shifted(i) for i in (3, 17, 31)})
    file = tmp_path / "limits.toml"
    file.write_text("duration = 0.01\n[language.hi]\nduration = 0.1\n", encoding="utf-8")
    assert audit(store, tmp_path, "--thresholds", str(file))[0] == 0
    assert audit(store, tmp_path, "--thresholds", str(file), "--max-duration", "0.05")[0] == 1
    assert audit(store, tmp_path, "--max-duration", "0.075")[0] == 0  # 3 of 40: the threshold itself is allowed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--samples", "2"], "cannot cover the 3 parts"),
        (["--thresholds", "limits.toml"], "no check is called 'duratoin'; did you mean duration?"),
        (["--thresholds", "shares.toml"], "duration is 5; expected a share from 0 to 1"),
        (["--thresholds", "tamil.toml"], "the store has no language 'ta'"),
        (["--thresholds", "absent.toml"], "cannot be read"),
        (["--codec", "embedded"], "would decode to noise"),
        (["--codec", "nonsense"], "unknown codec"),
        (["--tokenizer", str(ROOT / "tokenizer/tiny")], "was built with tokenizer"),
        (["--output", "no/such/folder.html"], "does not exist"),
    ],
)
def test_bad_input_is_one_message_and_writes_nothing(
    words: list[str],
    message: str,
    sound_store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("limits.toml").write_text("duratoin = 0.1\n")
    Path("shares.toml").write_text("duration = 5\n")
    Path("tamil.toml").write_text("[language.ta]\nduration = 0.1\n")
    assert main(["store", "audit", str(sound_store), *words]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("*.html*"))


def test_what_nothing_was_checked_of_is_not_called_good(
    tokenizer: TextTokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with StoreWriter(
        tmp_path / "text", name="t", codec=None, tokenizer=tokenizer, normalization_version="1", licence="CC0-1.0"
    ) as writer:
        writer.add_text(SampleInfo(sample_id="a", dataset_source="wiki", language="qaa"), "a document of words")
    assert main(["store", "audit", str(tmp_path / "text"), "--output", str(tmp_path / "a.html")]) == 2
    assert "give --tokenizer" in capsys.readouterr().err
    with StoreWriter(
        tmp_path / "both",
        name="b",
        codec=OTHER_CODEC,
        tokenizer=tokenizer,
        normalization_version="1",
        licence="CC0-1.0",
    ) as writer:
        writer.add_text(SampleInfo(sample_id="a", dataset_source="wiki", language="qaa"), "a document of words")
        writer.add_speech(sound_sample("hi", 1).info, sound_sample("hi", 1).codes_T, {"native": "नमस्ते"})
    _, content = audit(tmp_path / "both", tmp_path)
    assert [language["verdict"] for language in content["languages"]] == ["good", "not checked"]
    assert "chars-per-code of hi: fewer than 20 transcribed samples" in capsys.readouterr().out


def test_a_store_in_object_storage_audits_as_in_a_folder(
    sound_store: Path, s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = s3_server.settings(tmp_path / "cache")
    push_store(sound_store, S3Url(BUCKET, "audited"), settings)
    monkeypatch.setenv("AWS_ENDPOINT_URL", settings.endpoint_url)
    monkeypatch.setenv("TITAN_SPEECH_CACHE", settings.cache_dir)
    _, here = audit(sound_store, tmp_path)
    code, there = audit(f"s3://{BUCKET}/audited", tmp_path)
    assert code == 0
    assert there["languages"] == here["languages"]


def test_equal_seeds_draw_equal_samples_and_every_part_is_covered(sound_store: Path, tmp_path: Path) -> None:
    store = open_store(sound_store)
    assert len(store.part("calls", "hi", store.parts[0].kind).info.shards) > 4

    def draw(seed: int) -> list[tuple[str, int]]:
        return [
            (part.part.name, shard.first + row)
            for part in choose(store, 21, seed)
            for shard in part.shards
            for row in shard.rows
        ]

    assert draw(0) == draw(0) != draw(1)
    assert len(set(draw(0))) == 21
    assert Counter(name for name, _ in draw(0)) == {"calls.en.speech": 10, "calls.hi.speech": 10, "wiki.en.text": 1}
    pages = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        audit(sound_store, tmp_path / name, "--samples", "21", "--seed", "5")
        pages.append((tmp_path / name / "audit.html").read_text(encoding="utf-8"))
    assert pages[0] == pages[1]


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=20), st.integers(0, 5000))
def test_quotas_are_fair_and_add_up(sizes: list[int], extra: int) -> None:
    total = len(sizes) + extra
    quotas = fair_quotas(sizes, total)
    assert sum(quotas) == min(total, sum(sizes))
    assert all(1 <= quota <= size for quota, size in zip(quotas, sizes, strict=True))
    open_quotas = [quota for quota, size in zip(quotas, sizes, strict=True) if quota < size]
    assert not open_quotas or max(quotas) - min(open_quotas) <= 1


class Reader(HTMLParser):
    """Collects what a browser would show, load and run; every element must be closed."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: Counter[str] = Counter()
        self.sources: list[str] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag not in {"meta", "br", "img", "rect", "line"} or tag in {"rect"}:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_escapes_what_it_shows_and_loads_nothing(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    hostile = replace(said(7, HOSTILE), info=changed(7, sample_id="<b>&'\"7").info)
    store = write_audit_store(tmp_path / "store", tokenizer, {7: hostile, 9: stuck(9)})
    audit(store, tmp_path, "--listen", str(NUM_SAMPLES))
    text = (tmp_path / "audit.html").read_text(encoding="utf-8")
    page = Reader(text)
    assert not {"script", "img", "link", "iframe", "b"} & set(page.tags)
    assert all(source.startswith("#") for source in page.sources)
    shown = "".join(page.words)
    assert HOSTILE.replace("\x07", r"\u0007") in shown
    assert "<b>&'\"7" in shown
    assert "not audible: codec xcodec2 (hash feedc0de00000000) is not available" in shown
    assert page.tags["caption"] == page.tags["table"] == 2
    assert page.tags["svg"] == 6
    anchors = set(re.findall(r'id="([^"]+)"', text))
    assert {source.removeprefix("#") for source in page.sources} <= anchors


def test_control_characters_are_shown_escaped_wherever_they_come_from(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    """Ids, tags and names of a store from elsewhere may hold what a terminal would obey."""
    escape = "\x1b]0;owned\x07\x9b\u202e\u2066"
    store = write_audit_store(tmp_path / f"store{escape}", tokenizer, {9: stuck(9)})
    opened = open_store(store)
    thresholds = read_thresholds(None, {})
    parts = choose(opened, 50, 0)
    report = check_samples.audit(opened, parts, None, thresholds, seed=0, num_codes=65_536, num_random=2)
    report = replace(
        report,
        languages=tuple(
            replace(x, language=x.language + escape, random=tuple(replace(s, sample_id=escape) for s in x.random))
            for x in report.languages
        ),
        worst={
            name: tuple(replace(f, detail=escape, sample=replace(f.sample, text=escape)) for f in found)
            for name, found in report.worst.items()
        },
    )
    text = "".join(page(report, AuditSound(why_silent=f"no codec {escape}"), lambda: None))
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)
    assert text.count(r"\u001b]0;owned\u0007\u009b\u202e\u2066") > 10


def test_a_store_of_the_embedded_codec_can_be_heard(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    codec = load_codec("embedded")
    codes_T = codec.encode(read_audio(ROOT / "tests/assets/hi-espeak-library-name.wav"))
    store = write_audit_store(
        tmp_path / "store",
        tokenizer,
        {7: lasting(sound_sample("hi", 7), codes_T)},
        codec=CodecInfo("embedded", codec.codec_hash),
    )
    audit(store, tmp_path, "--listen", "1")
    page = Reader((tmp_path / "audit.html").read_text(encoding="utf-8"))
    assert page.tags["audio"] == 2  # one in each language
    assert all(source.startswith(("#", "data:audio/wav;base64,")) for source in page.sources)
    (tmp_path / "quiet").mkdir()
    audit(store, tmp_path / "quiet", "--codec", "none")
    assert Reader((tmp_path / "quiet/audit.html").read_text(encoding="utf-8")).tags["audio"] == 0


def test_mulaw_wavs_sound_like_the_samples(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    wav_T = (np.sin(np.arange(3201) / 7) * np.linspace(-1, 1, 3201)).astype(np.float32)
    (tmp_path / "a.wav").write_bytes(mulaw_wav(wav_T, 16_000))
    heard_T, rate = soundfile.read(tmp_path / "a.wav", dtype="float32")
    assert (rate, heard_T.shape) == (16_000, wav_T.shape)
    noise = float(np.mean((heard_T - wav_T) ** 2) / np.mean(wav_T**2))
    assert -10 * np.log10(noise) > 36


def test_scripts_are_told_by_letters_and_languages_by_subtag() -> None:
    assert script_counts("नमस्ते, world 12 ।") == {"DEVANAGARI": 4, "LATIN": 5}
    assert expected_scripts("hi-Latn") == {"LATIN"}
    assert expected_scripts("mni") == {"BENGALI", "MEETEI"}
    assert expected_scripts("qaa") is None


def test_the_spread_withstands_a_third_of_outliers() -> None:
    rates = [10.0 + i / 100 for i in range(40)]
    usual, spoilt = rate_distribution(rates), rate_distribution([*rates, *[500.0] * 20])
    assert usual is not None
    assert spoilt is not None
    assert usual.robust_z(12) < 5 < usual.robust_z(20)
    assert spoilt.robust_z(500) > 5
    assert rate_distribution(rates[:19]) is None


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=200))
def test_histograms_lose_no_value(values: list[float]) -> None:
    made = histogram(values)
    assert made is not None
    assert sum(made.counts) == made.num_values == len(values)
    assert made.stop >= np.percentile(values, 99)


def test_every_check_is_described_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["store", "audit", "--help"])
    out = capsys.readouterr().out
    assert all(f"--max-{name}" in out for name in RULE_NAMES)


def test_the_page_tells_of_each_sample_it_has_shown(sound_store: Path) -> None:
    store = open_store(sound_store)
    parts = choose(store, 50, 0)
    thresholds = read_thresholds(None, {})
    report = check_samples.audit(store, parts, None, thresholds, seed=0, num_codes=65_536, num_random=3)
    told: list[int] = []
    text = "".join(page(report, AuditSound(why_silent="no codec"), lambda: told.append(1)))
    assert len(told) == report.num_shown == text.count(" · <bdi>") > 0
