"""The paper's figures stand beside ours only where metric and settings are the same."""

from typing import Any

import pytest
import yaml
from small_material import ROOT

from moco.report.published import PUBLISHED, published_beside
from moco.settings import validate
from moco.transfer.config import TransferParams
from moco.transfer.schedules import SCHEDULES


def sentence(file: str, task: str, *, data: dict[str, Any] | None = None, **training: Any) -> str | None:
    values = yaml.safe_load((ROOT / "transfer" / file).read_text())
    values[task]["data"] |= data or {}
    values[task]["training"] |= training
    return published_beside(task, validate(values, file, TransferParams))


@pytest.mark.parametrize(
    ("file", "task", "said"),
    [
        (
            "voc.yaml",
            "detection",
            "(VOC's AP at 11 points of recall (as until 2009)), as AP50 / AP / AP75: random 60.2",
        ),
        ("coco.yaml", "instances", "(COCO's AP), as AP of boxes / of masks: random 35.6 / 31.4"),
    ],
)
def test_the_papers_own_settings_show_its_figures_with_their_metric(file, task, said):
    text = sentence(file, task)
    assert said in text and text.startswith("The paper's figures, measured in the same way")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": {"eleven_points": False}}, "its metric is VOC's AP at 11 points of recall (as until 2009), that of"
            " this table VOC's AP by area (as since 2010)"),
        ({"data": {"test": ["2012/val"]}}, "tested on: 2007/test there, 2012/val here"),
        ({"iterations": 12000}, "only here the schedule is changed in iterations"),
        ({"batch_size": 8}, "batch_size: 16 there, 8 here"),
        ({"neck": "fpn"}, "neck: c4 there, fpn here"),
        ({"test_short_side": 640}, "only here the schedule is changed in test_short_side"),
    ],
)  # fmt: skip
def test_another_metric_or_setting_shows_none_of_its_figures_and_says_which(changes, said):
    text = sentence("voc.yaml", "detection", **changes)
    assert said in text and "are another measurement and not shown" in text
    assert "81.5" not in text


def test_the_demo_compares_itself_with_no_figure_of_the_paper():
    text = sentence("params.yaml", "detection")
    assert "network: resnet50 with stem imagenet there, " in text and "thin with stem small-stride2 here" in text
    assert "81.5" not in text
    assert sentence("params.yaml", "classification") is None


def test_every_published_table_is_of_a_schedule():
    assert {schedule for _, schedule in PUBLISHED} <= set(SCHEDULES)
