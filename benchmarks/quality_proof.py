"""That both sides of the comparison of whole runs get the same images and compute the same."""

import numpy as np
import torch

from benchmarks.quality_runs import ALIKE, PEER, Case, Run, decoded
from benchmarks.quality_sides import Pictures, lightly_model, lightly_views, training_images
from benchmarks.step import gradient
from moco.dictionary.info_nce import Contrast
from moco.encoders.normalize import normalize
from moco.images import fused_views
from moco.images.batches import ViewBatches
from moco.images.decode import decode
from moco.images.plan import EpochPlan
from moco.training.setup import build


def same_images(case: Case) -> str:
    """Check that lightly's side gets the pixels that ours decodes, and views of one distribution.

    Raises:
        AssertionError: it is not.
    """
    settings = case.of(ALIKE, 0)
    images, pixels = training_images(settings, case.shards), decoded(case.shards)
    mine = np.arange(len(pixels)) if images.chosen is None else images.chosen
    for i in range(0, len(images), 10):
        assert np.array_equal(decode(images.read(i)), pixels[mine[i]]), f"image {i} is another one"
    batch = min(2000, len(images))
    plan = EpochPlan(len(images), batch, 0)
    views = ViewBatches(images, plan, settings.views, settings.image_size, compiled=fused_views.available())
    ours = normalize(views[0]).flatten(0, 1)
    theirs = Pictures(pixels[mine[plan.batch(0)]], lightly_views(settings.views, settings.image_size))
    torch.manual_seed(0)
    others = torch.stack([view for i in range(batch) for view in theirs[i]])
    mean, deviation = (float(abs(of(ours) - of(others))) for of in (torch.mean, torch.std))
    assert max(mean, deviation) < 0.05, f"views differ by {mean:.3f} in mean, {deviation:.3f} in deviation"
    return (
        f"{case.name}: every tenth image is the same, pixel by pixel; normalized pixels of the views of {batch:,} images differ by {mean:.3f} in"
        f" their mean and {deviation:.3f} in their deviation"
    )


def same_start(case: Case) -> str:
    """Check that two steps give lightly's loss and gradient, computed in float64.

    Raises:
        AssertionError: it does not.
    """
    settings = case.of(ALIKE, 0)
    images = training_images(settings, case.shards)
    plan = EpochPlan(len(images), settings.global_batch, 0)
    views = ViewBatches(images, plan, settings.views, settings.image_size, compiled=fused_views.available())[0]
    query, key = normalize(views).double()
    found = []
    for model in (build(settings, 0).double(), lightly_model(settings).double()):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.03)
        for _ in range(2):  # the second sees what the first has put into the dictionary, and the moved key encoder
            optimizer.zero_grad()
            made = model(query, key)
            loss = made.loss if isinstance(made, Contrast) else made
            loss.backward()
            optimizer.step()
        found.append((loss.item(), gradient(list(model.parameters()))))
    (ours, mine), (theirs, others) = found
    apart = abs(ours - theirs), float((mine - others).norm() / others.norm())
    assert max(apart) < 1e-9, f"loss differs by {apart[0]:.1e}, gradient by {apart[1]:.1e}"
    return (
        f"{case.name}: two steps from the first weights and keys on the same views, computed in float64: our loss and gradient differ from lightly's by"
        f" {apart[0]:.0e} and {apart[1]:.0e} of its length"
    )


def same_work(case: Case, runs: dict[str, list[Run]]) -> str:
    """Check that all runs did as many steps at the same rates and trained as many numbers.

    Raises:
        AssertionError: one did not.
    """
    first = runs[PEER][0]
    base = max(first.rates.values())
    for side, several in runs.items():
        for run in several:
            assert run.steps == first.steps, f"{side}: {run.steps} steps, not {first.steps}"
            assert run.trained == first.trained, f"{side}: {run.trained} numbers, not {first.trained}"
            assert run.rates.keys() == first.rates.keys(), f"{side}: logs other steps"
            apart = max(abs(rate - first.rates[step]) for step, rate in run.rates.items())
            assert apart < 1e-9 * base, f"{side}: learning rates differ by {apart}"
    return (
        f"{case.name}: {first.steps:,} steps of {case.settings.global_batch} images on each side, {first.trained:,} numbers trained,"
        f" the same learning rate at each of the {len(first.rates)} steps that are logged (ours by its own schedule, lightly's by"
        " torch's)"
    )
