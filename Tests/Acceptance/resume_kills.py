#!/usr/bin/env python3
"""Kills `graft train` at random moments, resumes it each time, and compares the bytes with a run left alone.

    swift build -c release --product graft
    python3 Tests/Acceptance/resume_kills.py [--graft PATH] [--device cpu --device opencl] [--kills 20] [--seed 1]

Python 3.9 or later, nothing besides. Pictures are drawn here. On each device one run is left alone and one is sent a
signal at random moments of its life, its start and its end included, until it has been ended the given number of times;
SIGKILL, SIGTERM and SIGINT take turns at random. The process that goes on is told the folder alone, and another number
of threads each time. Then `last.safetensors` and `best.safetensors` must be equal byte for byte, and the tables but for
their columns of times. Exit code 0 when they are on every device, else 1.
"""
import argparse
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zlib


def png(path, pixels, side):
    """Writes side x side RGB pixels."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = b"".join(b"\0" + bytes(pixels[y * side * 3 : (y + 1) * side * 3]) for y in range(side))
    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)))
        file.write(chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def draw(folder, per_class, generator):
    """Three classes of noisy pictures: stripes across, stripes down, a disk."""
    side = 32
    for label, name in enumerate(["across", "down", "disk"]):
        os.makedirs(os.path.join(folder, name))
        for index in range(per_class):
            shift, pixels = generator.randrange(8), []
            for y in range(side):
                for x in range(side):
                    inside = [(y + shift) // 4 % 2, (x + shift) // 4 % 2, (x - 16) ** 2 + (y - 16) ** 2 < 80][label]
                    pixels += [(160 if inside else 60) + generator.randrange(40) for _ in range(3)]
            png(os.path.join(folder, name, f"{index}.png"), pixels, side)


def table(path):
    """A table without its last column, which is a time."""
    with open(path) as file:
        return [line.rsplit(",", 1)[0] for line in file]


def read(path):
    with open(path, "rb") as file:
        return file.read()


def check(device, arguments, data, root, generator):
    """Returns what differs, in words."""
    base = [
        arguments.graft, "train", data, "--model", "resnet20_cifar", "--freeze", "backbone", "--unfreeze-at", "2:layer3",
        "--unfreeze-at-step", "31:layer2", "--optimizer", "adam", "--augment", "flip", "--cached-views", "2", "--val-split",
        "0.2", "--batch-size", "8", "--epochs", str(arguments.epochs), "--save-every", str(arguments.save_every), "--device",
        device,
    ]
    whole, parts = os.path.join(root, device + "-whole"), os.path.join(root, device + "-parts")
    started = time.monotonic()
    subprocess.run(base + ["--out", whole, "--quiet"], check=True, stdout=subprocess.DEVNULL)
    duration = time.monotonic() - started
    print(f"{device}: a run left alone takes {duration:.1f} s", flush=True)

    command = base + ["--out", parts, "--resume"]
    ended = {"SIGKILL": 0, "SIGTERM": 0, "SIGINT": 0}
    finished_early = 0
    while sum(ended.values()) < arguments.kills:
        threads = generator.choice([1, 2, 3])
        log = open(os.path.join(root, "log"), "w+")
        process = subprocess.Popen(
            command + ["--threads", str(threads)], stdout=subprocess.DEVNULL, stderr=log)
        name = generator.choice(sorted(ended))
        try:
            # Mostly early, so that many kills fit into one run; sometimes anywhere in what a whole run takes.
            process.wait(timeout=generator.uniform(0.05, duration * generator.choice([0.2, 0.2, 1.0])))
        except subprocess.TimeoutExpired:
            process.send_signal(getattr(signal, name))
        status = process.wait()
        log.seek(0)
        errors = log.read()
        log.close()
        if status == 0:
            # Through: it begins again, so that the kills are all there.
            finished_early += 1
            problem = compare(whole, parts)
            if problem:
                return problem
            shutil.rmtree(parts)
            command = base + ["--out", parts, "--resume"]
            continue
        if status not in (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, 130):
            return f"exit code {status}: {errors}"
        ended[name] += 1
        # From now on nothing but the folder is named, unless there is nothing to go on from yet.
        if os.path.exists(os.path.join(parts, "state.safetensors")):
            command = [arguments.graft, "train", "--resume", "--out", parts]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if result.returncode != 0:
        return f"the last process ended with {result.returncode}: {result.stderr}"
    print(
        f"{device}: {sum(ended.values())} ends ({', '.join(f'{count} {name}' for name, count in ended.items())}), "
        f"{finished_early + 1} runs brought to their end", flush=True)
    return compare(whole, parts)


def compare(whole, parts):
    for name in ["last.safetensors", "best.safetensors"]:
        if read(os.path.join(whole, name)) != read(os.path.join(parts, name)):
            return f"{name} differs"
    for name in ["steps.csv", "epochs.csv"]:
        if table(os.path.join(whole, name)) != table(os.path.join(parts, name)):
            return f"{name} differs"
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graft", default=".build/release/graft")
    parser.add_argument("--device", action="append")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--per-class", type=int, default=40)
    parser.add_argument("--save-every", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    generator = random.Random(arguments.seed)
    failed = False
    with tempfile.TemporaryDirectory() as root:
        data = os.path.join(root, "data")
        draw(data, arguments.per_class, generator)
        for device in arguments.device or ["cpu", "opencl"]:
            problem = check(device, arguments, data, root, generator)
            print(f"{device}: {problem or 'the same bytes'}", flush=True)
            failed = failed or problem is not None
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
