#!/usr/bin/env python3
"""Writes architectures.json: how many tensors and elements torchvision's state dictionaries have, and the SHA-256 of
their lines `name shape`. Needs torch and torchvision; the CIFAR networks follow the reference runner's definition."""
import hashlib
import json
import sys

sys.path.insert(0, sys.argv[1])  # the folder of parity.py
import parity

NAMES = ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d",
         "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2", "vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16",
         "vgg16_bn", "vgg19", "vgg19_bn", "alexnet", "squeezenet1_0", "squeezenet1_1", "resnet8_cifar", "resnet20_cifar",
         "resnet32_cifar", "resnet44_cifar", "resnet56_cifar", "resnet110_cifar"]
result = {}
for name in NAMES:
    classes = 10 if name.endswith("_cifar") else 1000
    state = parity.construct(name, classes).state_dict()
    text = "".join(f"{k} {list(v.shape)}\n" for k, v in state.items())
    result[name] = {"tensors": len(state), "elements": sum(v.numel() for v in state.values()),
                    "sha256": hashlib.sha256(text.encode()).hexdigest()}
json.dump(result, open("architectures.json", "w"), indent=1)
