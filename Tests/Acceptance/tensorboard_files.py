#!/usr/bin/env python3
"""TensorBoard opens what graft writes: the event file of a run, and the embedding projector's files of `extract`.

    python Tests/Acceptance/tensorboard_files.py [--graft .build/debug/graft] [--device cpu] [--keep FOLDER]

Needs the packages tensorboard, numpy and pillow. Draws a small data set, trains and extracts, reads the event file with
tensorboard's EventAccumulator, starts the server twice and compares what it answers over HTTP with the run's tables and
with the features. Exit code 0 when all agrees.
"""
import argparse, csv, io, json, pathlib, re, subprocess, sys, tempfile, threading, time, urllib.parse, urllib.request

import numpy
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def pictures(folder):
    generator = numpy.random.default_rng(1)
    for label, name in enumerate(["dark", "lïght & <b>"]):
        (folder / name).mkdir(parents=True)
        for index in range(9):
            pixels = generator.integers(30 + 120 * label, 90 + 120 * label, (40, 48, 3), dtype=numpy.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index}.png")


def run(graft, *words):
    done = subprocess.run([graft, *map(str, words)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"graft {' '.join(map(str, words))}: exit {done.returncode}\n{done.stderr}")
    return done.stdout


class Server:
    """tensorboard on a free port."""

    def __init__(self, folder):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--port", "0", "--host", "127.0.0.1"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.base, self.log, found = None, [], threading.Event()

        def read():
            for line in self.process.stdout:
                self.log.append(line)
                match = re.search(r"http://127\.0\.0\.1:\d+/", line)
                if match:
                    self.base = match.group(0)
                    found.set()

        threading.Thread(target=read, daemon=True).start()
        if not found.wait(120):
            self.process.kill()
            sys.exit("tensorboard did not start:\n" + "".join(self.log))

    def get(self, path, patience=60, until=lambda body: True, **query):
        address = self.base + path + ("?" + urllib.parse.urlencode(query) if query else "")
        end = time.monotonic() + patience
        while True:
            try:
                with urllib.request.urlopen(address, timeout=30) as answer:
                    body = answer.read()
                if until(body):
                    return body
                problem = body[:200]
            except urllib.error.HTTPError as error:
                problem = f"{error.code} {error.read()[:200]}"
            if time.monotonic() > end:
                sys.exit(f"{address}: {problem}")
            time.sleep(1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(30)


def close(name, found, expected, tolerance=1e-6):
    found, expected = numpy.asarray(found, float), numpy.asarray(expected, float)
    if found.shape != expected.shape or not numpy.allclose(found, expected, rtol=tolerance, atol=1e-12):
        sys.exit(f"{name}: found {found}, expected {expected}")
    print(f"ok  {name}: {found.size} values")


def check_events(folder, expected):
    events = EventAccumulator(str(folder))
    events.Reload()
    tags = events.Tags()["scalars"]
    if sorted(tags) != sorted(expected):
        sys.exit(f"tags {sorted(tags)}, expected {sorted(expected)}")
    for tag, (steps, values) in expected.items():
        scalars = events.Scalars(tag)
        close(f"EventAccumulator {tag}, steps", [s.step for s in scalars], steps)
        close(f"EventAccumulator {tag}", [s.value for s in scalars], values)


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--graft", default=".build/debug/graft")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--keep", help="work in this folder and leave it")
    options = parser.parse_args()
    holder = None if options.keep else tempfile.TemporaryDirectory()
    work = pathlib.Path(options.keep or holder.name)
    data = work / "data"
    if not data.exists():
        pictures(data)
    common = ["--device", options.device, "--image-size", 32, "--resize", 32, "--quiet"]
    run(options.graft, "train", data, "--model", "resnet20_cifar", "--out", work / "run", "--epochs", 3,
        "--batch-size", 4, "--val-split", 0.34, "--unfreeze-at", "1:layer3", "--freeze", "all", "--unfreeze", "linear",
        "--schedule", "cosine", *common)
    steps, epochs = table(work / "run/steps.csv"), table(work / "run/epochs.csv")
    last = {}
    for row in steps:
        last[row["epoch"]] = int(row["step"])
    at = [int(row["step"]) for row in steps]
    ends = [last[row["epoch"]] for row in epochs]
    expected = {
        "loss/train": (at, [float(row["loss"]) for row in steps]),
        "accuracy/train": (at, [float(row["accuracy"]) for row in steps]),
        "learning_rate": (at, [float(row["learning_rate"]) for row in steps]),
        "loss/train_epoch": (ends, [float(row["train_loss"]) for row in epochs]),
        "accuracy/train_epoch": (ends, [float(row["train_accuracy"]) for row in epochs]),
        "loss/validation": (ends, [float(row["val_loss"]) for row in epochs]),
        "accuracy/validation": (ends, [float(row["val_accuracy"]) for row in epochs]),
    }
    # The table has three decimals of the speed, the file all.
    everything = dict(expected)
    accumulator = EventAccumulator(str(work / "run"))
    accumulator.Reload()
    speeds = [s.value for s in accumulator.Scalars("images_per_second")]
    close("images_per_second, to three decimals", numpy.round(speeds, 2),
          numpy.round([float(row["images_per_second"]) for row in steps], 2), 1e-2)
    everything["images_per_second"] = (at, speeds)
    check_events(work / "run", everything)

    with Server(work / "run") as server:
        tags = json.loads(server.get("data/plugin/scalars/tags", until=lambda body: b"loss/train" in body))
        name = next(iter(tags))
        for tag, (places, values) in expected.items():
            points = json.loads(server.get("data/plugin/scalars/scalars", run=name, tag=tag, format="json"))
            close(f"server, {tag}, steps", [p[1] for p in points], places)
            close(f"server, {tag}", [p[2] for p in points], values)

    projector = work / "projector"
    run(options.graft, "extract", data, "--weights", work / "run/last.safetensors", "--layer", "avgpool,layer3",
        "--out", work / "features.npz", "--projector", projector, "--batch-size", 5, *common)
    features = numpy.load(work / "features.npz")
    with Server(projector) as server:
        runs = json.loads(server.get("data/plugin/projector/runs", until=lambda body: len(json.loads(body)) > 0))
        information = json.loads(server.get("data/plugin/projector/info", run=runs[0]))
        shapes = {e["tensorName"]: e["tensorShape"] for e in information["embeddings"]}
        for layer in ["avgpool", "layer3"]:
            rows = features[layer].reshape(len(features[layer]), -1)
            if shapes.get(layer) != list(rows.shape):
                sys.exit(f"projector: {layer} has shape {shapes.get(layer)}, expected {rows.shape}")
            tensor = server.get("data/plugin/projector/tensor", run=runs[0], name=layer)
            close(f"projector, {layer}", numpy.frombuffer(tensor, "<f4").reshape(rows.shape), rows)
        metadata = server.get("data/plugin/projector/metadata", run=runs[0], name="avgpool").decode().splitlines()
        names = [str(features["classes"][label]) for label in features["labels"]]
        if metadata[0] != "class\tpath" or [line.split("\t")[0] for line in metadata[1:]] != names:
            sys.exit(f"projector, metadata: {metadata}")
        print(f"ok  projector, metadata: {len(metadata) - 1} rows")
        sprite = Image.open(io.BytesIO(server.get("data/plugin/projector/sprite_image", run=runs[0], name="avgpool")))
        side = information["embeddings"][0]["sprite"]["singleImageDim"][0]
        columns = sprite.width // side
        if columns * (sprite.height // side) < len(names):
            sys.exit(f"projector, sprite of {sprite.size} with {side} pixels an image holds fewer than {len(names)}")
        means = [numpy.asarray(sprite.crop((i % columns * side, i // columns * side, (i % columns + 1) * side,
                                            (i // columns + 1) * side))).mean() for i in range(len(names))]
        if not all((mean > 120) == (label == 1) for mean, label in zip(means, features["labels"])):
            sys.exit(f"projector, sprite: the images' mean values {means} do not follow their labels")
        print(f"ok  projector, sprite: {sprite.size}, {side} pixels an image")
    print("all agrees")


if __name__ == "__main__":
    main()
