"""Votes: strengths of systems with their intervals, and damage that is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from titan_speech.evaluate.votes import Study, Trial, Vote, fit, preference, read_votes, strengths


def test_strengths_of_simulated_listeners_are_found_within_their_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("titan_speech.evaluate.votes.NUM_BOOTSTRAPS", 200)
    true_S, systems = np.array([0.8, 0.1, -0.9]), ("a", "b", "c")
    random, covered = np.random.default_rng(0), []
    for repeat in range(12):
        votes, trials = [], {}
        for listener in range(10):
            for number in range(12):
                left, right = random.choice(3, 2, replace=False)
                trial = trials.setdefault(f"{listener}-{number}", Trial(str(number), systems[left], systems[right]))
                is_left = random.random() < 1 / (1 + np.exp(true_S[right] - true_S[left]))
                votes.append(Vote(str(listener), trial, "left" if is_left else "right"))
        found = {one.system: one for one in strengths(Study("s", systems, trials), votes, seed=repeat)}
        covered += [found[name].low <= true <= found[name].high for name, true in zip(systems, true_S, strict=True)]
    assert np.mean(covered) >= 0.85, "of 36 intervals at 95 %"


def test_two_systems_have_the_odds_of_their_votes() -> None:
    both_SS = ~np.eye(2, dtype=bool)
    fitted_S = fit(np.array([[0.0, 29.5], [9.5, 0.0]]), both_SS)
    assert fitted_S[0] - fitted_S[1] == pytest.approx(np.log(30 / 10), abs=1e-6)
    assert np.isfinite(fit(np.array([[0.0, 5.0], [0.0, 0.0]]), both_SS)).all()


def test_a_system_that_a_resampling_leaves_out_stays_on_the_scale_of_the_others() -> None:
    wins_SS = np.zeros((3, 3))
    wins_SS[0, 1] = 20.0
    heard_SS = np.array([[False, True, False], [True, False, True], [False, True, False]])
    fitted_S = fit(wins_SS, heard_SS)
    assert fitted_S[2] - fitted_S[1] == pytest.approx(0.0, abs=1e-3), "compared with the second alone, by no vote"
    assert fitted_S[0] - fitted_S[1] == pytest.approx(np.log(20.5 / 0.5), abs=1e-3)


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "no votes"), ('{"study": "s", "listener": 1, "votes": {"9": "left"}}', "no such trial"), ("[]", "no votes")],
)
def test_damaged_votes_are_named(tmp_path: Path, content: str, message: str) -> None:
    study = Study("s", ("a", "b"), {"1": Trial("p", "a", "b")})
    (tmp_path / "votes.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_votes(tmp_path / "votes.json", study)
    with pytest.raises(ValueError, match="no vote compares c with a"):
        strengths(Study("s", ("a", "b", "c"), study.trials), [Vote("x", study.trials["1"], "tie")])
    (one, other) = strengths(study, [Vote("x", study.trials["1"], "tie")] * 4)
    assert preference(one, other) == pytest.approx(0.5)
