#!/usr/bin/env python3
"""Writes architectures.json: how many tensors and elements torchvision's state dictionaries have, and the SHA-256 of
their lines `name shape`. Needs torch and torchvision; the CIFAR networks follow the reference runner's definition."""
import hashlib
import json
import sys

sys.path.insert(0, sys.argv[1])  # the folder of parity.py
import parity
import torch

NAMES = ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d",
         "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2", "vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16",
         "vgg16_bn", "vgg19", "vgg19_bn", "alexnet", "squeezenet1_0", "squeezenet1_1", "resnet8_cifar", "resnet20_cifar",
         "resnet32_cifar", "resnet44_cifar", "resnet56_cifar", "resnet110_cifar", "mobilenet_v2", "mobilenet_v3_small",
         "mobilenet_v3_large", "densenet121", "efficientnet_b0", "efficientnet_b1", "efficientnet_b2",
         "efficientnet_b3", "regnet_y_400mf"]


def construct(name):
    if name.endswith("_cifar"):
        return parity.construct(name, 10)
    # RegNet's constructor computes its table with tensors, which the meta device cannot.
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        return parity.torchvision.models.get_model(name, weights=None, num_classes=1000)


result = {}
for name in NAMES:
    state = construct(name).state_dict()
    text = "".join(f"{k} {list(v.shape)}\n" for k, v in state.items())
    result[name] = {"tensors": len(state), "elements": sum(v.numel() for v in state.values()),
                    "sha256": hashlib.sha256(text.encode()).hexdigest()}
json.dump(result, open("architectures.json", "w"), indent=1)
