"""The data card on the flow's page: for passed checks and for failed ones."""

import base64
import contextlib
import io
import logging
import re
from pathlib import Path

import pytest
from PIL import Image

from flows import card, stages
from flows.stages import StageFailedError


@pytest.fixture
def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What becomes an artifact of a run in `tmp_path`, where a card with a picture lies."""
    folder = tmp_path / card.CARD.parent
    folder.mkdir(parents=True)
    Image.new("RGB", (1600, 400), "teal").save(folder / "images.png")
    (tmp_path / card.CARD).write_text("# Data card\n\n![a sample](images.png)\n")
    pages: list[str] = []
    monkeypatch.setattr(card, "create_markdown_artifact", lambda markdown, **_: pages.append(markdown))
    monkeypatch.setattr(card, "get_run_logger", lambda: logging.getLogger("test"))
    return pages


def test_the_page_has_the_pictures_in_it(tmp_path: Path, shown: list[str]) -> None:
    card.show_card(tmp_path)
    (page,) = shown
    found = re.fullmatch(r"# Data card\n\n!\[a sample\]\(data:image/png;base64,([^)]+)\)\n", page)
    with Image.open(io.BytesIO(base64.b64decode(found[1]))) as picture:
        assert picture.size == (800, 200)
        assert picture.convert("RGB").getpixel((400, 100)) == (0, 128, 128)


@pytest.mark.parametrize(
    ("stage", "ends", "pages"), [("check", True, 1), ("check", False, 1), ("fetch", True, 0), ("fetch", False, 0)]
)
def test_it_is_shown_after_the_checks_passed_or_not(
    tmp_path: Path, shown: list[str], monkeypatch: pytest.MonkeyPatch, stage: str, ends: bool, pages: int
) -> None:
    def brought(*_: object) -> None:
        if not ends:
            raise StageFailedError(f"{stage}: 1 of 13 checks failed", again=False)

    monkeypatch.setattr(stages, "bring_up_to_date", brought)
    with contextlib.nullcontext() if ends else pytest.raises(StageFailedError):
        stages.run_stage.fn(stage, tmp_path, {}, None)
    assert len(shown) == pages


def test_the_report_is_shown_once_its_stage_ended_well(
    tmp_path: Path, shown: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    report = tmp_path / card.REPORT
    report.parent.mkdir(parents=True)
    report.write_text("# Report\n")

    def failed(*_: object) -> None:
        raise StageFailedError("report: no encoder", again=False)

    monkeypatch.setattr(stages, "bring_up_to_date", failed)
    with pytest.raises(StageFailedError):
        stages.run_stage.fn("report", tmp_path, {}, None)
    assert shown == []  # it would be an earlier run's
    monkeypatch.setattr(stages, "bring_up_to_date", lambda *_: True)
    stages.run_stage.fn("report", tmp_path, {}, None)
    assert shown == ["# Report\n"]


def test_a_pipeline_without_the_stage_shows_nothing(tmp_path: Path, shown: list[str]) -> None:
    (tmp_path / card.CARD).unlink()
    card.show_card(tmp_path)
    assert shown == []


def test_a_paragraph_is_one_line_and_all_else_keeps_its_lines() -> None:
    page = (
        "# Title\n\nOne thought\nin two lines, and\n`code` in a third.\n\n- a list\n- of two\n\n1. first\n2. second\n\n"
        "| a | b |\n|---|---|\n| 1 | 2 |\n\n![a](a.png)\n![b](b.png)\n"
    )
    assert card.unwrapped(page) == page.replace("thought\nin", "thought in").replace("and\n`code`", "and `code`")
