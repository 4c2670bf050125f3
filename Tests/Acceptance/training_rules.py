"""Holds Graft's training rules against PyTorch: parameter groups, clipping, accumulation, the average of the weights,
schedules, losses.

    python Tests/Acceptance/training_rules.py check --graft .build/release/graft [--device cpu] [--device opencl]
    python Tests/Acceptance/training_rules.py fixture      rewrites Tests/GraftTests/Fixtures/training_rules.json

`check` trains resnet8_cifar on twelve pictures with `graft train` and with PyTorch, one case a rule, and compares the
losses of all steps and all tensors at the end. `fixture` writes what PyTorch gives for the cases that `swift test` runs.
Needs torch, numpy, pillow, safetensors.
"""

import argparse
import copy
import json
import os
import subprocess
import sys
import tempfile

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
SIZE = 16
COUNT = 12
CLASSES = 3
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)


# ---------------------------------------------------------------- network and data, by formula

def stream(key, count):
    """splitmix64 of key + (i + 1) * GOLDEN."""
    z = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(GOLDEN) + np.uint64(key & MASK)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def uniform(name, seed, count):
    key = 14695981039346656037
    for byte in name.encode():
        key = ((key ^ byte) * 1099511628211) & MASK
    return (stream(key ^ (seed * GOLDEN & MASK), count) >> np.uint64(40)).astype(np.float64) * 2.0 ** -24


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.pad = outputs // 4 if stride != 1 or inputs != outputs else 0

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.pad:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(x + y)


class Net(nn.Module):
    """resnet8_cifar."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(Block(16, 16, 1))
        self.layer2 = nn.Sequential(Block(16, 32, 2))
        self.layer3 = nn.Sequential(Block(32, 64, 2))
        self.linear = nn.Linear(64, CLASSES)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(x.mean((2, 3)))


def formula_state(model, seed=1):
    """The weights of Tests/GraftTests/FormulaWeights.swift."""
    shapes = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    state = {}
    for name, shape in shapes.items():
        prefix, _, kind = name.rpartition(".")
        if kind == "num_batches_tracked":
            state[name] = torch.tensor(100)
            continue
        u = uniform(name, seed, int(np.prod(shape)))
        norm = prefix + ".running_mean" in shapes
        if kind == "running_mean" or (kind == "bias" and norm):
            value = 0.4 * u - 0.2
        elif kind == "running_var":
            value = 0.5 + u
        elif norm:
            value = 0.2 + 0.2 * u if prefix.startswith("layer") and prefix.endswith("bn2") else 0.75 + 0.5 * u
        elif kind == "bias":
            value = 0.1 * u - 0.05
        else:
            value = (2 * u - 1) * np.sqrt((1.0 if prefix == "linear" else 6.0) / np.prod(shape[1:]))
        state[name] = torch.from_numpy(value.astype(np.float32).reshape(shape))
    return state


def pictures():
    """uint8 [12, 16, 16, 3]; class c is brighter by 40 * c."""
    noise = (stream(7, COUNT * SIZE * SIZE * 3) >> np.uint64(57)).astype(np.int64).reshape(COUNT, SIZE, SIZE, 3)
    return (noise + 40 * labels()[:, None, None, None]).astype(np.uint8)


def labels():
    return np.arange(COUNT) // (COUNT // CLASSES)


def inputs():
    mean, deviation = (np.array(v, dtype=np.float32) for v in (MEAN, DEVIATION))
    x = (pictures().astype(np.float32) / np.float32(255) - mean) / deviation
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


# ---------------------------------------------------------------- cases

def case(name, flags=(), cli=True, **options):
    settings = dict(optimizer="sgd", rate=0.02, momentum=0.9, decay=0.0, rates=(), layer_decay=None, no_decay=False,
                    clip=None, batch=6, accumulate=1, average=None, schedule=None, weights=None, smoothing=0.0,
                    mixed=None, epochs=3, rise=0.3, tolerance=5e-3)
    settings.update(options)
    return dict(name=name, flags=list(flags), cli=cli, **settings)


MIXED = dict(second=[2, 1, 0, 2, 1, 0], shares=[0.25, 0.5, 0.75, 0.9, 0.1, 0.6])

CASES = [
    case("plain"),
    case("rates", ["--learning-rate", "0.02,layer3:0.005,layer3.0.bn2:0.01,linear:0.05"],
         rates=[("layer3", 0.005), ("layer3.0.bn2", 0.01), ("linear", 0.05)]),
    case("layer_decay", ["--layer-decay", "0.5"], layer_decay=0.5),
    case("no_decay", ["--weight-decay", "0.1", "--no-decay-bias-norm"], decay=0.1, no_decay=True),
    case("adamw_groups", ["--optimizer", "adamw", "--learning-rate", "0.002,linear:0.01", "--layer-decay", "0.7",
                          "--weight-decay", "0.1", "--no-decay-bias-norm"],
         optimizer="adamw", rate=0.002, rates=[("linear", 0.01)], layer_decay=0.7, decay=0.1, no_decay=True),
    case("clip", ["--clip-norm", "0.5", "--weight-decay", "0.01"], clip=0.5, decay=0.01),
    case("clip_adam", ["--clip-norm", "0.1", "--optimizer", "adam", "--learning-rate", "0.001"],
         optimizer="adam", rate=0.001, clip=0.1),
    case("accumulate", ["--accumulate", "3"], batch=3, accumulate=3),
    case("accumulate_clip", ["--accumulate", "2", "--clip-norm", "0.5", "--ema", "0.9"], batch=4, accumulate=2,
         clip=0.5, average=0.9),
    case("average", ["--ema", "0.5"], average=0.5),
    case("one_cycle", ["--schedule", "one-cycle"], schedule="one-cycle", epochs=5),
    case("one_cycle_adamw", ["--schedule", "one-cycle:0.4", "--optimizer", "adamw", "--learning-rate", "0.002"],
         schedule="one-cycle", rise=0.4, optimizer="adamw", rate=0.002, decay=0.01, epochs=5),
    case("cosine_floor", ["--schedule", "cosine:0.1"], schedule="cosine", epochs=4),
    case("plateau", ["--schedule", "plateau:0.5:0", "--learning-rate", "0.2"], schedule="plateau", rate=0.2, epochs=8,
         tolerance=5e-2),
    case("class_weights", ["--class-weights", "WEIGHTS"], weights=[0.5, 1.0, 3.0]),
    case("class_weights_smoothed", ["--class-weights", "WEIGHTS", "--label-smoothing", "0.1"], weights=[0.5, 1.0, 3.0],
         smoothing=0.1),
    case("mixed", cli=False, mixed=MIXED),
    case("mixed_smoothed", cli=False, mixed=MIXED, smoothing=0.1),
    case("mixed_weighted", cli=False, mixed=MIXED, smoothing=0.1, weights=[0.5, 1.0, 3.0]),
]


def depth(name):
    return {"conv1": 0, "bn1": 0, "layer1": 1, "layer2": 2, "layer3": 3, "linear": 4}[name.split(".")[0]]


def loss_of(settings, logits, target, mixed=None):
    weight = torch.tensor(settings["weights"]) if settings["weights"] else None
    if mixed:
        share = torch.tensor(mixed["shares"])[:, None]
        target = (share * F.one_hot(target, CLASSES) + (1 - share) * F.one_hot(torch.tensor(mixed["second"]), CLASSES))
    return F.cross_entropy(logits, target, weight=weight, label_smoothing=settings["smoothing"])


def train(settings):
    """Losses of all steps, rates of all steps, the state and the averaged state."""
    torch.manual_seed(0)
    model = Net()
    model.load_state_dict(formula_state(model))
    x, y = inputs(), torch.from_numpy(labels())
    groups = []
    for name, parameter in model.named_parameters():
        rate = settings["rate"]
        for selector, value in settings["rates"]:
            if name == selector or name.startswith(selector + "."):
                rate = value
        if settings["layer_decay"]:
            rate *= settings["layer_decay"] ** (4 - depth(name))
        decay = 0.0 if settings["no_decay"] and parameter.ndim <= 1 else settings["decay"]
        groups.append(dict(params=[parameter], lr=rate, weight_decay=decay))
    if settings["optimizer"] == "sgd":
        optimizer = torch.optim.SGD(groups, lr=settings["rate"], momentum=settings["momentum"])
    else:
        optimizer = dict(adam=torch.optim.Adam, adamw=torch.optim.AdamW)[settings["optimizer"]](groups)
    average = copy.deepcopy(model) if settings["average"] is not None else None
    batch, window = settings["batch"], settings["accumulate"]
    starts = list(range(0, COUNT, batch))
    windows = [starts[i:i + window] for i in range(0, len(starts), window)]
    total = settings["epochs"] * len(windows)
    scheduler, plateau = make_scheduler(settings, optimizer, total, len(windows))
    losses, rates = [], []
    for epoch in range(settings["epochs"]):
        model.train()
        for parts in windows:
            optimizer.zero_grad()
            images = sum(min(batch, COUNT - s) for s in parts)
            step_loss = 0.0
            for start in parts:
                chosen = slice(start, start + batch)
                share = len(y[chosen]) / images
                loss = loss_of(settings, model(x[chosen]), y[chosen], settings["mixed"])
                (loss * share).backward()
                step_loss += loss.item() * share
            if settings["clip"]:
                nn.utils.clip_grad_norm_(model.parameters(), settings["clip"])
            rates.append(optimizer.param_groups[-1]["lr"])
            optimizer.step()
            if scheduler and len(rates) < total:
                scheduler.step()
            losses.append(step_loss)
            if average is not None:
                with torch.no_grad():
                    for kept, new in zip(average.state_dict().values(), model.state_dict().values()):
                        if kept.is_floating_point():
                            kept.lerp_(new, 1 - settings["average"])
        if plateau:
            model.eval()
            with torch.no_grad():
                plateau.step(F.cross_entropy(model(x), y).item())
    return losses, rates, model.state_dict(), None if average is None else average.state_dict()


def make_scheduler(settings, optimizer, total, steps_per_epoch):
    """What steps behind every step, and what behind every epoch."""
    rates = [group["lr"] for group in optimizer.param_groups]
    if settings["schedule"] == "one-cycle":
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=rates, total_steps=total, pct_start=settings["rise"]), None
    if settings["schedule"] == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total, eta_min=0.1 * rates[0]), None
    if settings["schedule"] == "plateau":
        return None, torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
    return None, None


# ---------------------------------------------------------------- commands

def fixture(path):
    result = []
    for settings in CASES:
        losses, rates, state, average = train(settings)
        entry = dict(name=settings["name"], losses=losses, rates=rates, tensors={})
        for key, tensors in (("tensors", state), ("average", average or {})):
            entry[key] = {
                name: dict(norm=float(t.double().norm()), first=[float(v) for v in t.flatten()[:3]])
                for name, t in tensors.items()
                if name in ("conv1.weight", "layer2.0.bn1.weight", "layer3.0.conv2.weight", "layer3.0.bn2.bias",
                            "layer1.0.bn1.running_var", "linear.weight", "linear.bias")}
        result.append(entry)
    with open(path, "w") as file:
        json.dump(dict(torch=torch.__version__, cases=result), file, indent=1)
        file.write("\n")
    print(f"{path}: {len(result)} cases")


def check(graft, devices, only):
    from PIL import Image
    from safetensors.torch import load_file

    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        for index, (image, label) in enumerate(zip(pictures(), labels())):
            os.makedirs(f"{folder}/data/{label}", exist_ok=True)
            Image.fromarray(image).save(f"{folder}/data/{label}/{index:02}.png")
        torch.save(formula_state(Net()), f"{folder}/weights.pth")
        for settings in CASES:
            if not settings["cli"] or (only and settings["name"] not in only):
                continue
            losses, rates, state, average = train(settings)
            for device in devices:
                run = f"{folder}/{settings['name']}-{device}"
                command = [
                    graft, "train", f"{folder}/data", "--model", "resnet8_cifar", "--weights", f"{folder}/weights.pth",
                    "--unfreeze", "all", "--out", run, "--no-shuffle", "--image-size", str(SIZE), "--resize", str(SIZE),
                    "--batch-size", str(settings["batch"]), "--epochs", str(settings["epochs"]), "--device", device,
                    "--val", f"{folder}/data", "--quiet"]
                command += settings["flags"]
                if "WEIGHTS" in command:
                    with open(f"{folder}/class-weights.txt", "w") as file:
                        file.writelines(f"{label} {weight}\n" for label, weight in enumerate(settings["weights"]))
                    command[command.index("WEIGHTS")] = f"{folder}/class-weights.txt"
                if "--learning-rate" not in settings["flags"]:
                    command += ["--learning-rate", str(settings["rate"])]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    print(f"FAILED {settings['name']} on {device}: {done.stderr.strip()}")
                    failures += 1
                    continue
                with open(f"{run}/steps.csv") as file:
                    found = [line.split(",") for line in file.read().splitlines()[1:]]
                worst_loss = max(abs(float(row[2]) - wanted) / max(wanted, 1e-3) for row, wanted in zip(found, losses))
                worst, where = compare(load_file(f"{run}/last.safetensors"), state)
                if average is not None:
                    other, place = compare(load_file(f"{run}/ema.safetensors"), average)
                    if other > worst:
                        worst, where = other, "average of " + place
                worst_rate = max(abs(float(row[4]) - wanted) / wanted for row, wanted in zip(found, base(settings, rates)))
                good = len(found) == len(losses) and max(worst_loss, worst) < settings["tolerance"] and worst_rate < 1e-6
                failures += not good
                print(f"{'ok    ' if good else 'FAILED'} {settings['name']:16} {device:8} {len(found)} steps, losses "
                      f"within {worst_loss:.1e}, rates within {worst_rate:.1e}, tensors within {worst:.1e} ({where})")
    print(f"{failures} failures" if failures else "all agree with PyTorch")
    return 1 if failures else 0


def base(settings, rates):
    """The rates as steps.csv has them: those of parameters without a rate of their own."""
    own = rates[0] if rates[0] > 0 else 1
    return [rate / own * settings["rate"] if settings["rates"] else rate for rate in rates]


def compare(found, wanted):
    """The largest distance between two tensors, relative to the tensor's norm."""
    worst = (0.0, "nothing")
    for name, tensor in wanted.items():
        if tensor.is_floating_point():
            distance = float((found[name].double() - tensor.double()).norm() / tensor.double().norm().clamp(min=1e-3))
            worst = max(worst, (distance, name))
    return worst


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("check")
    one.add_argument("--graft", required=True)
    one.add_argument("--device", action="append")
    one.add_argument("--case", action="append")
    two = commands.add_parser("fixture")
    here = os.path.dirname(os.path.abspath(__file__))
    two.add_argument("--out", default=os.path.join(here, "../GraftTests/Fixtures/training_rules.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.command == "fixture":
        fixture(os.path.normpath(arguments.out))
        return 0
    return check(arguments.graft, arguments.device or ["cpu"], arguments.case)


if __name__ == "__main__":
    sys.exit(main())
