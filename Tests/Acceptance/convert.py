#!/usr/bin/env python3
"""`graft convert` held against PyTorch, numpy, safetensors and timm, on real weights.

Every weights file is converted to every format, and from each of these to every format again; each result is read by
the format's own library and compared bit for bit: names, order, types, shapes, elements. PyTorch's files are read with
torch.load(weights_only=True). timm's names are taken from timm itself.

Needs torch, torchvision, timm, numpy and safetensors, and a built `graft`. Exit code 0 when all is equal.
"""
import argparse
import collections
import json
import pathlib
import subprocess
import tempfile
import zipfile

import numpy
import safetensors
import safetensors.torch
import timm
import torch
import torchvision

ROOT = pathlib.Path(__file__).resolve().parents[2]


def run(graft, *arguments):
    result = subprocess.run([graft, *map(str, arguments)], capture_output=True, text=True)
    if result.returncode != 0:
        raise SystemExit(f"graft {' '.join(map(str, arguments))}: {result.stderr}")
    return result.stdout


def read(path):
    """The tensors of a converted file as its own library reads them, and its metadata."""
    if path.suffix == ".pth":
        state = torch.load(path, weights_only=True)
        assert type(state) is collections.OrderedDict, type(state)
        mapped = torch.load(path, weights_only=True, mmap=True)
        assert all(torch.equal(mapped[k], v) for k, v in state.items())
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
            name = "archive/extra/graft_metadata.json"
            metadata = json.loads(archive.read(name)) if name in archive.namelist() else {}
            # Storages begin at multiples of 64.
            for entry in archive.infolist():
                with open(path, "rb") as file:
                    file.seek(entry.header_offset + 26)
                    lengths = file.read(4)
                start = entry.header_offset + 30 + int.from_bytes(lengths[:2], "little") + int.from_bytes(
                    lengths[2:], "little")
                assert start % 64 == 0, (entry.filename, start)
        return state, metadata
    if path.suffix == ".safetensors":
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        return safetensors.torch.load_file(path), metadata
    with numpy.load(path) as archive:
        metadata = json.loads(str(archive["__metadata__"])) if "__metadata__" in archive else {}
        return {k: torch.from_numpy(archive[k]) for k in archive.files if k != "__metadata__"}, metadata


def same(found, expected, context, ordered=True):
    if ordered:
        assert list(found) == list(expected), f"{context}: names differ"
    else:
        assert set(found) == set(expected), f"{context}: names differ"
    for name, tensor in expected.items():
        other = found[name]
        assert other.dtype == tensor.dtype, f"{context}: {name} is {other.dtype}, not {tensor.dtype}"
        assert other.shape == tensor.shape, f"{context}: {name} is {other.shape}, not {tensor.shape}"
        a, b = other.contiguous().reshape(-1).view(torch.uint8), tensor.contiguous().reshape(-1).view(torch.uint8)
        assert torch.equal(a, b), f"{context}: {name} differs"


def bare(state):
    """A checkpoint's state dictionary without the wrapper and prefix that Graft takes off."""
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    return collections.OrderedDict(
        (name.removeprefix("module."), tensor.detach().contiguous()) for name, tensor in state.items())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graft", default=str(ROOT / ".build/debug/graft"))
    parser.add_argument("--shared", default=str(ROOT.parent / "shared"))
    parser.add_argument("--vgg", action="store_true", help="timm's VGG-11 too: 0.5 GB a file")
    options = parser.parse_args()
    data = pathlib.Path(options.shared) / "data"
    graft = options.graft
    compared = 0
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        sources = [
            data / "squeezenet1_1/squeezenet1_1.pth", data / "squeezenet1_1/squeezenet1_1-legacy.pth",
            data / "squeezenet1_1/squeezenet1_1.safetensors", data / "cifar_resnet/resnet20-12fca82f.th",
            data / "cifar_resnet/resnet32-d509ac18.th",
        ]
        # num_batches_tracked, and types other than float32.
        torch.manual_seed(0)
        resnet = folder / "resnet18.pth"
        torch.save(torchvision.models.resnet18().state_dict(), resnet)
        mixed = folder / "mixed.pth"
        torch.save(collections.OrderedDict(
            half=torch.randn(5, 3).half(), double=torch.randn(4, dtype=torch.float64), view=torch.randn(4, 6).t(),
            flag=torch.tensor([True, False]), small=torch.arange(-3, 4, dtype=torch.int8),
            short=torch.arange(5, dtype=torch.int16), unsigned=torch.arange(6).to(torch.uint32),
            scalar=torch.tensor(3.5), empty=torch.zeros(0, 4)), mixed)
        sources += [resnet, mixed]
        for source in sources:
            if source.suffix == ".safetensors":
                expected = safetensors.torch.load_file(source)
            else:
                expected = bare(torch.load(source, map_location="cpu", weights_only=True))
            for first in ["pth", "safetensors", "npz"]:
                middle = folder / f"a.{first}"
                run(graft, "convert", source, middle, "--quiet")
                # safetensors' own reader sorts by place in the file.
                same(read(middle)[0], expected, f"{source.name} to {first}", ordered=first != "safetensors")
                for second in ["pth", "safetensors", "npz"]:
                    last = folder / f"b.{second}"
                    run(graft, "convert", middle, last, "--quiet")
                    same(read(last)[0], expected, f"{source.name} to {first} to {second}",
                         ordered=second != "safetensors")
                    compared += 1
            print(f"{source.name}: {len(expected)} tensors equal in 3 formats and 9 chains")
        # Metadata.
        target = folder / "named.pth"
        run(graft, "convert", resnet, target, "--model", "resnet18", "--quiet")
        for suffix in ["npz", "safetensors", "pth"]:
            other = folder / f"named_again.{suffix}"
            run(graft, "convert", target, other, "--quiet")
            state, metadata = read(other)
            assert metadata["architecture"] == "resnet18", metadata
            torchvision.models.resnet18().load_state_dict({k: torch.as_tensor(v) for k, v in state.items()}, strict=True)
            target = other
        print("metadata: kept through .pth, .npz, .safetensors, .pth; load_state_dict(strict=True) takes each")
        if options.vgg:
            theirs = timm.create_model("vgg11", pretrained=False).eval()
            source = folder / "timm.safetensors"
            safetensors.torch.save_file(theirs.state_dict(), source)
            own = folder / "own.pth"
            run(graft, "convert", source, own, "--names", "torchvision", "--quiet")
            ours = torchvision.models.vgg11()
            ours.load_state_dict(torch.load(own, weights_only=True), strict=True)
            picture = torch.randn(1, 3, 224, 224)
            with torch.no_grad():
                difference = (ours.eval()(picture) - theirs(picture)).abs().max().item()
            assert difference < 1e-5, difference
            back = folder / "back.pth"
            run(graft, "convert", own, back, "--names", "timm", "--model", "vgg11", "--quiet")
            same(torch.load(back, weights_only=True), theirs.state_dict(), "timm's VGG-11 and back")
            out = run(graft, "summary", "vgg11", "--weights", source)
            assert "128" in out
            print(f"timm's VGG-11: names map both ways, logits differ by {difference:.1e}, loading needs no option")
            compared += 1
    print(f"{compared} comparisons, all equal (torch {torch.__version__}, numpy {numpy.__version__}, "
          f"safetensors {safetensors.__version__}, timm {timm.__version__})")


if __name__ == "__main__":
    main()
