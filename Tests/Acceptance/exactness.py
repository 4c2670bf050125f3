#!/usr/bin/env python3
"""How far scores are from float64, summed directly (--exact) and by Winograd's transforms, beside PyTorch's float32.

    swift build -c release --product graft
    python Tests/Acceptance/exactness.py --images FOLDER [--models resnet18,vgg11_bn] [--weights squeezenet1_1=F.pth]

Needs torch, torchvision, numpy, Pillow. FOLDER has images of 224 x 224 pixels (others are cropped at the middle); the
first eight, by name, are taken. A model without weights gets PyTorch's seeded ones. Printed: the relative L2 distance
of the class scores from PyTorch's in float64. Exit status 1 when one is above 1e-5 or an arg-max differs.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import numpy
import torch
import torchvision
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[2]
LAYERS = {"resnet": "fc", "vgg": "classifier", "squeezenet": "classifier"}
RUNS = [
    ("cpu", "cpu", {}), ("opencl, CPU class", "opencl", {"GRAFT_OPENCL_KERNELS": "cpu"}),
    ("opencl, GPU class", "opencl", {"GRAFT_OPENCL_KERNELS": "gpu"}),
]


def graft_scores(graft, folder, model, weights, layer, device, environment, exact):
    out = weights.parent / "scores.npz"
    command = [graft, "extract", folder, "--model", model, "--weights", weights, "--layer", layer, "--out", out,
               "--device", device, "--resize", "224", "--image-size", "224", "--batch-size", "8", "--quiet"]
    subprocess.run(command + (["--exact"] if exact else []), check=True, env={**os.environ, **environment})
    with numpy.load(out) as arrays:
        return arrays[layer].reshape(len(arrays["labels"]), -1).astype(numpy.float64)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graft", default=ROOT / ".build/release/graft", type=pathlib.Path)
    parser.add_argument("--images", required=True, type=pathlib.Path)
    parser.add_argument("--models", default="resnet18")
    parser.add_argument("--weights", action="append", default=[], metavar="MODEL=FILE")
    options = parser.parse_args()
    weights_of = dict(item.split("=", 1) for item in options.weights)
    files = sorted(p for p in options.images.rglob("*") if p.suffix.lower() in (".png", ".jpg", ".jpeg"))[:8]
    if not files:
        sys.exit(f"{options.images}: no images")
    mean, deviation = numpy.array([0.485, 0.456, 0.406], "f4"), numpy.array([0.229, 0.224, 0.225], "f4")
    failed = False
    with tempfile.TemporaryDirectory() as temporary:
        temporary = pathlib.Path(temporary)
        (temporary / "images" / "one").mkdir(parents=True)
        batch = []
        for index, file in enumerate(files):
            image = Image.open(file).convert("RGB")
            left, top = (image.width - 224) // 2, (image.height - 224) // 2
            image = image.crop((left, top, left + 224, top + 224))
            image.save(temporary / "images" / "one" / f"{index}.png")
            batch.append(((numpy.asarray(image, "f4") / numpy.float32(255) - mean) / deviation).transpose(2, 0, 1))
        batch = torch.from_numpy(numpy.stack(batch))
        for name in dict.fromkeys([n for n in options.models.split(",") if n] + list(weights_of)):
            torch.manual_seed(0)
            network = getattr(torchvision.models, name)(weights=None)
            path = temporary / f"{name}.pth"
            if name in weights_of:
                shutil.copy(weights_of[name], path)
                network.load_state_dict(torch.load(path, weights_only=True))
            else:
                torch.save(network.state_dict(), path)
            network.eval()
            with torch.no_grad():
                single = network(batch).double().numpy()
                exact = network.double()(batch.double()).numpy()

            def report(label, scores):
                nonlocal failed
                distance = numpy.linalg.norm(scores - exact) / numpy.linalg.norm(exact)
                agrees = (scores.argmax(1) == exact.argmax(1)).all()
                failed |= distance > 1e-5 or not agrees
                print(f"{name:16} {label:36} {distance:.2e}{'' if agrees else '  ARG-MAX DIFFERS'}", flush=True)

            report("PyTorch float32", single)
            layer = next(layer for prefix, layer in LAYERS.items() if name.startswith(prefix))
            for label, device, environment in RUNS:
                for is_exact in (True, False):
                    scores = graft_scores(
                        options.graft, temporary / "images", name, path, layer, device, environment, is_exact)
                    report(f"{label}, {'direct' if is_exact else 'Winograd'}", scores)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
