"""What each mechanism says of itself, on which the loop, the report and the alarms rely."""

from mechanisms import SMALL, dictionary


def test_each_mechanism_says_what_a_step_of_it_needs():
    described = {name: dictionary(name).about for name in SMALL}
    assert {
        name: (it.views, it.encodes_keys, it.in_batch, it.fills, it.divisible, it.predictor)
        for name, it in described.items()
    } == {
        "momentum-queue": (2, True, False, "queue", True, False),
        "memory-bank": (1, False, False, "images", True, False),
        "end-to-end": (2, True, True, None, False, False),
        "momentum-batch": (2, True, True, None, True, True),
    }
