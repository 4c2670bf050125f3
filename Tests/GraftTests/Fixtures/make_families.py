#!/usr/bin/env python3
"""Writes families.json: PyTorch's logits, losses and gradients for torchvision families on formula weights and pixels.

    make_families.py FOLDER [MODEL...]      FOLDER holds the reference runner, parity.py; needs torch and torchvision

Weights and pixels come from parity.py's formula (FormulaWeights.swift), so that nothing but numbers has to be stored;
PyTorch computes in float64. Dropout and stochastic depth are off."""
import json
import sys

import numpy as np
import torch
import torchvision

sys.path.insert(0, sys.argv[1])
import parity

torch.set_num_threads(1)
CLASSES, IMAGES, SIDE, STEPS, RATE, MOMENTUM = 5, 4, 64, 10, 1e-3, 0.9
# Head, and what is trained beside it where a part is unfrozen.
FAMILIES = {
    "mobilenet_v2": ("classifier.1", "features.14"),
    "mobilenet_v3_small": ("classifier.3", "features.8"),
    "densenet121": ("classifier", "features.transition3"),
    "efficientnet_b0": ("classifier.1", "features.5"),
    "regnet_y_400mf": ("fc", "trunk_output.block3"),
}


def tensor(name, shape, names, head):
    prefix, _, kind = name.rpartition(".")
    if kind == "layer_scale":
        return (0.3 + 0.4 * parity.uniform(name, 1, int(np.prod(shape)))).astype(np.float32).reshape(shape)
    if kind == "weight" and len(shape) == 1 and prefix + ".running_mean" not in names:
        return (0.75 + 0.5 * parity.uniform(name, 1, shape[0])).astype(np.float32)
    return parity.formula_tensor(name, shape, names, head, 1)


def build(name, head):
    model = torchvision.models.get_model(name, weights=None, num_classes=CLASSES)
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    shapes = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    model.load_state_dict({k: torch.from_numpy(np.ascontiguousarray(tensor(k, s, shapes, head)))
                           for k, s in shapes.items()})
    return model.double()


def set_modes(model, statistics):
    model.train()
    for module in model.modules():
        if isinstance(module, (torch.nn.Dropout, torchvision.ops.StochasticDepth)):
            module.eval()
        if statistics == "keep" and isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            if not any(p.requires_grad for p in module.parameters(recurse=False)):
                module.eval()


def short(value):
    return float(format(float(value), ".7g"))


def run(name, head, trainable, statistics, x, y):
    model = build(name, head)
    for key, parameter in model.named_parameters():
        parameter.requires_grad_(any(p == "all" or key.startswith(p + ".") for p in trainable))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=RATE, momentum=MOMENTUM)
    result = {"trainable": ",".join(trainable), "statistics": statistics, "losses": [], "gradients": {}}
    for step in range(STEPS):
        set_modes(model, statistics)
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        if step == 0:
            result["gradients"] = {k: short(p.grad.norm()) for k, p in model.named_parameters() if p.requires_grad}
        optimizer.step()
        result["losses"].append(short(loss))
    model.eval()
    with torch.inference_mode():
        result["logits"] = [short(v) for v in model(x).flatten()]
    return result


pixels = np.floor(256 * parity.uniform("pixels", 1, IMAGES * SIDE * SIDE * 3)).astype(np.float32)
pixels = torch.from_numpy(pixels).reshape(IMAGES, SIDE, SIDE, 3).permute(0, 3, 1, 2) / 255
mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
x = ((pixels - mean[:, None, None]) / std[:, None, None]).double()
y = torch.arange(IMAGES) % CLASSES
path = "families.json"
try:
    result = json.load(open(path))
except FileNotFoundError:
    result = {}
for name in sys.argv[2:] or FAMILIES:
    head, part = FAMILIES[name]
    model = build(name, head).eval()
    with torch.inference_mode():
        logits = [short(v) for v in model(x).flatten()]
    runs = [run(name, head, trainable, statistics, x, y) for trainable, statistics in
            [([head], "keep"), ([head, part], "keep"), ([head, part], "track"), (["all"], "keep")]]
    result[name] = {"logits": logits, "runs": runs}
    print(name, logits[:5], [r["losses"][::3] for r in runs])
json.dump(result, open(path, "w"), indent=None, separators=(",", ":"))
