"""Files out: an encoder in the forms that other programs load, each compared before it is kept."""

TARGETS = {
    "official": "the official MoCo file: its linear script and, from a run's checkpoint, resuming",
    "torchvision": "a state dict of torchvision's own network",
    "timm": "a state dict of timm's own network, num_classes=0",
    "detectron2": "a pickle of NumPy arrays with detectron2's names",
    "onnx": "one ONNX file, normalization inside",
    "pt2": "one program of torch.export, normalization inside",
    "safetensors": "one file of weights with its description",
    "hub": "a folder with a model card",
}
"""Who loads it. Each is a module here with a `TARGET`; torchvision and timm share one."""
