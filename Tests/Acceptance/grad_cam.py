#!/usr/bin/env python3
"""The maps of `graft explain` against Grad-CAM in PyTorch in float64, on the same weights and images.

    python Tests/Acceptance/grad_cam.py [--graft .build/debug/graft] [--devices cpu,opencl] IMAGE...
        [--weights squeezenet1_1=squeezenet1_1.pth ...]

Needs torch, torchvision, numpy and pillow. Models without --weights get random ones from a fixed seed. Exit code 0 when
every map agrees: correlation at least 0.9999, difference at most 0.002 of the map's maximum, or twice what noise of 1e-6
in the pixels makes of PyTorch's own map.
"""
import argparse, pathlib, subprocess, sys, tempfile

import numpy
import torch
import torchvision
from PIL import Image, ImageOps

# name, layer of graft (None: its default), module of PyTorch whose output that is, class (None: the most probable)
CASES = [
    ("resnet18", None, "layer4", None),
    ("resnet18", "layer2", "layer2", 5),
    ("resnet50", None, "layer4", None),
    ("squeezenet1_1", None, "features.12", None),
    ("squeezenet1_1", "features.7", "features.7", 100),
    ("vgg11", None, "features.19", None),
    ("vgg11_bn", "features.25", "features.25", 3),
    ("alexnet", None, "features.11", None),
    ("mobilenet_v2", None, "features.18", None),
    ("efficientnet_b0", None, "features.8", None),
    ("efficientnet_b0", "features.5", "features.5", 2),
    ("mobilenet_v3_small", None, "features.12", None),
    ("densenet121", "features.denseblock4", "features.denseblock4", None),
]


def preprocess(name, paths):
    """As the weights were published: EfficientNet resizes bicubically, the others bilinearly."""
    transform = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"].transforms()
    return torch.stack([transform(ImageOps.exif_transpose(Image.open(path)).convert("RGB")) for path in paths])


def grad_cam(model, module, inputs, label):
    kept = {}

    def hook(_, __, output):
        output = output.clone() if output.requires_grad else output
        output.retain_grad()
        kept["value"] = output
        return output

    handle = model.get_submodule(module).register_forward_hook(hook)
    # In-place ReLUs behind the module would change what was kept.
    for part in model.modules():
        if isinstance(part, torch.nn.ReLU):
            part.inplace = False
    scores = model(inputs)
    handle.remove()
    labels = scores.argmax(1) if label is None else torch.full((len(inputs),), label)
    scores.gather(1, labels[:, None]).sum().backward()
    value = kept["value"]
    weights = value.grad.mean((2, 3), keepdim=True)
    return labels.numpy(), (weights * value).sum(1).clamp(min=0).detach().numpy()


def compare(values, expected):
    """The worst correlation, and the largest difference relative to a map's maximum."""
    correlation = min(
        numpy.corrcoef(a.ravel(), b.ravel())[0, 1] if b.any() else float(not a.any())
        for a, b in zip(values, expected))
    difference = max(
        numpy.abs(a - b).max() / max(b.max(), 1e-30) if b.any() else numpy.abs(a).max()
        for a, b in zip(values, expected))
    return correlation, difference


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", nargs="+")
    parser.add_argument("--graft", default=".build/debug/graft")
    parser.add_argument("--devices", default="cpu,opencl")
    parser.add_argument("--weights", nargs="*", default=[])
    options = parser.parse_args()
    files = dict(entry.split("=", 1) for entry in options.weights)
    failed = 0
    print(f"{'model':15} {'layer':12} {'device':8} {'map':>6} {'correlation':>12} {'difference / maximum':>21} {'PyTorch, noise':>17}")
    with tempfile.TemporaryDirectory() as folder:
        for name, layer, module, label in CASES:
            torch.manual_seed(3)
            model = torchvision.models.get_model(name, weights=None).eval()
            path = files.get(name)
            if path:
                model.load_state_dict(torch.load(path, weights_only=True))
            else:
                path = f"{folder}/{name}.pth"
                if not pathlib.Path(path).exists():
                    torch.save(model.state_dict(), path)
                model.load_state_dict(torch.load(path, weights_only=True))
            inputs = preprocess(name, options.images).double()
            labels, expected = grad_cam(model.double(), module, inputs, label)
            # A ReLU whose input is nearly zero may pass a gradient or not: noise as large as rounding shows whether.
            own = max(
                compare(grad_cam(model, module, inputs * (1 + 1e-6 * torch.randn_like(inputs)), label)[1], expected)[1]
                for _ in range(8))
            for device in options.devices.split(","):
                maps = f"{folder}/maps.npz"
                words = [options.graft, "explain", *options.images, "--model", name, "--weights", path, "--out",
                         f"{folder}/out", "--maps", maps, "--device", device, "--quiet"]
                words += ["--layer", layer] if layer else []
                words += ["--class", str(label)] if label is not None else []
                done = subprocess.run(words, capture_output=True, text=True)
                if done.returncode:
                    sys.exit(f"{' '.join(words)}: exit {done.returncode}\n{done.stderr}")
                found = numpy.load(maps)
                values = found["maps"]
                if values.shape != expected.shape or (found["labels"] != labels).any():
                    sys.exit(f"{name}: maps {values.shape} of {found['labels']}, expected {expected.shape} of {labels}")
                correlation, difference = compare(values, expected)
                # A case whose maps are all empty compares nothing.
                good = correlation >= 0.9999 and difference <= max(2e-3, 2 * own) and expected.any()
                failed += not good
                print(f"{name:15} {layer or 'default':12} {device:8} {values.shape[1]}×{values.shape[2]:<4} "
                      f"{correlation:12.7f} {difference:21.2e} {own:17.2e}{'' if good else '  FAILED'}")
    sys.exit(f"{failed} failed" if failed else 0)


if __name__ == "__main__":
    main()
