"""Reports of benchmarks: their one shape, intervals that no outlier moves, baselines that fail on loss alone."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import check
from benchmarks.check import Entry, entries_of, judged, main, read_baseline, write_baseline
from benchmarks.machine import key_of
from benchmarks.record import Case, Figure, Goal, Machine, Ratio, Report, interval, read_report
from benchmarks.report import by_suite

MACHINE = Machine("cpu x86_64", False, 0, 2, 1, 0.5, 0.6, {"torch": "2.14.1"}, "abc1234")
OVERHEAD = Ratio.of("overhead", "seconds a step", [1.02, 1.01, 1.05, 1.0, 1.01, 1.03, 1.02], Goal("at most", 1.03))
RATE = Ratio.of("ours_to_theirs", "trained tokens a second", [2.0, 2.1, 2.05], Goal("at least", 2.0))
CASE = Case("one", "a case", {"rounds": 7.0}, (Figure.of("step_sec", "s", [1.0, 1.5]),), {"mfu": "no peak of a CPU"})
REPORT = Report("train_step", "2026-01-01 00:00 UTC", 60.0, True, False, "", MACHINE, (CASE,), (OVERHEAD, RATE))


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    REPORT.write(tmp_path / "report.json")
    assert read_report(tmp_path / "report.json") == replace(
        REPORT, ratios=tuple(read_report(tmp_path / "report.json").ratios)
    )
    assert read_report(tmp_path / "report.json").ratio("overhead").goal == Goal("at most", 1.03)


def test_a_report_of_another_format_is_refused(tmp_path: Path) -> None:
    replace(REPORT, format=99).write(tmp_path / "report.json")
    with pytest.raises(ValueError, match="found format 99, expected 1"):
        read_report(tmp_path / "report.json")


def test_one_wild_value_does_not_move_the_interval_of_the_median() -> None:
    values = [1.0 + 0.001 * i for i in range(30)]
    low, high = interval(values)
    assert values[8] <= low <= 1.0145 <= high <= values[21]
    assert interval([*values[:-1], 100.0]) == (low, high)
    assert interval([3.0, 1.0]) == (1.0, 3.0)


@pytest.mark.parametrize("count", [6, 7, 10, 12, 24, 30])
def test_an_interval_holds_the_median_with_at_least_95_percent_and_none_that_is_narrower_does(count: int) -> None:
    low, high = interval(range(count))
    assert low + high == count - 1
    chance = [1 - 2 * sum(math.comb(count, i) for i in range(int(low) + more)) / 2**count for more in (1, 2)]
    assert chance[0] >= 0.95 > chance[1]


def test_parts_of_a_suite_are_one_report_that_names_both_revisions_and_no_case_twice() -> None:
    other = replace(REPORT, cases=(replace(CASE, name="two"),), machine=replace(MACHINE, git_revision="def5678"))
    both = by_suite([REPORT, other])["train_step"]
    assert [case.name for case in both.cases] == ["one", "two"]
    assert both.machine.git_revision == "abc1234, def5678"
    with pytest.raises(ValueError, match="found one in two reports"):
        by_suite([REPORT, REPORT])
    with pytest.raises(ValueError, match="expected one device"):
        by_suite([REPORT, replace(other, machine=replace(MACHINE, device="NVIDIA H100"))])


def test_goals_are_judged_by_the_median_and_tell_which_way_is_better() -> None:
    assert (OVERHEAD.median, OVERHEAD.is_met, OVERHEAD.better) == (1.02, True, "lower")
    assert (RATE.is_met, RATE.better) == (True, "higher")
    assert Ratio.of("slow", "", [1.9], Goal("at least", 2.0)).verdict == "MISSED by 5.0%"
    assert Ratio.of("wide", "", [1.9, 2.4, 2.5], Goal("at least", 2.0)).verdict == "met (the interval holds the goal)"


@pytest.mark.parametrize(("change", "is_lost"), [(0.94, True), (0.97, False), (1.5, False)])
def test_a_baseline_is_lost_beyond_its_tolerance_and_only_that_way(change: float, is_lost: bool) -> None:
    higher = Entry("suite", "name", 2.0, 0.05, "higher")
    lower = Entry("suite", "name", 2.0, 0.05, "lower")
    assert higher.is_lost(2.0 * change) is is_lost
    assert lower.is_lost(2.0 * (2 - change)) is is_lost


def test_a_report_passes_the_baseline_that_is_made_of_it_and_a_worse_one_does_not(tmp_path: Path) -> None:
    path = tmp_path / "cpu.json"
    write_baseline(path, [REPORT])
    baseline = read_baseline(path)
    assert [(one.found is not None, one.is_lost) for one in judged(baseline, [REPORT])] == [(True, False)] * 2
    slowed = Ratio.of("overhead", "seconds a step", [value * 1.5 for value in OVERHEAD.values])
    verdicts = judged(baseline, [replace(REPORT, ratios=(slowed,))])
    assert {one.entry.name: (one.found is not None, one.is_lost) for one in verdicts} == {
        "overhead": (True, True),
        "ours_to_theirs": (False, False),
    }


def test_memory_is_held_on_every_machine() -> None:
    held = replace(CASE, figures=(Figure.of("tensors_gb", "GB", [0.3]),))
    (entry,) = entries_of(replace(REPORT, cases=(held,), ratios=()))
    assert entry.is_lost(0.33)
    assert not entry.is_lost(0.2)


def test_a_build_that_lost_its_compilation_is_caught_by_its_graphs() -> None:
    def of_graphs(count: float) -> Report:
        figures = (Figure.of("compiled_graphs", "graphs", [count]),)
        return replace(REPORT, cases=(replace(CASE, figures=figures),), ratios=())

    baseline = entries_of(of_graphs(2.0))
    assert [one.is_lost for one in judged(baseline, [of_graphs(0.0)])] == [True]
    assert [one.is_lost for one in judged(baseline, [of_graphs(2.0)])] == [False]
    assert not entries_of(of_graphs(0.0))


def test_an_unsteady_ratio_is_no_entry_and_is_judged_all_the_same() -> None:
    unsteady = replace(REPORT, cases=(), ratios=(Ratio.of("overhead", "", [0.1, 1.0, 2.0, 3.0, 9.0]),))
    assert not entries_of(unsteady)
    assert [one.found for one in judged([Entry("train_step", "overhead", 1.0, 0.1, "higher")], [unsteady])] == [2.0]


def test_absolute_rates_are_held_on_gpus_only() -> None:
    rate = Figure.of("tokens_per_sec_per_gpu", "tokens/s", [46_000.0])
    of_cpu = replace(REPORT, cases=(replace(CASE, figures=(rate,)),))
    of_gpu = replace(of_cpu, machine=replace(MACHINE, device="NVIDIA H100 80GB HBM3", is_gpu=True))
    assert "one.tokens_per_sec_per_gpu" not in {entry.name for entry in entries_of(of_cpu)}
    assert "one.tokens_per_sec_per_gpu" in {entry.name for entry in entries_of(of_gpu)}


def test_what_has_a_bound_is_lost_above_it_whatever_the_baseline_says() -> None:
    def overhead(value: float) -> Report:
        return replace(
            REPORT, cases=(), ratios=(Ratio.of("cpu_overhead_over_torchtitan", "", [value], better="lower"),)
        )

    lax = [Entry("train_step", "cpu_overhead_over_torchtitan", 1.2, 0.4, "lower")]
    for baseline in (lax, []):
        assert [one.is_lost for one in judged(baseline, [overhead(1.11)])] == [True]
        assert [one.is_lost for one in judged(baseline, [overhead(1.09)])] == [False]


def test_a_loss_in_one_of_two_reports_and_what_is_no_number_are_seen() -> None:
    slowed = replace(REPORT, cases=(), ratios=(Ratio.of("overhead", "", [1.5], Goal("at most", 1.03)),))
    sound = replace(slowed, ratios=(Ratio.of("overhead", "", [1.0], Goal("at most", 1.03)),))
    nothing = replace(slowed, ratios=(Ratio.of("overhead", "", [float("nan")], Goal("at most", 1.03)),))
    entry = Entry("train_step", "overhead", 1.0, 0.1, "lower")
    assert [one.is_lost for one in judged([entry], [slowed, sound])] == [True, False]
    assert [one.is_lost for one in judged([entry], [nothing])] == [True]


def test_memory_of_a_gpu_is_held() -> None:
    peak = replace(CASE, figures=(Figure.of("peak_memory_gb", "GB", [69.0]),))
    of_gpu = replace(REPORT, cases=(peak,), ratios=(), machine=replace(MACHINE, device="NVIDIA H100", is_gpu=True))
    (entry,) = entries_of(of_gpu)
    assert entry.is_lost(75.0)
    assert not entries_of(replace(of_gpu, machine=MACHINE))


def alarm(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["check", *map(str, words)])
    return main()


def test_the_alarm_tells_what_it_cannot_judge_from_what_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    baseline, report, bad = tmp_path / "cpu.json", tmp_path / "report.json", tmp_path / "bad.json"
    REPORT.write(report)
    assert alarm(monkeypatch, "--reports", report, "--baseline", baseline) == 2
    assert "found no baseline" in capsys.readouterr().err
    assert alarm(monkeypatch, "--reports", report, "--baseline", baseline, "--write") == 0
    assert alarm(monkeypatch, "--reports", report, "--baseline", baseline) == 0

    replace(REPORT, ratios=(RATE,)).write(report)
    assert alarm(monkeypatch, "--reports", report, "--baseline", baseline) == 0
    assert "not judged: train_step overhead" in capsys.readouterr().err
    assert alarm(monkeypatch, "--all", "--reports", report, "--baseline", baseline) == 2
    assert alarm(monkeypatch, "--reports", report, "--baseline", baseline, "--write") == 0
    assert "no longer held: train_step overhead" in capsys.readouterr().err

    for text, of in (("{", "report"), ("[]", "report"), ('{"entries": [{}], "device": "cpu"}', "baseline")):
        bad.write_text(text)
        words = ("--reports", bad) if of == "report" else ("--reports", report, "--baseline", bad)
        assert alarm(monkeypatch, *words) == 2
        assert f"found no {of}" in capsys.readouterr().err


def test_a_pair_that_the_alarm_runs_and_no_longer_finds_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    baseline = tmp_path / "cpu.json"
    pair = [Ratio.of(name, "", [1.0], better="lower") for name in ("overhead_over_torchtitan", "another")]
    write_baseline(baseline, [replace(REPORT, ratios=tuple(pair))])
    for found, code in ((pair, 0), (pair[:1], 0), (pair[1:], 2)):
        monkeypatch.setattr(check, "_quick_reports", lambda found=found: [replace(REPORT, ratios=tuple(found))])
        monkeypatch.setattr(check, "this_machine", lambda load: MACHINE)
        assert alarm(monkeypatch, "--baseline", baseline) == code
    assert "not judged: train_step overhead_over_torchtitan" in capsys.readouterr().err


def test_reports_and_baselines_of_different_devices_are_not_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = replace(MACHINE, device="NVIDIA H100 80GB HBM3", is_gpu=True, num_gpus=8)
    paths = {name: tmp_path / f"{name}.json" for name in ("cpu", "eight", "one", "dry", "baseline")}
    REPORT.write(paths["cpu"])
    replace(REPORT, machine=machine).write(paths["eight"])
    replace(REPORT, machine=replace(machine, num_gpus=1)).write(paths["one"])
    replace(REPORT, is_dry_run=True).write(paths["dry"])
    assert alarm(monkeypatch, "--reports", paths["eight"], "--baseline", paths["baseline"], "--write") == 0
    assert alarm(monkeypatch, "--reports", paths["eight"], "--baseline", paths["baseline"]) == 0
    for names in (("cpu",), ("one",), ("eight", "cpu"), ("dry",)):
        reports = [paths[name] for name in names]
        assert alarm(monkeypatch, "--reports", *reports, "--baseline", paths["baseline"]) == 2
        assert "expected" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("device", "key"),
    [
        ("cpu x86_64", "cpu"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA GeForce RTX 4090", "geforce-rtx-4090"),
    ],
)
def test_a_device_is_called_as_the_plan_calls_it_and_no_two_alike(device: str, key: str) -> None:
    assert key_of(device) == key
