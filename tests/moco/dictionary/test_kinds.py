"""What each mechanism says of itself, on which the loop, the report and the alarms rely."""

from mechanisms import SMALL, dictionary


def test_each_mechanism_says_what_a_step_of_it_needs():
    least = {"num_keys": 1, "momentum": 0.0}  # the smallest values that are allowed
    described = {
        name: dictionary(name, **{key: least[key] for key in SMALL[name].keys() & least}).about for name in SMALL
    }
    assert {
        name: (it.views, it.encodes_keys, it.in_batch, it.fills, it.divisible, it.predictor)
        for name, it in described.items()
    } == {
        "momentum-queue": (2, True, False, "queue", True, False),
        "memory-bank": (1, False, False, "images", True, False),
        "end-to-end": (2, True, True, None, False, False),
        "momentum-batch": (2, True, True, None, True, True),
    }
