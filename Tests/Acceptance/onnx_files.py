#!/usr/bin/env python3
"""ONNX export and import held against ONNX's checker, ONNX Runtime and PyTorch.

export   every architecture of torchvision that Graft has: random weights from torchvision, `graft convert` to ONNX,
         onnx.checker (full), ONNX Runtime at two batch sizes against torchvision's own scores; a feature extractor.
import   what torch.onnx.export writes, by both exporters: scores on pictures against PyTorch's; what Graft cannot read
         (the newer exporter's ConvNeXt) is an error that names the nodes.
train    five steps of SGD over all parameters of imported networks: losses against PyTorch's. Beside them stands how
         far PyTorch's own move between its two memory layouts; each step's bound is eight times what they have moved
         up to it where that is more than 2e-4.

Needs torch, torchvision, onnx, onnxruntime, onnxscript, safetensors, numpy and pillow, and a built `graft`. Exit code 0
when all is equal within the bounds it prints.
"""
import argparse
import collections
import csv
import json
import pathlib
import shutil
import subprocess
import tempfile
import warnings

import numpy
import onnx
import onnxruntime
import safetensors.torch
import torch
import torchvision
import torchvision.models.feature_extraction
from PIL import Image

warnings.filterwarnings("ignore")
ROOT = pathlib.Path(__file__).resolve().parents[2]
MEAN = torch.tensor([0.485, 0.456, 0.406]).reshape(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).reshape(3, 1, 1)
BOUND = 1e-5


def run(graft, *arguments):
    result = subprocess.run([graft, *map(str, arguments)], capture_output=True, text=True)
    if result.returncode != 0:
        raise SystemExit(f"graft {' '.join(map(str, arguments))}: {result.stderr}")
    return result.stdout


def difference(found, expected):
    return float(numpy.abs(found - expected).max() / numpy.abs(expected).max())


def lively(model):
    """Statistics and shifts that are not those of a fresh network."""
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.2)
        elif name.endswith("running_var"):
            buffer.uniform_(0.8, 1.25)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.05)
        for module in model.modules():
            if hasattr(module, "layer_scale"):
                module.layer_scale.uniform_(0.1, 0.5)
    return model.eval()


def export(graft, folder, names, size):
    worst = 0
    for name in names:
        torch.manual_seed(0)
        model = lively(torchvision.models.get_model(name))
        weights, target = folder / "w.pth", folder / "m.onnx"
        torch.save(model.state_dict(), weights)
        run(graft, "convert", weights, target, "--model", name, "--image-size", size, "--quiet")
        onnx.checker.check_model(str(target), full_check=True)
        written = onnx.load(str(target))
        constants = {c.name: onnx.numpy_helper.to_array(c) for c in written.graph.initializer}
        state = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
        assert all(numpy.array_equal(constants[k], v.numpy()) for k, v in state.items()), f"{name}: constants differ"
        texts = {p.key: p.value for p in written.metadata_props}
        assert texts["architecture"] == name and texts["image_size"] == str(size), texts
        session = onnxruntime.InferenceSession(str(target), providers=["CPUExecutionProvider"])
        found = []
        for batch in [1, 3]:
            x = torch.randn(batch, 3, size, size)
            with torch.no_grad():
                expected = model(x).numpy()
            found.append(difference(session.run(["logits"], {"input": x.numpy()})[0], expected))
        worst = max(worst, *found)
        print(f"export {name:18} {len(written.graph.node):4} nodes, {target.stat().st_size / 2**20:6.1f} MiB, "
              f"ONNX Runtime differs by {max(found):.1e}", flush=True)
        assert max(found) < 5 * BOUND, name
    torch.manual_seed(0)
    model = lively(torchvision.models.resnet18())
    torch.save(model.state_dict(), folder / "w.pth")
    run(graft, "convert", folder / "w.pth", folder / "m.onnx", "--model", "resnet18", "--layer", "avgpool,layer3",
        "--image-size", size, "--quiet")
    onnx.checker.check_model(str(folder / "m.onnx"), full_check=True)
    session = onnxruntime.InferenceSession(str(folder / "m.onnx"))
    nodes = {"avgpool": "avgpool", "layer3": "layer3"}
    extractor = torchvision.models.feature_extraction.create_feature_extractor(model, nodes)
    x = torch.randn(2, 3, size, size)
    with torch.no_grad():
        expected = extractor(x)
    for name, value in zip(["avgpool", "layer3"], session.run(["avgpool", "layer3"], {"input": x.numpy()})):
        found = difference(value, expected[name].numpy())
        assert value.shape == tuple(expected[name].shape) and found < 5 * BOUND, (name, found)
    print("export resnet18 --layer avgpool,layer3: both outputs equal")
    return worst


def pictures(root, size, count):
    """The files in the order of `--list` without one, as Graft reads them: size × size, no resizing needed."""
    files = sorted(root.glob("*/*.png"))[:count]
    tensors = []
    for file in files:
        image = Image.open(file).convert("RGB")
        assert image.size == (size, size), (file, image.size)
        tensors.append((torch.from_numpy(numpy.array(image)).permute(2, 0, 1) / 255 - MEAN) / STD)
    classes = sorted(f.name for f in root.iterdir() if f.is_dir())
    return torch.stack(tensors), torch.tensor([classes.index(f.parent.name) for f in files])


IMPORTS = "resnet18,squeezenet1_1,vgg11_bn,mobilenet_v2,efficientnet_b0,densenet121,convnext_tiny"
# At larger ones batch norms over so few pictures make rounding grow into other losses within five steps.
RATE = 1e-4
KINDS = ["legacy, folded", "legacy, kept", "dynamo"]


def written(model, folder, size, kind):
    """A file by one of both exporters, constants folded or batch norms kept."""
    x = torch.randn(2, 3, size, size)
    path = folder / "written.onnx"
    axes = {"input": {0: "batch"}, "logits": {0: "batch"}}
    legacy = dict(dynamo=False, dynamic_axes=axes, input_names=["input"], output_names=["logits"])
    if kind == "legacy, folded":
        torch.onnx.export(model, (x,), path, **legacy)
    elif kind == "legacy, kept":
        torch.onnx.export(model, (x,), path, do_constant_folding=False,
                          training=torch.onnx.TrainingMode.PRESERVE, **legacy)
    else:
        torch.onnx.export(model, (x,), path, dynamo=True, external_data=False, verbose=False,
                          dynamic_shapes=({0: torch.export.Dim("batch")},))
    return path


def load(graft, folder, names, data, device):
    x, _ = pictures(data / "hymenoptera_val16_224_png", 224, 6)
    for name in names:
        torch.manual_seed(1)
        model = lively(torchvision.models.get_model(name))
        if name == "squeezenet1_1":
            model.load_state_dict(torch.load(data / "squeezenet1_1/squeezenet1_1.pth", weights_only=True))
        with torch.no_grad():
            expected = model(x).numpy()
        for kind in KINDS:
            path = written(model, folder, 224, kind)
            command = ["extract", data / "hymenoptera_val16_224_png", "--weights", path, "--layer", "logits", "--limit",
                       6, "--image-size", 224, "--resize", 224, "--out", folder / "f.npz", "--quiet", "--exact",
                       "--device", device]
            if name.startswith("convnext") and kind == "dynamo":
                refused = subprocess.run([graft, *map(str, command)], capture_output=True, text=True)
                assert refused.returncode == 65 and "Range" in refused.stderr, refused
                print(f"import {name:18} {kind:15} {device}: refused, with its nodes", flush=True)
                continue
            run(graft, *command)
            found = difference(numpy.load(folder / "f.npz")["logits"], expected)
            print(f"import {name:18} {kind:15} {device}: scores differ by {found:.1e}", flush=True)
            assert found < BOUND, (name, kind)


def two_classes(data, folder):
    """The larger pictures, which are of one class, in two folders by turns."""
    root = folder / "two_classes"
    for index, file in enumerate(sorted((data / "hymenoptera_val16_224_png").glob("*/*.png"))):
        (root / "ab"[index % 2]).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, root / "ab"[index % 2])
    return root


def follow(model, state, x, y, batch, layout):
    """PyTorch's losses of five steps."""
    model.load_state_dict(state)
    model = model.to(memory_format=layout).train()
    for module in model.modules():
        if isinstance(module, (torch.nn.Dropout, torchvision.ops.StochasticDepth)):
            module.eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9)
    losses = []
    for step in range(5):
        part = slice(batch * step, batch * step + batch)
        loss = torch.nn.functional.cross_entropy(model(x[part].to(memory_format=layout)), y[part])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def train(graft, folder, names, data, device):
    for name in names:
        images, size, batch = two_classes(data, folder), 224, 3
        x, y = pictures(images, size, 5 * batch)
        torch.manual_seed(2)
        model = lively(torchvision.models.get_model(name, num_classes=2))
        state = collections.OrderedDict((k, v.clone()) for k, v in model.state_dict().items())
        path = written(model, folder, size, "legacy, kept")
        expected = follow(model, state, x, y, batch, torch.contiguous_format)
        other = follow(model, state, x, y, batch, torch.channels_last)
        run(graft, "train", images, "--weights", path, "--out", folder / "run", "--steps", 5, "--batch-size", batch,
            "--learning-rate", RATE, "--no-shuffle", "--unfreeze", "all", "--dropout", "off", "--image-size", size,
            "--resize", size, "--device", device, "--quiet", "--limit", 5 * batch)
        with open(folder / "run/steps.csv") as file:
            found = [float(row["loss"]) for row in csv.DictReader(file)]
        apart = [abs(a - b) / abs(b) for a, b in zip(found, expected, strict=True)]
        own = [abs(a - b) / abs(b) for a, b in zip(other, expected)]
        print(f"train  {name:18} {device}: 5 losses {', '.join(f'{v:.5f}' for v in found)}; PyTorch's differ by "
              f"{', '.join(f'{v:.0e}' for v in apart)}, its own by {', '.join(f'{v:.0e}' for v in own)}", flush=True)
        for step in range(5):
            assert apart[step] < max(2e-4, 8 * max(own[:step + 1])), (name, step, found, expected)
        # Every parameter and statistic is there under PyTorch's name.
        report = model.load_state_dict(safetensors.torch.load_file(folder / "run/last.safetensors"), strict=False)
        assert not report.unexpected_keys and not report.missing_keys, (name, report)
        run(graft, "summary", path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graft", default=str(ROOT / ".build/debug/graft"))
    parser.add_argument("--shared", default=str(ROOT.parent / "shared"))
    parser.add_argument("--size", type=int, default=96, help="side of the exported networks' images")
    parser.add_argument("--models", help="export these alone, separated by commas")
    parser.add_argument("--imports", default=IMPORTS)
    parser.add_argument("--parts", default="export,import,train")
    parser.add_argument("--devices", default="cpu,opencl")
    options = parser.parse_args()
    data = pathlib.Path(options.shared) / "data"
    listed = [m["name"] for m in json.loads(run(options.graft, "models", "--json"))["models"]]
    known = set(torchvision.models.list_models(module=torchvision.models))
    names = options.models.split(",") if options.models else [n for n in listed if n in known]
    imports = options.imports.split(",")
    print(f"torch {torch.__version__}, onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        if "export" in options.parts:
            worst = export(options.graft, folder, names, options.size)
            print(f"export: {len(names)} architectures, largest relative difference {worst:.1e}")
        for device in options.devices.split(","):
            if "import" in options.parts:
                load(options.graft, folder, imports, data, device)
            if "train" in options.parts:
                train(options.graft, folder, imports, data, device)


if __name__ == "__main__":
    main()
