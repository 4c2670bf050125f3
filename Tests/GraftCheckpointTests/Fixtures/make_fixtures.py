#!/usr/bin/env python3
"""Writes the small files beside this script, as PyTorch, safetensors and numpy write them.

Needs torch, safetensors and numpy; made with torch 2.13, safetensors 0.8 and numpy 2.4.
The values follow formulas that the tests repeat. Run it in this folder; existing files are replaced.
"""
import collections
import hashlib
import io
import os
import pickle
import struct
import tarfile
import zipfile

import numpy
import safetensors.torch
import torch


def types():
    """One tensor of each element type, values (i - 2) / 2 or i - 2 for i in 0..<6, as [2, 3]."""
    floats = (torch.arange(6, dtype=torch.float64) - 2) / 2
    whole = torch.arange(6) - 2
    result = collections.OrderedDict()
    for name in ["float64", "float32", "float16", "bfloat16"]:
        result[name] = floats.to(getattr(torch, name)).reshape(2, 3)
    for name in ["int64", "int32", "int16", "int8"]:
        result[name] = whole.to(getattr(torch, name)).reshape(2, 3)
    result["uint8"] = torch.arange(250, 256, dtype=torch.uint8).reshape(2, 3)
    result["bool"] = (torch.arange(6) % 2 == 1).reshape(2, 3)
    result["scalar"] = torch.tensor(7)
    result["empty"] = torch.zeros(0, 3)
    return result


def saved_types():
    """The same and the types whose tensors have untyped storages: what the writer's pickle is compared with."""
    result = types()
    for name in ["uint16", "uint32", "uint64"]:
        result[name] = torch.arange(6).to(getattr(torch, name)).reshape(2, 3)
    result["deep"] = torch.zeros(1, 2, 1, 300, 2)
    return result


def pickle_of(path):
    with zipfile.ZipFile(path) as archive:
        return archive.read(next(n for n in archive.namelist() if n.endswith("/data.pkl")))


def views():
    """Several views of one storage 0..<24 and one of another type."""
    base = torch.arange(24, dtype=torch.float32)
    other = torch.arange(12, dtype=torch.float64)
    return collections.OrderedDict(
        rows=base[4:10],
        transposed=base.view(4, 6).t(),
        strided=base[1::3],
        block=base.view(2, 3, 4)[:, 1:, ::2],
        expanded=base[2:3].expand(4),
        tied=base,
        again=base,
        double=other.view(3, 4).t()[1:],
    )


class Toy(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(2, 3, 1)
        self.bn = torch.nn.BatchNorm2d(3)
        with torch.no_grad():
            self.conv.weight.copy_(torch.arange(6.0).reshape(3, 2, 1, 1))
            self.conv.bias.copy_(torch.tensor([0.5, -0.5, 0.25]))


def training_checkpoint():
    model = torch.nn.DataParallel(Toy())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [30, 60])
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return {
        "epoch": 7, "arch": "toy", "state_dict": model.state_dict(), "best_prec1": 91.5,
        "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict(),
    }


def edit_zip(source, target, changes):
    """Copies a stored zip with the contents of some entries (by their last path part) changed."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new:
        for info in old.infolist():
            data = old.read(info)
            for ending, change in changes.items():
                if info.filename.endswith(ending):
                    data = change(data)
            new.writestr(zipfile.ZipInfo(info.filename, (1980, 1, 1, 0, 0, 0)), data)


def old_tar(path):
    """The container of PyTorch before 0.1.10, as its loader reads it."""
    class TorchSymbol:
        """Pickles as the global torch.NAME."""
        def __init__(self, name):
            self.name = name

    class Pickler(pickle._Pickler):
        def save(self, obj, save_persistent_id=True):
            if isinstance(obj, TorchSymbol):
                self.write(b"ctorch\n" + obj.name.encode() + b"\n")
                return
            super().save(obj, save_persistent_id)

    class Reference:
        def __init__(self, key):
            self.key = key

    class ObjectPickler(Pickler):
        def persistent_id(self, obj):
            return obj.key if isinstance(obj, Reference) else None

    def dump(obj, out, kind=Pickler):
        kind(out, 2).dump(obj)

    storages = io.BytesIO()
    dump(2, storages)
    dump((1001, "cpu", TorchSymbol("FloatStorage")), storages)
    storages.write(struct.pack("<q", 12) + numpy.arange(12, dtype="<f4").tobytes())
    dump((1002, "cuda:0", TorchSymbol("LongStorage")), storages)
    storages.write(struct.pack("<q", 2) + numpy.array([5, 6], "<i8").tobytes())
    dump([(1003, 1001, 4, 6)], storages)
    tensors = io.BytesIO()
    dump(3, tensors)
    for key, storage, name, shape, stride, offset in [
        (2001, 1001, "FloatTensor", [3, 4], [1, 3], 0),
        (2002, 1003, "FloatTensor", [5], [1], 1),
        (2003, 1002, "LongTensor", [2], [1], 0),
    ]:
        dump((key, storage, TorchSymbol(name)), tensors)
        tensors.write(struct.pack("<ii", len(shape), 0))
        tensors.write(struct.pack(f"<{len(shape)}q", *shape) + struct.pack(f"<{len(stride)}q", *stride))
        tensors.write(struct.pack("<q", offset))
    objects = io.BytesIO()
    state = collections.OrderedDict(weight=Reference(2001), bias=Reference(2002), count=Reference(2003))
    dump({"model": state, "epoch": 3}, objects, ObjectPickler)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in [("storages", storages), ("tensors", tensors), ("pickle", objects)]:
            info = tarfile.TarInfo(name)
            info.size = len(data.getvalue())
            tar.addfile(info, io.BytesIO(data.getvalue()))
    # The same loader that PyTorch still has reads it back.
    loaded = torch.load(path, map_location="cpu", weights_only=False)
    assert torch.equal(loaded["model"]["weight"], torch.arange(12.0).view(4, 3).t()), loaded
    assert loaded["model"]["bias"].tolist() == [5, 6, 7, 8, 9], loaded
    assert loaded["model"]["count"].tolist() == [5, 6], loaded


class Command:
    """Runs a command when a trusting unpickler meets it."""
    def __reduce__(self):
        return os.system, ("echo a pickle ran this > HOSTILE_PICKLE_RAN",)


def main():
    torch.save(types(), "types.pth")
    torch.save(types(), "types_legacy.pth", _use_new_zipfile_serialization=False)
    torch.save(views(), "views.pth")
    torch.save(views(), "views_legacy.pth", _use_new_zipfile_serialization=False)
    torch.save(training_checkpoint(), "training.pth")
    torch.save(training_checkpoint(), "training_legacy.pth", _use_new_zipfile_serialization=False)
    torch.save({"a": torch.nn.Parameter(torch.arange(3.0)), "b": torch.nn.Parameter(torch.ones(2), False)},
               "parameters.pth")
    torch.save({"_orig_mod.module.a": torch.arange(3.0)}, "compiled.pth")
    torch.save({"encoder": {"0": {"w": torch.arange(3.0)}}, "head": {"w": torch.ones(2), "note": "text"},
                "steps": [1, 2]}, "nested.pth")
    torch.save({"unsigned": torch.tensor([1, 65535], dtype=torch.uint16)}, "untyped.pth")
    torch.save({"model": {"state_dict": {"w": torch.arange(3.0)}}, "args": None}, "wrapped_twice.pth")
    torch.save(torch.arange(3.0), "lone_tensor.pth")
    torch.save({"epoch": 3}, "no_tensors.pth")
    torch.save(Toy(), "whole_model.pth")
    torch.save({"a": torch.ones(2), "evil": Command()}, "hostile.pth")
    torch.save({"a": torch.ones(2), "evil": Command()}, "hostile_legacy.pth", _use_new_zipfile_serialization=False)
    cycle = {"a": torch.ones(2)}
    cycle["self"] = cycle
    cycle["list"] = [cycle]
    cycle["list"].append(cycle["list"])
    torch.save(cycle, "cycle.pth")
    torch.serialization.set_crc32_options(False)
    torch.save({"a": torch.arange(3.0)}, "without_crc.pth")
    torch.serialization.set_crc32_options(True)
    torch.save(saved_types(), "saved_types.pth")
    with open("saved_types.pkl", "wb") as file:
        file.write(pickle_of("saved_types.pth"))
    for count in [0, 1, 2, 1000, 1001, 1300]:
        # The digests that WriterTests compares with: numbers above 255 in the memo, batches of 1000 items.
        buffer = io.BytesIO()
        torch.save(collections.OrderedDict((f"t{i}", torch.zeros(i % 3 + 1)) for i in range(count)), buffer)
        print(count, hashlib.sha256(pickle_of(buffer)).hexdigest())
    big = {"f": torch.arange(3.0), "h": torch.arange(4).half(), "l": torch.arange(2)}
    torch.save(big, "big_endian.pth")
    edit_zip("big_endian.pth", "big_endian.tmp", {
        "byteorder": lambda data: b"big",
        "data/0": lambda data: numpy.frombuffer(data, "<f4").astype(">f4").tobytes(),
        "data/1": lambda data: numpy.frombuffer(data, "<f2").astype(">f2").tobytes(),
        "data/2": lambda data: numpy.frombuffer(data, "<i8").astype(">i8").tobytes(),
    })
    os.replace("big_endian.tmp", "big_endian.pth")
    assert all(torch.equal(big[k], v) for k, v in torch.load("big_endian.pth").items())
    old_tar("old.tar")
    safetensors.torch.save_file(dict(types()), "types.safetensors", {"format": "pt", "ümlaut": "\"quoted\"\n"})
    numpy.savez("arrays.npz", floats=numpy.arange(6, dtype="<f4").reshape(2, 3), labels=numpy.arange(4),
                small=numpy.arange(3, dtype="<i4"), bytes=numpy.arange(3, dtype="u1"), flags=numpy.array([True, False]),
                half=numpy.arange(3, dtype="<f2"), double=numpy.arange(3, dtype="<f8"),
                names=numpy.array(["ant", "b\u00fc\u00df", "", "\U0001F41D bee"]), scalar=numpy.float32(2.5),
                empty=numpy.zeros((0, 4), "<f4"), latin=numpy.array([b"ab", b"c"]))
    numpy.savez_compressed("deflated.npz", zeros=numpy.zeros((50, 40), "<f4"), labels=numpy.arange(100))
    with zipfile.ZipFile("zip64.npz", "w") as archive:
        with archive.open("a.npy", "w", force_zip64=True) as out:
            numpy.save(out, numpy.arange(5, dtype="<f4"))
    numpy.save("fortran.npy", numpy.asfortranarray(numpy.arange(12, dtype="<f4").reshape(3, 4)))
    numpy.save("big_endian.npy", numpy.arange(5, dtype=">f8"))
    numpy.save("big_endian_text.npy", numpy.array(["ab", "c"], dtype=">U2"))
    numpy.save("object.npy", numpy.array([{"a": 1}], dtype=object), allow_pickle=True)


main()
