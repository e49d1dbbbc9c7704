"""Codes that are one off are told from sound ones by the codec alone."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.runs import ROOT
from titan_speech.audit.choose_samples import choose
from titan_speech.audit.reencode import MAX_CODES, NUM_SAMPLES, chosen_codes, reencode
from titan_speech.codec.load import load_codec
from titan_speech.store.reader import open_store

NUM_CODES = 65_536


def test_samples_are_taken_from_all_parts_in_turn() -> None:
    codes = chosen_codes(choose(open_store(ROOT / "demo_data"), 400, seed=0))
    assert len(codes) == NUM_SAMPLES
    assert max(map(len, codes)) == MAX_CODES


@pytest.mark.parametrize("shift", [-1, 0, 1])
def test_a_shift_is_named_and_sound_codes_pass(shift: int) -> None:
    samples = chosen_codes(choose(open_store(ROOT / "demo_data"), 400, seed=0))[:10]
    moved = [np.clip(codes_F.astype(np.int64) + shift, 0, NUM_CODES - 1) for codes_F in samples]
    found = reencode(load_codec("embedded"), moved)
    assert found.shift == shift
    assert ("import them again" in str(found)) == bool(shift)
