"""Layouts on two and four processes against one process, from one seed checkpoint, in fp32."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.parallelism_page import PAGES, page
from tests.slow.parallel_matrix import Runs, measure
from tests.slow.parallel_rows import LAYOUTS, Layout, families_of, read_gaps, settings, words
from tests.support.runs import assert_close, losses, train_well

TWO_STEPS = ("--training.target_tokens", "2048", "--checkpoint.enable", "false")
"""The second is of weights that the first has changed."""
IN_CI = [layout for layout in LAYOUTS if layout.name in ("TP 2", "FSDP 2, padding packs")]
ALL = [(family, layout) for layout in LAYOUTS for family in families_of(layout)]


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, float]]:
    """Losses of one process, which draws the weights that every layout draws."""
    return losses(train_well(tmp_path_factory.mktemp("one"), *TWO_STEPS))


@pytest.mark.parametrize("layout", IN_CI, ids=lambda layout: layout.name)
def test_two_processes_draw_the_weights_and_give_the_losses_of_one(
    one_process: dict[int, dict[str, float]], tmp_path: Path, layout: Layout
) -> None:
    found = train_well(tmp_path, *TWO_STEPS, *words(layout.overrides), world_size=layout.world_size)
    assert_close(losses(found), one_process)


@pytest.fixture(scope="module")
def folder_of_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("matrix")


@pytest.mark.slow
@pytest.mark.parametrize(("family", "layout"), ALL, ids=[f"{family} {layout.name}" for family, layout in ALL])
def test_every_layout_gives_the_losses_of_one_process(folder_of_runs: Path, family: str, layout: Layout) -> None:
    gap = measure(Runs(family, folder_of_runs / family), layout)
    assert gap.passes, gap


def test_every_recorded_layout_passed_with_the_settings_it_has() -> None:
    recorded = {(gap.family, gap.layout): gap for gap in read_gaps()}
    assert recorded.keys() <= {(family, layout.name) for family, layout in ALL}
    for family, layout in ALL:
        gap = recorded.get((family, layout.name))
        if gap is not None:
            assert gap.passes, gap
            assert gap.loss_tolerance == layout.loss_tolerance
            assert gap.overrides == settings(layout), "measured with other settings: measure it again"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_the_page_has_the_tables_that_its_data_print(path: Path) -> None:
    assert page(path) == path.read_text("utf-8")
