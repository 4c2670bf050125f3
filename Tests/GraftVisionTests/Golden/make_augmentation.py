"""Writes augmentation.json: digests of what torchvision and Pillow make of one picture by each operation.

    python Tests/GraftVisionTests/Golden/make_augmentation.py      needs torch, torchvision, pillow, numpy
"""

import hashlib
import json
import os

import numpy as np
import PIL
import torch
import torchvision
from PIL import Image
from torchvision.transforms import InterpolationMode, RandAugment
from torchvision.transforms import functional as F
from torchvision.transforms.autoaugment import _apply_op

SIZE = 24


def picture(kind):
    """A formula that the test repeats: colours of all hues, a flat part, or few levels."""
    y, x, c = np.meshgrid(np.arange(SIZE), np.arange(SIZE), np.arange(3), indexing="ij")
    if kind == "colours":
        value = (x * (7 + 4 * c) + y * (13 - 3 * c) + 31 * c * x * y // 8) % 256
    elif kind == "narrow":
        value = 60 + (x * 3 + y * 5 + 17 * c) % 90
    else:
        value = np.where(c == 1, 128, 128 + 0 * x)
    return Image.fromarray(value.astype(np.uint8))


def digest(image):
    return hashlib.sha256(np.asarray(image).tobytes()).hexdigest()


def main():
    cases = []

    def add(kind, name, arguments, image):
        cases.append(dict(picture=kind, name=name, arguments=arguments, sha256=digest(image)))

    for kind in ("colours", "narrow", "flat"):
        p = picture(kind)
        for factor in (0.0, 0.3, 0.75, 1.0, 1.4, 1.9):
            add(kind, "brightness", [factor], F.adjust_brightness(p, factor))
            add(kind, "contrast", [factor], F.adjust_contrast(p, factor))
            add(kind, "saturation", [factor], F.adjust_saturation(p, factor))
            if kind == "colours":
                add(kind, "sharpness", [factor], F.adjust_sharpness(p, factor))
        add(kind, "autoContrast", [], F.autocontrast(p))
        add(kind, "equalize", [], F.equalize(p))
        if kind == "flat":
            continue
        for hue in (-0.5, -0.31, -0.02, 0.0, 0.1, 0.25, 0.5):
            add(kind, "hue", [hue], F.adjust_hue(p, hue))
    p = picture("colours")
    for bits in (8, 5, 4):
        add("colours", "posterize", [bits], F.posterize(p, bits))
    for threshold in (0.0, 127.5, 255.0):
        add("colours", "solarize", [threshold], F.solarize(p, threshold))
    for degrees in (-30.0, -7.5, 0.0, 9.0, 30.0):
        add("colours", "rotate", [degrees], F.rotate(p, degrees, InterpolationMode.NEAREST))
    # The whole of RandAugment: index, strength, sign, as torchvision builds and applies them.
    names = list(RandAugment()._augmentation_space(31, (SIZE, SIZE)))
    for index, name in enumerate(names):
        for magnitude in (0, 4, 9, 15, 23, 30):
            magnitudes, signed = RandAugment()._augmentation_space(31, (SIZE, SIZE))[name]
            strength = float(magnitudes[magnitude].item()) if magnitudes.ndim > 0 else 0.0
            for negative in (False, True) if signed else (False,):
                if magnitude not in (9, 23) and negative:
                    continue
                image = _apply_op(p, name, -strength if negative else strength, InterpolationMode.NEAREST, None)
                add("colours", "randaugment", [index, magnitude, int(negative)], image)
    versions = dict(torchvision=torchvision.__version__, pillow=PIL.__version__, torch=torch.__version__)
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "augmentation.json")
    with open(path, "w") as file:
        json.dump(dict(versions=versions, size=SIZE, operations=names, cases=cases), file, indent=None, separators=(",", ":"))
        file.write("\n")
    print(f"{path}: {len(cases)} cases")


if __name__ == "__main__":
    main()
