"""Stages weights-random and weights-moco: what fine-tuning starts from.

random: the architecture alone, since every trial draws its weights. moco: an encoder of stage
pretrain, or a file of others. Stage supervised also comes here for weights that exist.
"""

from pathlib import Path

from moco.encoders.frozen import EncoderSpec, save_encoder
from moco.encoders.kinds import Network
from moco.encoders.start import RANDOM, Start, start_from
from moco.files import copy_folder, whole_folder, write_json
from moco.transfer.config import PARAMS, Init, TransferParams, load_transfer_params
from pipelines import stage

IMAGENET = 224, 256
"""Crop and short side that the weights of others are taken to have been trained with, pixels."""


def weights(params: TransferParams, init: Init) -> None:
    """Run the stage for random or MoCo weights."""
    with stage.alone("weights", place(init), f"python -m pipelines.weights {init}"):
        if init == "random":
            keep(RANDOM, init, params.random)
        else:
            keep(params.moco.source, init, params.random, params.moco.stem)


def keep(source: str, init: Init, network: Network, stated: str | None = None) -> None:
    """Write weights that exist as an encoder's folder; of random ones only the description.

    Args:
        source: as for `start_from`.
        init: the name of the folder.
        network: what the weights must be of.
        stated: what the stem of a file is, where its names do not tell.

    Raises:
        MocoError: as `start_from`.
    """
    start = start_from(source, network, 0, stated)
    name = RANDOM if source == RANDOM else start.fingerprint
    with whole_folder(place(init)) as folder:
        if source == RANDOM:
            write_json(folder / "encoder.json", specification(start, name, *IMAGENET).values())
        elif Path(source).is_dir():
            copy_folder(Path(source), folder)
        else:
            crop, short = start.image_size or IMAGENET[0], IMAGENET[1]
            if start.image_size and start.eval_crop_ratio:
                short = round(crop / start.eval_crop_ratio)
            save_encoder(folder, start.network, specification(start, name, crop, short))
    if start.about:
        assumed = "" if start.image_size else f"; images of {IMAGENET[0]} pixels are assumed"
        print(f"weights: {init}: {start.about}{assumed}", flush=True)
    print(f"weights: {init}: {source} in {place(init)}", flush=True)


def place(init: Init) -> Path:
    """Give the folder of an initialization's weights."""
    return stage.outputs("transfer") / "weights" / init


def specification(start: Start, name: str, crop_size: int, short_side: int) -> EncoderSpec:
    """Describe weights, as encoder.json has it.

    Args:
        start: gives the network, the mean, the deviation and the number of features.
        name: of what made the weights.
        crop_size: side of the images in training, pixels.
        short_side: that test images are resized to before the crop, pixels.
    """
    return EncoderSpec(
        network=start.kind,
        image_size=crop_size,
        eval_crop_ratio=crop_size / short_side,
        mean=start.mean,
        std=start.std,
        feature_dim=start.network.feature_dim,
        training_hash=name,
    )


if __name__ == "__main__":
    init = {"choices": ("random", "moco"), "help": "the initialization"}
    stage.main(weights, __doc__, load_transfer_params, PARAMS, init=init)
