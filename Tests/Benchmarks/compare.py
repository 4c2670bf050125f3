#!/usr/bin/env python3
"""Graft against established runtimes on the same work, alternating in one run: a table, and JSON with --json.

    swift build -c release --product graft
    python Tests/Benchmarks/compare.py --json comparison.json
    python Tests/Benchmarks/compare.py --rows resnet18-infer,cold-start --devices cpu --quick
    python Tests/Benchmarks/compare.py --data photos --check-targets

Requirements (Python 3.11 on Linux): torch torchvision numpy onnx onnxruntime openvino safetensors, and Pillow, which
torchvision brings. A missing onnx, onnxruntime, openvino or C++ compiler leaves its peers out, and the report says so.

How it measures
  * All processes run on the same --threads processors. Every contestant of a row is measured in short blocks that
    alternate, one block each per round, in an order that rotates: a peer is a long-lived process that answers "run k
    batches" through a pipe, Graft is one `graft bench --json` with as many repeats, its start outside the timing.
    Whole-process rows (recipes, cold start, memory) start a fresh process on both sides.
  * Before and after a block, a fixed matrix product runs on all these processors at once. A block counts only if both
    took at most 1.15 of the fastest of the whole run, if other processes took at most 8 % of the processors meanwhile,
    and the hypervisor at most 2 % (/proc/stat). Other blocks are repeated, a few times, and listed in the JSON.
  * A block's figure is the median of its batches. "min" is the fastest batch, "median" the median of the figures, both
    over the blocks that count. The ratio is Graft to the fastest peer (by median), formed round by round.
  * Outputs are compared before anything is timed: logits on the same images and weights (relative L2 below 1e-4, same
    arg-max), for training rows the update of all parameters after two steps (below 1 %, or twice what
    PyTorch's own is from float64), for recipes the loss of every epoch, for
    the cold start the first classes. A peer that disagrees does not count; Graft disagreeing fails the run.

Verdicts: met, MISSED, DISAGREES, FAILED, LOADED (too few rounds on a quiet machine: no verdict), skipped, measured
(no target for this device). Exit status: 0; 1 after DISAGREES or FAILED, with --check-targets also after MISSED or
LOADED; 2 for a wrong command line or a missing requirement; 130 when interrupted (the report shows what there was).
"""
import argparse
import csv
import dataclasses
import datetime
import importlib.metadata
import importlib.util
import json
import os
import platform
import select
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

CALIBRATION_LIMIT = 1.15
FOREIGN_LIMIT = 0.08
STEAL_LIMIT = 0.02
LOGITS_TOLERANCE = 1e-4
# Two steps through batch norms of four images amplify rounding; another gradient, or another rule, is off by far more.
UPDATE_TOLERANCE = 1e-2
# Two JPEG decoders may differ by one in a pixel.
LOSS_TOLERANCE = 1e-2
MEAN = (0.485, 0.456, 0.406)
STANDARD_DEVIATION = (0.229, 0.224, 0.225)
REPOSITORY = Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True)
class Row:
    name: str
    work: str
    kind: str  # bench, recipe, jpeg, memory, cold
    targets: dict  # device: largest ratio of Graft to the fastest peer
    model: str = "resnet18"
    mode: str = "infer"
    trainable: str = "all"
    batch: int = 8
    size: int = 224
    repeats: int = 5
    unfreeze: str = ""

    @property
    def classes(self):
        return 10 if self.mode == "train" or self.model.endswith("_cifar") else 1000

    @property
    def unit(self):
        return {"bench": "ms/image", "jpeg": "ms/image", "memory": "MiB"}.get(self.kind, "s")


def define(name, work, kind, opencl, cpu, **options):
    return Row(name, work, kind, {"opencl": opencl, "cpu": cpu}, **options)


ROWS = [
    define("resnet18-infer", "ResNet-18, inference, batch 8", "bench", 0.55, 0.62),
    define("resnet50-infer", "ResNet-50, inference, batch 8", "bench", 0.80, 0.88, model="resnet50", repeats=3),
    define("vgg16-infer", "VGG-16, inference, batch 8", "bench", 0.35, 0.40, model="vgg16", repeats=3),
    define("squeezenet1_1-infer", "SqueezeNet 1.1, inference, batch 8", "bench", 0.80, 0.90, model="squeezenet1_1",
           repeats=10),
    define("resnet20_cifar", "CIFAR ResNet-20, inference, 32 px, batch 64", "bench", 0.80, 0.80, model="resnet20_cifar",
           batch=64, size=32, repeats=10),
    define("resnet18-latency", "ResNet-18, inference, one image", "bench", 0.90, 0.90, batch=1, repeats=20),
    define("resnet18-train", "ResNet-18, training, all layers, batch 32", "bench", 0.55, 0.62, mode="train", batch=32,
           repeats=3),
    define("resnet50-train", "ResNet-50, training, all layers, batch 16", "bench", 0.75, 0.85, model="resnet50",
           mode="train", batch=16, repeats=3),
    define("resnet18-train-layer3", "ResNet-18, training, layer3 + head, batch 32, no cache", "bench", 0.50, 0.55,
           mode="train", trainable="layer3,fc", batch=32, repeats=3),
    define("recipe-head", "head only, 10 epochs, folder of JPEGs to saved weights", "recipe", 0.06, 0.06, batch=32),
    define("recipe-layer3", "the same, layer3 from epoch 5", "recipe", 0.28, 0.32, batch=32, unfreeze="5:layer3"),
    define("jpeg", "JPEG file to 224 px input, time per image", "jpeg", 0.50, 0.50, batch=32, repeats=3),
    define("memory", "peak resident memory, ResNet-18 training, batch 32", "memory", 0.50, 0.50, mode="train",
           batch=32),
    define("cold-start", "classify one image in a new process, ResNet-18", "cold", 0.20, 0.20),
]
PEERS = {
    "torch": "PyTorch, contiguous",
    "torch-channels-last": "PyTorch, channels-last",
    "torch-compile": "PyTorch, compiled, channels-last",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO, float32",
}
# Read images only: Graft's loader ends with bytes, since its devices normalise; the second ends where Graft ends.
READERS = {
    "torchvision": "torchvision with Pillow, normalised float32",
    "torchvision-bytes": "torchvision with Pillow, uint8",
}


class Skip(Exception):
    """A contestant cannot do a row; the text says why."""


class Failure(Exception):
    """A contestant broke."""


def log(text):
    print(f"[{datetime.datetime.now():%H:%M:%S}] {text}", file=sys.stderr, flush=True)


# --- PyTorch's side; runs in processes of its own, so that the measuring process stays small -----------------------


def cifar_resnet20(classes):
    import torch.nn as nn
    import torch.nn.functional as F

    class Block(nn.Module):
        def __init__(self, inputs, outputs, stride):
            super().__init__()
            self.stride = stride
            self.padding = (outputs - inputs) // 2
            self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(outputs)
            self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(outputs)

        def forward(self, x):
            y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
            if self.stride != 1:
                # The parameter-free shortcut: every second pixel, zero channels on both sides.
                x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.padding, self.padding))
            return F.relu(x + y)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(16)
            self.layer1 = nn.Sequential(*(Block(16, 16, 1) for _ in range(3)))
            self.layer2 = nn.Sequential(Block(16, 32, 2), Block(32, 32, 1), Block(32, 32, 1))
            self.layer3 = nn.Sequential(Block(32, 64, 2), Block(64, 64, 1), Block(64, 64, 1))
            self.linear = nn.Linear(64, classes)

        def forward(self, x):
            x = F.relu(self.bn1(self.conv1(x)))
            x = self.layer3(self.layer2(self.layer1(x)))
            return self.linear(x.mean((2, 3)))

    return Network()


def network(model, classes, weights=None):
    import torch

    if model == "resnet20_cifar":
        result = cifar_resnet20(classes)
    else:
        import torchvision

        result = torchvision.models.get_model(model, weights=None, num_classes=classes)
    if weights:
        result.load_state_dict(torch.load(weights, weights_only=True))
    return result


def write_weights(model, classes, path):
    """Random weights; batch norms have statistics and scales off their defaults, which puts folding to the test."""
    import torch

    torch.manual_seed(0)
    result = network(model, classes)
    for module in result.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, 0, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.5, 1)
            torch.nn.init.normal_(module.bias, 0, 0.1)
    torch.save(result.state_dict(), path)


def set_trainable(model, trainable):
    """Training mode; what is not trainable is frozen, batch-norm statistics included, as in Graft."""
    import torch

    model.train()
    names = trainable.split(",")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trainable == "all" or any(name.startswith(n + ".") for n in names))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d) and not any(p.requires_grad for p in module.parameters()):
            module.eval()


def preprocessing(size):
    from torchvision import transforms

    return transforms.Compose([
        transforms.Resize(round(size * 256 / 224)), transforms.CenterCrop(size), transforms.ToTensor(),
        transforms.Normalize(MEAN, STANDARD_DEVIATION),
    ])


def image_folder(folder, size):
    from torchvision import datasets

    return datasets.ImageFolder(folder, preprocessing(size))


def byte_folder(folder, size):
    from torchvision import datasets, transforms

    return datasets.ImageFolder(folder, transforms.Compose([
        transforms.Resize(round(size * 256 / 224)), transforms.CenterCrop(size), transforms.PILToTensor()]))


def processor_seconds_of_children():
    """User and system time of this process's living children: workers of a loader."""
    total = 0
    for entry in os.listdir("/proc"):
        try:
            fields = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split() if entry.isdigit() else []
        except OSError:
            continue
        if fields and int(fields[1]) == os.getpid():
            total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def first_line(error):
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0][:160]}" if text else type(error).__name__


class Server:
    """The far end of a peer's pipe: prepares a row, then runs blocks of it on request."""

    def __init__(self, peer, threads):
        self.peer, self.threads, self.step = peer, threads, None
        if peer.startswith("torch") or peer == "reference":
            import torch

            torch.set_num_threads(threads)

    def answer(self, request):
        action = getattr(self, "do_" + request.pop("do"))
        return action(**request)

    def do_prepare(self, row, weights, onnx, images, logits):
        """Reference only: weights, exported network, preprocessed images and PyTorch's logits of them, as files."""
        import torch

        row = Row(**row)
        if not os.path.exists(weights):
            write_weights(row.model, row.classes, weights)
        model = network(row.model, row.classes, weights).eval()
        dataset = image_folder(images["folder"], row.size)
        x = torch.stack([x for x, _ in dataset])
        np.save(images["array"], x.numpy())
        with torch.inference_mode():
            np.save(logits, model(x).numpy())
        if onnx and not os.path.exists(onnx):
            if importlib.util.find_spec("onnx") is None:
                raise Skip("package onnx is not installed")
            torch.onnx.export(model, (torch.randn(row.batch, 3, row.size, row.size),), onnx, dynamo=False)
        return {"images": [os.path.relpath(path, images["folder"]) for path, _ in dataset.samples]}

    def do_update(self, row, weights, images, batch, rate, trained):
        """Reference only: the same steps as Graft's in float64, and how far from its update of the parameters Graft's is,
        and PyTorch's own in float32: with random weights and small batches, batch norm makes much of rounding."""
        import torch
        from safetensors.torch import load_file

        row = Row(**row)
        start = torch.load(weights, weights_only=True)

        def steps(precision):
            model = network(row.model, row.classes, weights).to(precision)
            set_trainable(model, row.trainable)
            optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=rate, momentum=0.9)
            for x, y in torch.utils.data.DataLoader(image_folder(images, row.size), batch_size=batch):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(model(x.to(precision)), y).backward()
                optimizer.step()
            return model.state_dict()

        exact = steps(torch.float64)

        def distance(found):
            difference = update = 0.0
            for name, value in exact.items():
                if value.is_floating_point():
                    difference += float((found[name].double() - value).square().sum())
                    update += float((value - start[name].double()).square().sum())
            return (difference / update) ** 0.5

        return {"difference": distance(load_file(trained)), "own": distance(steps(torch.float32))}

    def do_inputs(self, folder, size, count, out):
        """Reference only: the normalised inputs of the first images of a folder, and their names."""
        dataset = image_folder(folder, size)
        np.save(out, np.stack([dataset[index][0].numpy() for index in range(count)]))
        return {"images": [os.path.relpath(path, folder) for path, _ in dataset.samples[:count]]}

    def do_read(self, folder, size, batch):
        """A loader over a folder; a step is one pass, and the workers stay from pass to pass."""
        import torch

        dataset = image_folder(folder, size) if self.peer == "torchvision" else byte_folder(folder, size)
        loader = torch.utils.data.DataLoader(dataset, batch, num_workers=self.threads, persistent_workers=True)

        def step():
            for _ in loader:
                pass

        self.step = step
        return {"images": len(dataset)}

    def do_setup(self, row, weights, onnx, images, logits):
        row = Row(**row)
        generator = np.random.default_rng(1)
        x = generator.standard_normal((row.batch, 3, row.size, row.size), dtype=np.float32)
        if self.peer.startswith("torch"):
            forward = self.setup_torch(row, weights, x, generator)
        else:
            if row.mode == "train":
                raise Skip("does not train")
            forward = self.setup_onnxruntime(onnx, x) if self.peer == "onnxruntime" else self.setup_openvino(onnx, x)
        if row.mode == "infer":
            # The network has a fixed batch: fill it up with repetitions.
            inputs, outputs = np.load(images), []
            for first in range(0, len(inputs), row.batch):
                chunk = inputs[first:first + row.batch]
                filled = np.concatenate([chunk] * -(-row.batch // len(chunk)))[:row.batch]
                outputs.append(forward(filled)[:len(chunk)])
            np.save(logits, np.concatenate(outputs))
        return {}

    def setup_torch(self, row, weights, x, generator):
        import torch

        model = network(row.model, row.classes, weights)
        layout = torch.contiguous_format if self.peer == "torch" else torch.channels_last
        model = model.to(memory_format=layout)
        x = torch.from_numpy(x).to(memory_format=layout)
        if row.mode == "infer":
            model.eval()
        else:
            set_trainable(model, row.trainable)
        function = torch.compile(model) if self.peer == "torch-compile" else model
        if row.mode == "infer":
            @torch.inference_mode()
            def forward(array):
                return function(torch.from_numpy(array).to(memory_format=layout)).numpy()

            @torch.inference_mode()
            def step():
                function(x)
        else:
            forward = None
            labels = torch.from_numpy(generator.integers(0, row.classes, row.batch))
            optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-5, momentum=0.9)

            def step():
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(function(x), labels).backward()
                optimizer.step()
        try:
            step()
        except Exception as error:
            if self.peer != "torch-compile":
                raise
            raise Skip(f"torch.compile failed: {first_line(error)}") from error
        self.step = step
        return forward

    def setup_onnxruntime(self, onnx, x):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name

        def forward(array):
            return session.run(None, {name: array})[0]

        self.step = lambda: forward(x)
        return forward

    def setup_openvino(self, onnx, x):
        import openvino

        core = openvino.Core()
        configuration = {"INFERENCE_NUM_THREADS": self.threads, "INFERENCE_PRECISION_HINT": "f32"}
        compiled = core.compile_model(core.read_model(onnx), "CPU", configuration)
        request = compiled.create_infer_request()

        def forward(array):
            return np.array(request.infer([array])[compiled.output(0)])

        self.step = lambda: request.infer([x])
        return forward

    def do_run(self, repeats):
        warmup = 1 if self.peer in READERS else 2  # as `graft bench` does
        for _ in range(warmup):
            self.step()
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            self.step()
            times.append(time.perf_counter() - start)
        return {"seconds": times}

    def do_drop(self):
        self.step = None
        if "torch" in sys.modules and self.peer == "torch-compile":
            import torch

            torch.compiler.reset()
        return {}


def serve(peer, threads):
    """Requests and answers are lines of JSON; what libraries print goes to the log instead."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    server = None
    for line in sys.stdin:
        before = time.process_time() + processor_seconds_of_children()
        try:
            server = server or Server(peer, threads)
            answer = server.answer(json.loads(line))
        except Skip as reason:
            answer = {"skipped": str(reason)}
        except ModuleNotFoundError as error:
            answer = {"skipped": f"package {error.name} is not installed"}
        except Exception as error:
            import traceback

            traceback.print_exc()
            answer = {"failed": first_line(error)}
        answer["cpu_seconds"] = time.process_time() + processor_seconds_of_children() - before
        print(json.dumps(answer), file=answers, flush=True)


def run_recipe(arguments):
    """PyTorch's transfer-learning tutorial: train and validate every epoch, save at the end."""
    import torch

    torch.set_num_threads(arguments["threads"])
    layout = torch.channels_last if arguments["channels_last"] else torch.contiguous_format
    sets = {name: image_folder(os.path.join(arguments["data"], name), 224) for name in ("train", "val")}
    loaders = {name: torch.utils.data.DataLoader(s, batch_size=arguments["batch"], num_workers=2)
               for name, s in sets.items()}
    model = network("resnet18", 1000, arguments["weights"])
    model.fc = torch.nn.Linear(512, len(sets["train"].classes))
    with np.load(arguments["head"]) as head:
        model.load_state_dict({name: torch.from_numpy(head[name]) for name in head}, strict=False)
    model = model.to(memory_format=layout)
    # All parameters from the start: those without a gradient are passed over.
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9)
    losses = []
    epoch_of_layer3 = int(arguments["unfreeze"].split(":")[0]) if arguments["unfreeze"] else None
    for epoch in range(10):
        layer3 = epoch_of_layer3 is not None and epoch >= epoch_of_layer3
        set_trainable(model, "layer3,fc" if layer3 else "fc")
        total = 0.0
        for x, y in loaders["train"]:
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(x.to(memory_format=layout)), y)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(x)
        losses.append(total / len(sets["train"]))
        model.eval()
        correct = 0
        with torch.no_grad():
            for x, y in loaders["val"]:
                correct += int((model(x.to(memory_format=layout)).argmax(1) == y).sum())
    torch.save(model.state_dict(), arguments["out"])
    print(json.dumps({"losses": losses, "val_accuracy": correct / len(sets["val"])}))


def run_cold_start(arguments):
    import torch
    from PIL import Image

    torch.set_num_threads(arguments["threads"])
    model = network("resnet18", 1000, arguments["weights"]).eval()
    x = preprocessing(224)(Image.open(arguments["image"]).convert("RGB"))
    with torch.inference_mode():
        top = model(x[None])[0].softmax(0).topk(5)
    print(json.dumps({"labels": top.indices.tolist(), "probabilities": top.values.tolist()}))


def run_training_for_memory(arguments):
    server = Server(arguments["peer"], arguments["threads"])
    server.do_setup(arguments["row"], arguments["weights"], None, None, None)
    server.do_run(arguments["repeats"])


TASKS = {"recipe": run_recipe, "cold": run_cold_start, "memory": run_training_for_memory}


# --- The machine: which processors, how quiet ----------------------------------------------------------------------


def choose_processors(count):
    """Prefers processors of different cores over two of one core."""
    allowed, siblings = sorted(os.sched_getaffinity(0)), {}
    for cpu in allowed:
        path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        siblings.setdefault(path.read_text() if path.exists() else str(cpu), []).append(cpu)
    ranked = [cpu for rank in range(len(allowed)) for group in siblings.values() for cpu in group[rank:rank + 1]]
    return sorted(ranked[:count])


class Calibration:
    """A fixed matrix product on every processor at the same time; seconds of the slowest."""

    def __init__(self, processors):
        single = {"OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        self.processes = [
            subprocess.Popen([sys.executable, __file__, "--calibrate-on", str(cpu)], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, text=True, env=os.environ | single)
            for cpu in processors]
        self.best = float("inf")

    def measure(self):
        for process in self.processes:
            process.stdin.write("\n")
            process.stdin.flush()
        seconds = max(float(process.stdout.readline()) for process in self.processes)
        self.best = min(self.best, seconds)
        return seconds

    def wait_for_quiet(self, limit):
        """Returns the last measurement: a fast one, or a slow one after `limit` seconds."""
        deadline = time.monotonic() + limit
        while True:
            seconds = self.measure()
            if seconds <= CALIBRATION_LIMIT * self.best or time.monotonic() > deadline:
                return seconds
            time.sleep(0.3)

    def close(self):
        for process in self.processes:
            process.stdin.close()
            process.wait()


def calibrate_on(cpu):
    os.sched_setaffinity(0, {cpu})
    values = np.random.default_rng(0).standard_normal((384, 384), dtype=np.float32)
    result = np.empty_like(values)
    for _ in sys.stdin:
        start = time.perf_counter()
        for _ in range(10):
            np.matmul(values, values, out=result)
        print(time.perf_counter() - start, flush=True)


class ProcessorTime:
    """Busy and stolen seconds of some processors since it was made, from /proc/stat."""

    def __init__(self, processors):
        self.names = {f"cpu{cpu}" for cpu in processors}
        self.start, self.first = time.monotonic(), self.read()

    def read(self):
        busy = stolen = 0
        with open("/proc/stat") as file:
            for line in file:
                name, *fields = line.split()
                if name in self.names:
                    user, nice, system, _, _, irq, softirq, steal = (int(field) for field in fields[:8])
                    busy += user + nice + system + irq + softirq
                    stolen += steal
        tick = os.sysconf("SC_CLK_TCK")
        return busy / tick, stolen / tick

    def since(self):
        """Elapsed seconds, and busy and stolen processor seconds."""
        busy, stolen = self.read()
        return time.monotonic() - self.start, busy - self.first[0], stolen - self.first[1]


@dataclasses.dataclass
class Block:
    round: int
    minimum: float
    median: float
    before: float
    after: float
    own: float  # shares of the processors
    foreign: float
    steal: float
    seconds: float
    rejected: str = ""

    def judge(self, best):
        """Why this block does not count; empty when it does."""
        if self.foreign > FOREIGN_LIMIT:
            self.rejected = "other processes"
        elif max(self.before, self.after) > CALIBRATION_LIMIT * best:
            self.rejected = "slow calibration"
        elif self.steal > STEAL_LIMIT:
            self.rejected = "stolen time"
        else:
            self.rejected = ""
        return not self.rejected


# --- Contestants: each has `name`, and `measure(repeats)` -> (minimum, median, processor seconds of its own) ---------


class Peer:
    """A long-lived process that runs blocks of the row it was set up for."""

    def __init__(self, name, threads, folder):
        self.name, self.threads, self.folder, self.process, self.batch = name, threads, folder, None, 1

    def start(self):
        self.log = open(os.path.join(self.folder, f"{self.name}.log"), "wb")
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve", self.name, "--threads", str(self.threads)], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=self.log)

    def ask(self, limit=900, **request):
        if self.process is None:
            self.start()
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError as error:
            raise Failure(f"its process ended{self.last_words()}") from error
        line, deadline = b"", time.monotonic() + limit
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([self.process.stdout], [], [], max(deadline - time.monotonic(), 0))
            piece = os.read(self.process.stdout.fileno(), 1 << 16) if ready else b""
            if not piece:
                self.close()
                raise Failure(f"its process ended{self.last_words()}" if ready else f"no answer in {limit} s")
            line += piece
        answer = json.loads(line)
        if "skipped" in answer:
            raise Skip(answer["skipped"])
        if "failed" in answer:
            raise Failure(answer["failed"])
        return answer

    def last_words(self):
        lines = Path(self.log.name).read_text(errors="replace").strip().splitlines()
        return f": {lines[-1][:200]}" if lines else ""

    def measure(self, repeats):
        answer = self.ask(do="run", repeats=repeats)
        times = [seconds * 1e3 / self.batch for seconds in answer["seconds"]]
        return min(times), statistics.median(times), answer["cpu_seconds"]

    def close(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


class Run:
    """One finished process: wall seconds, processor seconds, peak resident MiB, standard output."""

    def __init__(self, command, limit=1800):
        environment = {name: value for name, value in os.environ.items() if name != "GRAFT_DEVICE"}
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            start = time.perf_counter()
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, env=environment)
            timer = threading.Timer(limit, process.kill)
            timer.start()
            try:
                _, status, usage = os.wait4(process.pid, 0)
            except BaseException:
                process.kill()
                process.wait()
                raise
            finally:
                timer.cancel()
            self.seconds = time.perf_counter() - start
            process.returncode = os.waitstatus_to_exitcode(status)
            self.cpu_seconds = usage.ru_utime + usage.ru_stime
            self.peak = usage.ru_maxrss / 1024
            output.seek(0)
            self.output = output.read().decode(errors="replace")
            errors.seek(0)
            lines = errors.read().decode(errors="replace").strip().splitlines()
        if process.returncode != 0:
            text = next((line for line in reversed(lines) if "error" in line.lower()), lines[-1] if lines else "")
            message = f"{os.path.basename(command[0])} ended with {process.returncode}: {text[:200]}"
            # 69: the device does not exist here.
            raise Skip(message) if process.returncode == 69 else Failure(message)


class Graft:
    def __init__(self, path, device, threads):
        self.path, self.device, self.name = path, device, f"graft {device}"
        self.options = ["--device", device, "--threads", str(threads)]

    def run(self, *arguments, limit=1800):
        return Run([self.path, *(str(argument) for argument in arguments), *self.options], limit)

    def bench(self, row, repeats):
        extra = ["--trainable", row.trainable] if row.mode == "train" else []
        return self.run("bench", "--model", row.model, "--mode", row.mode, "--batch-size", row.batch, "--image-size",
                        row.size, "--repeats", repeats, "--json", *extra)


class Contestant:
    def __init__(self, name, measure):
        self.name, self.measure, self.blocks = name, measure, []

    def kept(self):
        return [block for block in self.blocks if not block.rejected]


# --- One comparison ------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Verdict:
    device: str
    state: str
    note: str = ""
    agreement: str = ""
    peer: str = ""
    ratio: dict | None = None
    rounds: int = 0
    loaded: bool = False


@dataclasses.dataclass
class Outcome:
    row: Row
    contestants: list
    verdicts: list
    notes: list


class Comparison:
    def __init__(self, options, folder, processors):
        self.options, self.folder, self.processors = options, folder, processors
        self.calibration = Calibration(processors)
        self.grafts = [Graft(options.graft, device, options.threads) for device in options.devices]
        self.reference = Peer("reference", options.threads, folder)
        self.peers = {name: Peer(name, options.threads, folder) for name in options.peers}
        self.outcomes, self.updates, self.logits = [], {}, {}

    def path(self, name):
        return os.path.join(self.folder, name)

    def close(self):
        self.calibration.close()
        for peer in [self.reference, *self.peers.values()]:
            peer.close()

    def look_around(self):
        """Finds the fastest calibration so far, and warns of a machine that is busy already."""
        for _ in range(50):
            self.calibration.measure()
        watch = ProcessorTime(self.processors)
        time.sleep(1)
        elapsed, busy, stolen = watch.since()
        share = (busy + stolen) / (elapsed * len(self.processors))
        log(f"  best {self.calibration.best * 1e3:.1f} ms")
        if share > FOREIGN_LIMIT:
            log(f"  warning: other processes take {share:.0%} of these processors now; loaded blocks do not count")

    # Inputs

    def check_images(self, row):
        """Eight pictures, lossless and of odd sizes, so that decoders agree and resampling is part of the check."""
        from PIL import Image

        folder = self.path(f"check-{row.size}")
        if not os.path.exists(folder):
            generator = np.random.default_rng(2)
            for index in range(8):
                side = row.size
                picture = draw_picture(generator, (side * 9 // 7 + 3 * index, side * 8 // 7 + 5), 0)
                target = Path(folder, "ab"[index % 2], f"{index}.png")
                target.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture).save(target)
        return folder

    def prepare(self, row):
        """Weights, exported network, images and PyTorch's logits for a row, as paths."""
        weights = self.path(f"{row.model}-{row.classes}.pth")
        needs_onnx = row.kind == "bench" and row.mode == "infer" and {"onnxruntime", "openvino"} & set(self.peers)
        onnx = self.path(f"{row.model}-{row.batch}-{row.size}.onnx") if needs_onnx else None
        images = {"folder": self.check_images(row), "array": self.path(f"check-{row.size}.npy")}
        logits = self.path(f"{row.model}-{row.classes}-logits.npy")
        without_onnx = ""
        try:
            answer = self.reference.ask(do="prepare", row=dataclasses.asdict(row), weights=weights, onnx=onnx,
                                        images=images, logits=logits)
            names = answer["images"]
        except Skip as reason:
            without_onnx = str(reason)
            answer = self.reference.ask(do="prepare", row=dataclasses.asdict(row), weights=weights, onnx=None,
                                        images=images, logits=logits)
            names = answer["images"]
        return {"weights": weights, "onnx": onnx, "images": images, "logits": logits, "names": names,
                "without_onnx": without_onnx}

    def recipe_data(self):
        if self.options.data:
            return self.options.data
        folder = self.path("photos")
        if not os.path.exists(folder):
            draw_photos(folder, {"train": 32, "val": 16} if self.options.quick else {"train": 244, "val": 153})
        return folder

    # Agreement of outputs. Each returns "" or what is wrong, and a text for the report.

    def compare_logits(self, ours, reference):
        difference = np.linalg.norm(ours.astype(np.float64) - reference) / np.linalg.norm(reference.astype(np.float64))
        text = f"logits differ by {difference:.1e}"
        # Not `>`: a NaN disagrees.
        if not difference < LOGITS_TOLERANCE:
            return f"{text}, allowed {LOGITS_TOLERANCE:.0e}", text
        if (ours.argmax(1) != reference.argmax(1)).any():
            return f"{text}, and another class wins", text
        return "", text

    def check_logits(self, row, graft, files):
        key = (row.model, row.classes, row.batch, row.size, graft.device)
        if key not in self.logits:
            out = self.path("graft-logits.npz")
            graft.run("evaluate", files["images"]["folder"], "--model", row.model, "--weights", files["weights"],
                      "--image-size", row.size, "--resize", round(row.size * 256 / 224), "--batch-size", row.batch,
                      "--logits", out, "--quiet")
            with np.load(out) as result:
                order = {str(path): index for index, path in enumerate(result["paths"])}
                ours = result["logits"][[order[name] for name in files["names"]]]
            self.logits[key] = self.compare_logits(ours, np.load(files["logits"]))
        return self.logits[key]

    def check_update(self, row, graft, files):
        key = (row.model, row.trainable, graft.device)
        if key not in self.updates:
            out, folder = self.path("trained"), files["images"]["folder"]
            shutil.rmtree(out, ignore_errors=True)
            # Frozen first, then what trains.
            graft.run("train", folder, "--model", row.model, "--weights", files["weights"], "--classes", row.classes,
                      "--freeze", "all", "--unfreeze", row.trainable, "--epochs", 1, "--batch-size", 4,
                      "--learning-rate", 0.01, "--no-shuffle", "--dropout", "off", "--image-size", row.size, "--resize",
                      round(row.size * 256 / 224), "--out", out, "--quiet")
            answer = self.reference.ask(
                do="update", row=dataclasses.asdict(row), weights=files["weights"], images=folder, batch=4, rate=0.01,
                trained=os.path.join(out, "last.safetensors"))
            difference, allowed = answer["difference"], max(UPDATE_TOLERANCE, 2 * answer["own"])
            text = f"update of two steps differs from float64 by {difference:.1e} (PyTorch's: {answer['own']:.1e})"
            wrong = "" if difference < allowed else f"{text}, allowed {allowed:.0e}"
            self.updates[key] = wrong, text
        return self.updates[key]

    # Rows

    def run_row(self, row):
        log(f"{row.name}: {row.work}")
        outcome = Outcome(row, [], [Verdict(graft.device, "") for graft in self.grafts], [])
        self.outcomes.append(outcome)
        try:
            self.measure_row(row, outcome)
        except (Skip, Failure) as reason:
            for verdict in outcome.verdicts:
                verdict.state, verdict.note = "FAILED", f"PyTorch's side: {reason}"

    def measure_row(self, row, outcome):
        if row.kind == "jpeg":
            self.measure_reading(row, outcome)
            return
        files = self.prepare(row)
        ready = []
        for graft, verdict in zip(self.grafts, outcome.verdicts):
            log(f"  {graft.name}: comparing outputs")
            try:
                check = self.check_update if row.mode == "train" else self.check_logits
                wrong, verdict.agreement = check(row, graft, files)
                if wrong:
                    verdict.state, verdict.note = "DISAGREES", wrong
            except Skip as reason:
                verdict.state, verdict.note = "skipped", str(reason)
            except Failure as reason:
                verdict.state, verdict.note = "FAILED", str(reason)
            if verdict.state in ("", "DISAGREES"):
                ready.append((graft, verdict))
        make = {"bench": self.bench_contestants, "recipe": self.recipe_contestants, "cold": self.cold_contestants,
                "memory": self.memory_contestants}[row.kind]
        outcome.contestants = make(row, files, ready, outcome)
        try:
            self.alternate(row, outcome)
        finally:
            for peer in self.peers.values():
                try:
                    if row.kind == "bench" and peer.process is not None:
                        peer.ask(do="drop")
                except Failure as reason:
                    outcome.notes.append(f"{peer.name}: {reason}")

    def measure_reading(self, row, outcome):
        """Reading has no device: one contestant of Graft's, whose verdict is every device's."""
        folder = os.path.join(self.recipe_data(), "train")
        graft, agreement, wrong = self.grafts[0], "", ""
        try:
            wrong, agreement = self.check_inputs(graft, folder, row.size)
        except (Skip, Failure) as reason:
            for verdict in outcome.verdicts:
                verdict.state, verdict.note = "FAILED", str(reason)
            return
        for verdict in outcome.verdicts:
            verdict.agreement = agreement
            if wrong:
                verdict.state, verdict.note = "DISAGREES", wrong
        outcome.notes.append("Graft and torchvision-bytes end with bytes, torchvision with normalised floats; "
                             f"{self.options.threads} threads or workers, batch {row.batch}")

        def graft_block(repeats):
            run = Run([graft.path, "bench", "--mode", "read", "--data", folder, "--image-size", str(row.size),
                       "--batch-size", str(row.batch), "--repeats", str(repeats), "--threads",
                       str(self.options.threads), "--json"])
            answer = json.loads(run.output)
            return answer["ms_per_image_min"], answer["ms_per_image_median"], run.cpu_seconds

        for name in READERS:
            peer = self.peers.setdefault(name, Peer(name, self.options.threads, self.folder))
            try:
                peer.batch = peer.ask(do="read", folder=folder, size=row.size, batch=row.batch)["images"]
                outcome.contestants.append(Contestant(name, peer.measure))
            except (Skip, Failure) as reason:
                outcome.notes.append(f"{name}: {reason}")
        outcome.contestants += [Contestant(f"graft {verdict.device}", graft_block) for verdict in outcome.verdicts[:1]]
        try:
            self.alternate(row, outcome)
        finally:
            for name in READERS:
                self.peers.pop(name).close()
        for contestant in [c for c in outcome.contestants if c.name.startswith("graft ")]:
            for verdict in outcome.verdicts[1:]:
                copy = Contestant(f"graft {verdict.device}", graft_block)
                copy.blocks = contestant.blocks
                outcome.contestants.append(copy)

    def check_inputs(self, graft, folder, size):
        """Whether Graft's inputs for a few files are torchvision's, taken behind normalisation."""
        count, inputs, out = 8, self.path("inputs.npy"), self.path("graft-inputs.npz")
        names = self.reference.ask(do="inputs", folder=folder, size=size, count=count, out=inputs)["images"]
        weights = self.path("resnet18-1000.pth")
        self.prepare(next(row for row in ROWS if row.name == "resnet18-infer"))
        graft.run("extract", folder, "--model", "resnet18", "--weights", weights, "--layer", "conv1:input", "--limit",
                  count, "--image-size", size, "--exif", "ignore", "--out", out, "--quiet")
        with np.load(out) as result:
            order = {str(path): index for index, path in enumerate(result["paths"])}
            ours = result["conv1:input"][[order[name] for name in names]]
        difference = float(np.abs(ours - np.load(inputs)).max())
        text = f"normalised inputs differ by {difference:.1e}"
        # A step of one in a byte is 0.0171 at least.
        return ("" if difference < 1e-3 else f"{text}, allowed 1e-3"), text

    def bench_contestants(self, row, files, ready, outcome):
        result = []
        for name, peer in self.peers.items():
            try:
                if name == "torch-compile" and not compiler():
                    raise Skip("no C++ compiler")
                if name in ("onnxruntime", "openvino"):
                    if row.mode == "train":
                        raise Skip("does not train")
                    if files["without_onnx"]:
                        raise Skip(files["without_onnx"])
                log(f"  {name}: preparing")
                peer.batch = row.batch
                logits = self.path(f"{name}-logits.npy")
                peer.ask(do="setup", row=dataclasses.asdict(row), weights=files["weights"], onnx=files["onnx"],
                         images=files["images"]["array"], logits=logits)
                if row.mode == "infer":
                    wrong, _ = self.compare_logits(np.load(logits), np.load(files["logits"]))
                    if wrong:
                        raise Skip(f"does not count: {wrong}")
                result.append(Contestant(name, peer.measure))
            except Skip as reason:
                outcome.notes.append(f"{name}: skipped, {reason}")
            except Failure as reason:
                outcome.notes.append(f"{name}: failed, {reason}")

        def measure(graft):
            def block(repeats):
                run = graft.bench(row, repeats)
                answer = json.loads(run.output)
                return answer["ms_per_image_min"], answer["ms_per_image_median"], run.cpu_seconds
            return block

        return result + [Contestant(graft.name, measure(graft)) for graft, _ in ready]

    def recipe_contestants(self, row, files, ready, outcome):
        data = self.recipe_data()
        head = self.path("head.npz")
        if not os.path.exists(head):
            classes = len([entry for entry in os.scandir(os.path.join(data, "train")) if entry.is_dir()])
            generator = np.random.default_rng(3)
            weight = (generator.standard_normal((classes, 512)) * 0.02).astype(np.float32)
            np.savez(head, **{"fc.weight": weight, "fc.bias": np.zeros(classes, np.float32)})
        losses = {}
        network_check = {verdict.device: verdict.agreement for _, verdict in ready}

        def torch_block(channels_last):
            def block(_):
                run = task("recipe", threads=self.options.threads, data=data, weights=files["weights"], head=head,
                           batch=row.batch, unfreeze=row.unfreeze, channels_last=channels_last,
                           out=self.path("recipe.pth"))
                losses["torch"] = json.loads(run.output)["losses"]
                return run.seconds, run.seconds, run.cpu_seconds
            return block

        def graft_block(graft, verdict):
            def block(_):
                out = self.path("recipe-run")
                shutil.rmtree(out, ignore_errors=True)
                unfreeze = ["--unfreeze-at", row.unfreeze] if row.unfreeze else []
                run = graft.run("train", data, "--model", "resnet18", "--weights", files["weights"], "--head-weights",
                                head, "--epochs", 10, "--batch-size", row.batch, "--no-shuffle", "--exif", "ignore",
                                "--out", out, "--quiet", *unfreeze)
                if "torch" in losses:
                    with open(os.path.join(out, "epochs.csv")) as file:
                        ours = np.array([float(line["train_loss"]) for line in csv.DictReader(file)])
                    theirs = np.array(losses["torch"])
                    difference = np.abs(ours / theirs - 1).max() if len(ours) == len(theirs) else float("inf")
                    text = f"losses of the epochs differ by {difference:.1e}"
                    verdict.agreement = f"{network_check[verdict.device]}, {text}"
                    if not difference < LOSS_TOLERANCE:
                        verdict.state, verdict.note = "DISAGREES", f"{text}, allowed {LOSS_TOLERANCE:.0e}"
                return run.seconds, run.seconds, run.cpu_seconds
            return block

        name = self.better_layout(outcome)
        return [Contestant(name, torch_block(name == "torch-channels-last"))] + [
            Contestant(graft.name, graft_block(graft, verdict)) for graft, verdict in ready]

    def better_layout(self, outcome):
        """The faster memory layout of eager PyTorch at this batch, by a short trial."""
        trial = define("trial", "", "trial", 1, 1, batch=32)
        files = self.prepare(trial)
        times = {}
        for name in ("torch", "torch-channels-last"):
            peer = self.peers.get(name) or Peer(name, self.options.threads, self.folder)
            peer.batch = trial.batch
            peer.ask(do="setup", row=dataclasses.asdict(trial), weights=files["weights"], onnx=None,
                     images=files["images"]["array"], logits=self.path("trial.npy"))
            times[name] = peer.measure(2)[0]
            peer.ask(do="drop")
            if name not in self.peers:
                peer.close()
        best = min(times, key=times.get)
        outcome.notes.append("PyTorch's layout by trial, ms/image of a forward pass: "
                             + ", ".join(f"{name} {value:.1f}" for name, value in times.items()))
        return best

    def cold_contestants(self, row, files, ready, outcome):
        image = self.path("cold.jpg")
        if not os.path.exists(image):
            from PIL import Image

            Image.fromarray(draw_picture(np.random.default_rng(4), (500, 375), 6)).save(image, quality=90)
        answers = {}

        def torch_block(_):
            run = task("cold", threads=self.options.threads, weights=files["weights"], image=image)
            answers["torch"] = json.loads(run.output)
            return run.seconds, run.seconds, run.cpu_seconds

        def graft_block(graft, verdict):
            def block(_):
                run = graft.run("predict", image, "--model", "resnet18", "--weights", files["weights"], "--json")
                ours = json.loads(run.output)["images"][0]["predictions"]
                if "torch" in answers:
                    theirs = answers["torch"]
                    # Probabilities, not the order: near ties may change places over one pixel's decoding.
                    expected = dict(zip(theirs["labels"], theirs["probabilities"]))
                    wrong = ours[0]["label"] != theirs["labels"][0] or any(
                        abs(p["probability"] / expected[p["label"]] - 1) > LOSS_TOLERANCE
                        for p in ours if p["label"] in expected)
                    if wrong:
                        verdict.state = "DISAGREES"
                        verdict.note = f"first classes {[p['label'] for p in ours]}, PyTorch's {theirs['labels']}"
                return run.seconds, run.seconds, run.cpu_seconds
            return block

        return [Contestant("torch", torch_block)] + [
            Contestant(graft.name, graft_block(graft, verdict)) for graft, verdict in ready]

    def memory_contestants(self, row, files, ready, outcome):
        def torch_block(name):
            def block(_):
                run = task("memory", peer=name, threads=self.options.threads, row=dataclasses.asdict(row),
                           weights=files["weights"], repeats=1)
                return run.peak, run.peak, run.cpu_seconds
            return block

        def graft_block(graft):
            def block(_):
                run = graft.bench(row, 1)
                return run.peak, run.peak, run.cpu_seconds
            return block

        return [Contestant(name, torch_block(name)) for name in ("torch", "torch-channels-last")] + [
            Contestant(graft.name, graft_block(graft)) for graft, _ in ready]

    # Alternating blocks

    def alternate(self, row, outcome):
        rounds = min(self.options.rounds, {"recipe": 3, "memory": 2}.get(row.kind, self.options.rounds))
        box = (90 if row.kind in ("bench", "jpeg") else 300) if self.options.quick else (600 if row.kind in ("bench", "jpeg") else 2400)
        if row.kind in ("bench", "jpeg", "cold"):
            for contestant in list(outcome.contestants):  # fills file and kernel caches before anything counts
                self.try_block(contestant, outcome, contestant.measure, 1)
        start = time.monotonic()
        for number in range(rounds):
            # Not begun when, at the pace so far, it would end too late.
            if number and (time.monotonic() - start) * (number + 1) / number > box:
                outcome.notes.append(f"stopped after {number} of {rounds} rounds: {box} s would not do")
                break
            turn = number % max(len(outcome.contestants), 1)
            for contestant in outcome.contestants[turn:] + outcome.contestants[:turn]:
                self.try_block(contestant, outcome, self.measure_block, contestant, row, number, start + box)
            shown = []
            for contestant in outcome.contestants:
                block = contestant.blocks[-1]
                reason = f" ({block.rejected})" if block.rejected else ""
                shown.append(f"{contestant.name} {block.median:.4g}{reason}")
            log(f"  round {number + 1}/{rounds}, {row.unit}: " + ", ".join(shown))

    def try_block(self, contestant, outcome, body, *arguments):
        """A contestant that breaks leaves the row; Graft breaking is the row's verdict."""
        try:
            body(*arguments)
        except (Skip, Failure) as reason:
            log(f"  {contestant.name}: {reason}")
            outcome.contestants = [c for c in outcome.contestants if c is not contestant]
            verdict = next((v for v in outcome.verdicts if contestant.name == f"graft {v.device}"), None)
            if verdict:
                verdict.state, verdict.note = "FAILED", str(reason)
            else:
                outcome.notes.append(f"{contestant.name}: failed, {reason}")

    def measure_block(self, contestant, row, number, deadline):
        # A recipe takes minutes: it waits for a quiet start, and is repeated less.
        attempts = 2 if row.kind == "recipe" or self.options.quick else 5
        patience = 4 if self.options.quick else 60 if row.kind == "recipe" else 20
        repeats = max(row.repeats // 2, 2) if self.options.quick else row.repeats
        for _ in range(attempts):
            time.sleep(0.2)  # threads of the block before stop spinning
            before = self.calibration.wait_for_quiet(0 if row.kind == "memory" else patience)
            own = time.process_time()
            watch = ProcessorTime(self.processors)
            minimum, median, cpu_seconds = contestant.measure(repeats)
            elapsed, busy, stolen = watch.since()
            own = time.process_time() - own + cpu_seconds
            time.sleep(0.2)  # threads of this block stop spinning
            after = self.calibration.measure()
            capacity = elapsed * len(self.processors)
            # The kernel counts in ticks: a few of them are no load.
            foreign = max(busy - own - 0.03, 0) / capacity
            steal = max(stolen - 0.02, 0) / capacity
            block = Block(number, minimum, median, before, after, own / capacity, foreign, steal, elapsed)
            contestant.blocks.append(block)
            if row.kind == "memory" or block.judge(self.calibration.best):
                return
            if time.monotonic() + elapsed > deadline:
                return

    # Verdicts

    def conclude(self, interrupted):
        for outcome in self.outcomes:
            row = outcome.row
            for contestant in outcome.contestants:
                for block in contestant.blocks:
                    # The fastest calibration is known only now; memory does not depend on load.
                    if row.kind != "memory":
                        block.judge(self.calibration.best)
            peers = [c for c in outcome.contestants if not c.name.startswith("graft ")]
            for verdict in outcome.verdicts:
                graft = next((c for c in outcome.contestants if c.name == f"graft {verdict.device}"), None)
                if graft is None or not graft.blocks or not any(p.blocks for p in peers):
                    if not verdict.state:
                        verdict.state = "skipped" if interrupted else "FAILED"
                        verdict.note = "interrupted" if interrupted else "nothing to compare with"
                    continue
                self.rate(row, verdict, graft, peers)

    def rate(self, row, verdict, graft, peers):
        quiet = [peer for peer in peers if peer.kept()]
        pairs = []
        if quiet:
            best = min(quiet, key=lambda peer: statistics.median(block.median for block in peer.kept()))
            pairs = pair(graft.kept(), best.kept())
        verdict.rounds = len(pairs)
        rounds = min(2, self.options.rounds)
        if len(pairs) < rounds or len(quiet) < len([peer for peer in peers if peer.blocks]):
            # Too little to judge by; show what all blocks say, marked as such.
            measured = [peer for peer in peers if peer.blocks]
            best = min(measured, key=lambda peer: statistics.median(block.median for block in peer.blocks))
            pairs = pair(graft.blocks, best.blocks)
            verdict.loaded = True
            if not verdict.state:
                verdict.state = "LOADED"
                verdict.note = f"{verdict.rounds} quiet rounds, {rounds} needed; the figures include loaded blocks"
        verdict.peer = best.name
        if pairs:
            verdict.ratio = {"min": min(pairs), "median": statistics.median(pairs), "max": max(pairs)}
        target = row.targets.get(verdict.device)
        if not verdict.state:
            verdict.state = "measured" if target is None else "met" if verdict.ratio["median"] <= target else "MISSED"


def pair(ours, theirs):
    """Ratios of the rounds that both have; the last block of a round counts."""
    by_round = {block.round: block.median for block in theirs}
    latest = {block.round: block.median for block in ours}
    return [value / by_round[number] for number, value in latest.items() if number in by_round]


def task(name, **arguments):
    return Run([sys.executable, __file__, "--task", name, json.dumps(arguments)])


def compiler():
    candidates = (os.environ.get("CXX"), "g++", "c++", "clang++")
    return next((name for name in candidates if name and shutil.which(name)), None)


def draw_picture(generator, size, grain):
    """A smooth random picture with some grain: it compresses about as a photograph does."""
    from PIL import Image

    width, height = size
    coarse = generator.integers(0, 256, (9, 12, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), np.float32)
    noise = generator.standard_normal((height, width, 1)) * grain
    return np.clip(smooth + noise, 0, 255).astype(np.uint8)


def draw_photos(folder, counts):
    from PIL import Image

    log("drawing pictures")
    generator = np.random.default_rng(5)
    for part, count in counts.items():
        for index in range(count):
            size = (500, 375) if index % 3 else (375, 500)
            target = Path(folder, part, ("ants", "bees")[index % 2], f"{index:04}.jpg")
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw_picture(generator, size, 6)).save(target, quality=90)


# --- Report --------------------------------------------------------------------------------------------------------


def describe_machine(options, processors):
    fields = {}
    with open("/proc/cpuinfo") as file:
        for line in file:
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    wanted = ("avx", "avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "asimd", "sve",
              "hypervisor")
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    versions = {}
    for package in ("torch", "torchvision", "numpy", "onnx", "onnxruntime", "openvino", "safetensors", "pillow"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None

    def text_of(*command):
        try:
            done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=False)
        except OSError:
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    commit = text_of("git", "rev-parse", "--short", "HEAD")
    if commit and text_of("git", "status", "--porcelain", "--untracked-files=no"):
        commit += " with changes"
    listing = json.loads(text_of(options.graft, "devices", "--json") or "{}")
    return {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join([os.path.basename(sys.executable), *sys.argv]),
        "cpu": fields.get("model name") or platform.machine(),
        "flags": [flag for flag in wanted if flag in flags],
        "processors": processors, "processors_online": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "load_average_at_start": os.getloadavg()[0],
        "graft": {"version": text_of(options.graft, "--version"), "path": options.graft, "repository_commit": commit,
                  "devices": [{key: device.get(key) for key in ("selector", "name", "platform", "driver", "kernels")}
                              for device in listing.get("devices", [])]},
        "python": platform.python_version(), "packages": versions, "cxx_compiler": compiler(),
        "threads": options.threads,
    }


def block_statistics(contestant):
    kept = contestant.kept()
    blocks = kept or contestant.blocks
    if not blocks:
        return None
    return {"min": min(block.minimum for block in blocks), "median": statistics.median(b.median for b in blocks),
            "kept": len(kept), "blocks": len(contestant.blocks), "loaded": not kept}


def number(value):
    return "" if value is None else f"{value:#.3g}" if value < 100 else f"{value:.{1 if value < 1000 else 0}f}"


def table(header, lines, right):
    widths = [max(len(line[column]) for line in [header, *lines]) for column in range(len(header))]

    def show(line):
        cells = (cell.rjust(width) if column in right else cell.ljust(width)
                 for column, (cell, width) in enumerate(zip(line, widths)))
        return "  ".join(cells).rstrip()

    return "\n".join([show(header), "  ".join("-" * width for width in widths), *map(show, lines)])


def report(machine, comparison):
    """The text for people."""
    options = comparison.options
    blocks = [b for o in comparison.outcomes for c in o.contestants for b in c.blocks]
    reasons = {}
    for block in blocks:
        if block.rejected:
            reasons[block.rejected] = reasons.get(block.rejected, 0) + 1
    foreign = statistics.median(block.foreign for block in blocks) if blocks else 0
    discarded = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items())) or "none"
    devices = "; ".join(f"{d['selector']} = {d['name']}, {d['platform']}, {d['driver']}, {d['kernels']}"
                        for d in machine["graft"]["devices"])
    packages = ", ".join(f"{name} {version or 'absent'}" for name, version in machine["packages"].items())
    text = [
        f"Graft against its peers, {machine['date']}"
        + (" (--quick: few rounds, small folders)" if options.quick else ""),
        "",
        f"machine    {machine['cpu']}, {' '.join(machine['flags'])}; {len(machine['processors'])} of "
        f"{machine['processors_online']} processors used ({', '.join(map(str, machine['processors']))}), "
        f"{machine['memory_gib']} GiB, {machine['system']}",
        f"graft      {machine['graft']['version']}, repository at {machine['graft']['repository_commit'] or 'unknown'}",
        f"devices    {devices}",
        f"peers      Python {machine['python']}, {packages}, C++ compiler {machine['cxx_compiler'] or 'absent'}",
        f"command    {machine['command']}",
        f"quietness  load average at start {machine['load_average_at_start']:.2f}; calibration at best "
        f"{comparison.calibration.best * 1e3:.1f} ms; {len(blocks)} blocks, of which discarded: {discarded}; other "
        f"processes took {foreign:.0%} of the processors at the median",
        "",
    ]
    lines, details, remarks = [], [], []
    for outcome in comparison.outcomes:
        entry = outcome.row
        figures = {c.name: block_statistics(c) for c in outcome.contestants}
        for verdict in outcome.verdicts:
            ours, theirs = figures.get(f"graft {verdict.device}"), figures.get(verdict.peer)
            target, ratio = entry.targets.get(verdict.device), verdict.ratio
            about = "~" if verdict.loaded else ""
            lines.append([
                entry.name, verdict.device, number(ours and ours["min"]), number(ours and ours["median"]),
                verdict.peer, number(theirs and theirs["min"]), number(theirs and theirs["median"]),
                entry.unit if ours else "",
                f"{about}{ratio['median']:.3f}" if ratio else "",
                f"{ratio['min']:.3f}-{ratio['max']:.3f}" if ratio else "",
                "" if target is None else f"{target:.2f}", str(verdict.rounds), verdict.state])
            if verdict.note:
                remarks.append(f"{entry.name}, {verdict.device}: {verdict.state}: {verdict.note}")
            if verdict.agreement and verdict.state != "DISAGREES":
                remarks.append(f"{entry.name}, {verdict.device}: outputs agree, {verdict.agreement}")
        remarks += [f"{entry.name}: {note}" for note in outcome.notes]
        for name, value in figures.items():
            if value:
                loaded = "loaded blocks only" if value["loaded"] else ""
                details.append([entry.name, name, number(value["min"]), number(value["median"]), entry.unit,
                                f"{value['kept']} of {value['blocks']}", loaded])
    text.append("Ratio of Graft to the fastest float32 peer, round by round (below 1: Graft is faster, or smaller)")
    text.append("")
    header = ["row", "device", "min", "median", "fastest peer", "min", "median", "unit", "ratio", "spread", "target",
              "rounds", "verdict"]
    text += [table(header, lines, {2, 3, 5, 6, 8, 9, 10, 11}), "", "All contestants", ""]
    text.append(table(["row", "contestant", "min", "median", "unit", "blocks kept", ""], details, {2, 3, 5}))
    if remarks:
        text += ["", "Remarks", ""] + [f"  {remark}" for remark in remarks]
    return "\n".join(text)


def report_json(machine, comparison):
    rows = []
    for outcome in comparison.outcomes:
        rows.append({
            "row": outcome.row.name, "work": outcome.row.work, "unit": outcome.row.unit,
            "results": [dataclasses.asdict(v) | {"target": outcome.row.targets.get(v.device)}
                        for v in outcome.verdicts],
            "contestants": [{"name": c.name, "statistics": block_statistics(c),
                             "blocks": [dataclasses.asdict(block) for block in c.blocks]}
                            for c in outcome.contestants],
            "notes": outcome.notes,
        })
    limits = {"calibration": CALIBRATION_LIMIT, "foreign": FOREIGN_LIMIT, "steal": STEAL_LIMIT,
              "best_calibration_seconds": comparison.calibration.best}
    return {"machine": machine, "quick": comparison.options.quick, "limits": limits, "rows": rows}


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     epilog="rows:\n" + "\n".join(f"  {r.name:22} {r.work}" for r in ROWS)
                                     + "\npeers:\n" + "\n".join(f"  {n:22} {t}" for n, t in PEERS.items()))

    def some_of(known):
        def parse(text):
            names = [name for name in text.split(",") if name]
            for name in names:
                if name not in known:
                    raise argparse.ArgumentTypeError(f"unknown {name!r}; there are {', '.join(known)}")
            return list(dict.fromkeys(names))
        return parse

    def positive(text):
        if not text.isdigit() or int(text) < 1:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
        return int(text)

    parser.add_argument("--graft", default=str(REPOSITORY / ".build/release/graft"), metavar="PATH",
                        help="the binary (default: .build/release/graft of this repository)")
    parser.add_argument("--devices", default="cpu,opencl", metavar="A,B", help="Graft's devices (default: cpu,opencl)",
                        type=lambda text: list(dict.fromkeys(name for name in text.split(",") if name)))
    parser.add_argument("--rows", type=some_of([r.name for r in ROWS]), default=[r.name for r in ROWS], metavar="A,B",
                        help="rows to measure (default: all)")
    parser.add_argument("--peers", type=some_of(PEERS), default=list(PEERS), metavar="A,B",
                        help="peers of the rows that time a network (default: all)")
    parser.add_argument("--rounds", type=positive, metavar="N",
                        help="rounds per row (default: 5, with --quick 2; recipes at most 3, memory at most 2)")
    parser.add_argument("--data", metavar="FOLDER", help="folder with train/ and val/, class folders of JPEGs in each, "
                        "for the recipes (default: pictures drawn for the run)")
    parser.add_argument("--threads", type=positive, default=2, metavar="N", help="processors for every contestant "
                        "(default: 2)")
    parser.add_argument("--json", metavar="OUT", help="write every block and verdict as JSON")
    parser.add_argument("--quick", action="store_true", help="two rounds, little patience, small folders: a trial")
    parser.add_argument("--check-targets", action="store_true", help="exit status 1 unless every target is met")
    for hidden in ("--serve", "--task", "--calibrate-on"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs="?", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.rounds = options.rounds or (2 if options.quick else 5)
    if options.serve or options.task or options.calibrate_on:
        return options
    if options.arguments:
        parser.error(f"unexpected argument {options.arguments!r}")
    options.graft = shutil.which(options.graft)
    if not options.graft:
        parser.error("no graft binary; build it with `swift build -c release --product graft`, or name it with --graft")
    options.graft = os.path.abspath(options.graft)
    if options.threads > len(os.sched_getaffinity(0)):
        parser.error(f"--threads {options.threads}: {len(os.sched_getaffinity(0))} processors are available")
    for part in ("train", "val"):
        if options.data and not os.path.isdir(os.path.join(options.data, part)):
            parser.error(f"--data {options.data} has no folder {part}/")
    missing = [name for name in ("torch", "torchvision", "safetensors") if importlib.util.find_spec(name) is None]
    if missing:
        parser.error(f"missing packages: {', '.join(missing)}")
    if options.json and not os.path.isdir(os.path.dirname(os.path.abspath(options.json))):
        parser.error(f"--json {options.json}: no such folder")
    return options


def main():
    options = parse_options()
    if options.calibrate_on:
        return calibrate_on(int(options.calibrate_on))
    if options.serve:
        return serve(options.serve, options.threads)
    if options.task:
        return TASKS[options.task](json.loads(options.arguments))

    processors = choose_processors(options.threads)
    os.sched_setaffinity(0, processors)
    machine = describe_machine(options, processors)
    interrupted = False
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # reports what there is, as Ctrl-C does
    with tempfile.TemporaryDirectory(prefix="graft-compare-") as folder:
        comparison = Comparison(options, folder, processors)
        try:
            log("calibrating")
            comparison.look_around()
            for entry in ROWS:
                if entry.name in options.rows:
                    comparison.run_row(entry)
        except KeyboardInterrupt:
            interrupted = True
            for name in (signal.SIGINT, signal.SIGTERM):  # a second one must not cost the report
                signal.signal(name, signal.SIG_IGN)
        finally:
            comparison.close()
        comparison.conclude(interrupted)
    print(report(machine, comparison))
    if options.json:
        with open(options.json, "w") as file:
            json.dump(report_json(machine, comparison), file, indent=1)
            file.write("\n")
    if interrupted:
        return 130
    failing = {"DISAGREES", "FAILED"} | ({"MISSED", "LOADED"} if options.check_targets else set())
    return int(any(v.state in failing for o in comparison.outcomes for v in o.verdicts))


if __name__ == "__main__":
    sys.exit(main())
