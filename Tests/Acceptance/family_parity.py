#!/usr/bin/env python3
"""Holds `graft` against PyTorch for torchvision's families: logits, every parameter's first gradient, ten training steps.

    family_parity.py --graft .build/release/graft [--shared ../shared] [--models A,B] [--devices cpu,opencl] [--work DIR]

Weights are torchvision's own start from a seed, with batch-norm statistics and factors spread out, saved as .pth (every
second model as .safetensors). Traces are made by the reference runner, parity.py of the shared data, extended here by
the families' heads and by stochastic depth, on its 80 small PNG pictures. For each device it trains the head, a part and
all, with frozen statistics kept and tracked. A gradient is read off one plain step of rate 1: weights before minus after.
PyTorch's own deviation stands beside: between its two memory layouts, and from weights with noise of 1e-7. It widens a
bound, to four times, where batch norm and ReLUs at zero make small differences large. Exit code 1: something is beyond
its bound.

Not part of `swift test`: it needs torch, torchvision, safetensors, numpy and pillow."""
import argparse
import csv
import json
import os
import subprocess
import sys

import numpy as np
import torch

# Head, and the part that is trained beside it.
FAMILIES = {
    "mobilenet_v2": ("classifier.1", "features.14"),
    "mobilenet_v3_small": ("classifier.3", "features.8"),
    "mobilenet_v3_large": ("classifier.3", "features.13"),
    "densenet121": ("classifier", "features.denseblock4"),
    "efficientnet_b0": ("classifier.1", "features.5"),
    "efficientnet_b1": ("classifier.1", "features.5"),
    "efficientnet_b2": ("classifier.1", "features.5"),
    "efficientnet_b3": ("classifier.1", "features.5"),
    "convnext_tiny": ("classifier.2", "features.5"),
    "regnet_y_400mf": ("fc", "trunk_output.block3"),
}
LOSS, GRADIENT, CHANGE, LOGITS = 2e-3, 1e-2, 2e-2, 1e-4


def load_parity(shared):
    sys.path.insert(0, os.path.join(shared, "reference"))
    import parity
    known, modes = parity.head_name, parity.set_modes

    def set_modes(model, frozen_statistics):
        modes(model, frozen_statistics)
        for module in model.modules():
            if isinstance(module, parity.torchvision.ops.StochasticDepth):
                module.eval()

    def construct(name, classes):
        model = parity.torchvision.models.get_model(name, weights=None, num_classes=classes)
        for module in model.modules():
            if hasattr(module, "inplace"):
                module.inplace = False
        return model

    parity.head_name = lambda name: FAMILIES[name][0] if name in FAMILIES else known(name)
    parity.set_modes = set_modes
    parity.construct = construct
    return parity


def make_weights(parity, name, path):
    torch.manual_seed(7)
    model = parity.construct(name, 2)
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            torch.nn.init.uniform_(module.weight, 0.75, 1.25)
            torch.nn.init.uniform_(module.bias, -0.2, 0.2)
            torch.nn.init.uniform_(module.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
        if hasattr(module, "layer_scale"):
            torch.nn.init.uniform_(module.layer_scale, 0.1, 0.5)
    parity.save_weights(model.state_dict(), path)


def scale(tensor):
    return max(tensor["delta_l2"], 1e-6 * tensor["l2"], 1e-30)


def allowed(bound, own):
    return max(bound, 4 * (own or 0))


class Runner:
    def __init__(self, args):
        self.args, self.failures = args, 0
        self.data = ["--data", os.path.join(args.shared, "data/hymenoptera64_png"),
                     "--list", os.path.join(args.shared, "reference/lists/hymenoptera64_png.txt")]
        self.common = ["--image-size", "64", "--resize", "64", "--batch-size", "8"]

    def parity(self, *command):
        subprocess.run([sys.executable, __file__, "--shared", self.args.shared, "--parity", *command], check=True,
                       stdout=subprocess.DEVNULL)

    def graft(self, *command):
        result = subprocess.run([self.args.graft, *command, "--quiet"], capture_output=True, text=True)
        if result.returncode:
            raise SystemExit(f"graft {' '.join(command)}\n{result.stderr}")

    def train(self, name, weights, selector, statistics, out, device, *options):
        self.graft("train", self.data[1], "--list", self.data[3], "--model", name, "--weights", weights, *self.common,
                   "--freeze", "all", "--unfreeze", selector, "--frozen-statistics", statistics, "--no-shuffle",
                   "--dropout", "off", "--device", device, "--out", out, *options)

    def trace(self, parity, path, base, start, options=(), seed=None):
        """A run of PyTorch, from weights with noise of 1e-7 where there is a seed."""
        weights = []
        if seed is not None:
            torch.manual_seed(seed)
            noisy = {n: t * (1 + 1e-7 * torch.randn(t.shape)) if t.is_floating_point() else t for n, t in start.items()}
            weights = ["--weights", path + ".pth"]
            parity.save_weights(noisy, weights[1])
        self.parity("train", *base, *weights, *options, "--trace", path)
        return json.load(open(path))

    def own_gradient(self, parity, path, base, start, norms, floor, own, found):
        """PyTorch's own deviation of gradients. Where Graft's is beyond it, PyTorch is asked more often: a single ReLU at
        zero, which passes a gradient or not, is most of a small tensor's."""
        for seed in range(100, 140):
            if found <= allowed(GRADIENT, own):
                break
            other = self.trace(parity, path, [*base, "--steps", "1"], start, seed=seed)["gradient_l2"]["0"]
            own = max(own, max(abs(other[n] - g) / max(g, floor) for n, g in norms.items()))
        return own

    def report(self, name, device, what, value, bound, own=None):
        bad = not value <= allowed(bound, own)
        self.failures += bad
        print(f"{name:20} {device:7} {what:34} {value:9.2e}" + (f"  PyTorch's own {own:9.2e}" if own is not None else "")
              + ("  BEYOND" if bad else ""), flush=True)

    def family(self, parity, index, name):
        head, part = FAMILIES[name]
        work = os.path.join(self.args.work, name)
        os.makedirs(work, exist_ok=True)
        weights = os.path.join(work, "weights" + (".safetensors" if index % 2 else ".pth"))
        make_weights(parity, name, weights)
        start = parity.load_weights(weights)
        model = ["--model", name, "--weights", weights]
        self.parity("evaluate", *self.data, *self.common, *model, "--out", work + "/torch.npz")
        wanted = np.load(work + "/torch.npz")["logits"]
        for device in self.args.devices.split(","):
            out = f"{work}/logits-{device}.npz"
            self.graft("evaluate", self.data[1], "--list", self.data[3], *model, *self.common, "--device", device,
                       "--logits", out)
            found = np.load(out)["logits"]
            self.report(name, device, "logits", np.abs(found - wanted).max() / np.abs(wanted).max(), LOGITS)
        for selector, statistics in [(head, "keep"), (f"{part},{head}", "keep"), (f"{part},{head}", "track"),
                                     ("all", "keep")]:
            label = {head: "head", "all": "all"}.get(selector, "part") + " " + statistics
            base = [*self.data, *self.common, *model, "--trainable", selector, "--frozen-statistics", statistics,
                    "--steps", "10", "--quiet"]
            name_of_traces = f"{work}/{label.replace(' ', '-')}"
            trace, *others = [
                self.trace(parity, f"{name_of_traces}{index}.json", base, start, options, seed)
                for index, (options, seed) in enumerate([([], None), (["--channels-last"], None), ([], 1), ([], 2)])]
            losses = [s["loss"] for s in trace["steps"]]
            own_losses = [max(abs(other["steps"][i]["loss"] - loss) / loss for other in others)
                          for i, loss in enumerate(losses)]
            norms = trace["gradient_l2"]["0"]
            floor = 1e-5 * max(norms.values())
            own_gradient = max(abs(other["gradient_l2"]["0"][n] - g) / max(g, floor)
                               for other in others for n, g in norms.items())
            own_change = max(abs(other["changed_tensors"][n]["delta_l2"] - want["delta_l2"]) / scale(want)
                             for other in others for n, want in trace["changed_tensors"].items())
            for device in self.args.devices.split(","):
                out = f"{work}/{label.replace(' ', '-')}-{device}"
                self.train(name, weights, selector, statistics, out, device, "--steps", "10", "--learning-rate",
                           "0.001", "--momentum", "0.9")
                found = [float(row["loss"]) for row in csv.DictReader(open(out + "/steps.csv"))]
                # Each step by what PyTorch's runs are apart up to it.
                apart = [(abs(a - b) / b, max(own_losses[:i + 1]))
                         for i, (a, b) in enumerate(zip(found, losses, strict=True))]
                self.report(name, device, label + " ten losses", *max(
                    ((found, LOSS, own) for found, own in apart), key=lambda step: step[0] / allowed(step[1], step[2])))
                result = parity.load_weights(out + "/last.safetensors")
                worst = 0.0
                for tensor, want in trace["changed_tensors"].items():
                    change = parity.norm(result[tensor].double() - start[tensor].double())
                    worst = max(worst, abs(change - want["delta_l2"]) / scale(want))
                same = {n: t for n, t in result.items() if n not in trace["changed_tensors"]}
                untouched = parity.digest(same) == trace["unchanged_tensors"]["sha256_of_tensors"]
                self.report(name, device, label + " changes of tensors", worst if untouched else float("inf"), CHANGE,
                            own_change)
                self.train(name, weights, selector, statistics, out + "-one", device, "--steps", "1",
                           "--learning-rate", "1", "--momentum", "0")
                after = parity.load_weights(out + "-one/last.safetensors")
                worst = 0.0
                for tensor, norm in norms.items():
                    gradient = parity.norm(start[tensor].double() - after[tensor].double())
                    # A float32 weight cannot show a gradient below its own rounding.
                    rounding = 6e-8 * parity.norm(start[tensor])
                    worst = max(worst, max(abs(gradient - norm) - rounding, 0) / max(norm, floor))
                own_gradient = self.own_gradient(
                    parity, name_of_traces + "-more.json", base, start, norms, floor, own_gradient, worst)
                self.report(name, device, label + " first gradients", worst, GRADIENT, own_gradient)


def main():
    if "--parity" in sys.argv:
        at = sys.argv.index("--parity")
        parity = load_parity(sys.argv[at - 1])
        sys.argv = sys.argv[:1] + sys.argv[at + 1:]
        return parity.main()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graft", required=True)
    parser.add_argument("--shared", default="../shared")
    parser.add_argument("--models", default=",".join(FAMILIES))
    parser.add_argument("--devices", default="cpu,opencl")
    parser.add_argument("--work", default="/tmp/family_parity")
    args = parser.parse_args()
    parity = load_parity(args.shared)
    torch.set_num_threads(2)
    runner = Runner(args)
    for index, name in enumerate(args.models.split(",")):
        runner.family(parity, index, name)
    sys.exit(1 if runner.failures else 0)


if __name__ == "__main__":
    main()
