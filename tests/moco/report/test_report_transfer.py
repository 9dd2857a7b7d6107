"""The transfer table shows how much chance is in an accuracy, and what needs no features."""

from moco.report.transfer import Found, _figure, _majority


def found(**label: float) -> Found:
    return Found({"label": label}, {}, {}, None)


def test_an_accuracy_has_its_interval_beside_the_deviation_of_the_trials():
    metrics = {"label": {"top1": 0.5, "top1_std": 0.01, "top1_low": 0.404, "top1_high": 0.596}}
    assert _figure(metrics, "label", "top1") == "50.0 ± 1.0 (40.4 to 59.6)"
    assert _figure({"box": {"AP": 0.5}}, "box", "AP") == "50.0"


def test_the_commonest_class_is_named_once():
    both = {"random": found(top1=0.5, majority=0.125), "moco": found(top1=0.6, majority=0.125)}
    (sentence,) = _majority(both)
    assert sentence.startswith("Naming the commonest class alone gives 12.5 %")
    assert _majority({"moco": Found({"box": {"AP": 0.1}}, {}, {}, None)}) == []
