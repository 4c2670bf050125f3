#!/usr/bin/env python3
"""Writes small networks as torch.onnx.export writes them, beside this script, and what PyTorch computes with them.

Needs torch, onnx, onnxscript and numpy; made with torch 2.15. Run it in this folder; existing files are replaced.
"""
import collections
import warnings

import numpy
import onnx
import torch
from torch import nn

warnings.filterwarnings("ignore")
SIDE = 32


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class TinyResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(Block(8, 8, 1), Block(8, 8, 1))
        self.layer2 = nn.Sequential(Block(8, 16, 2))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(16, 5)

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.avgpool(self.layer2(self.layer1(x)))
        return self.fc(torch.flatten(x, 1))


class Fire(nn.Module):
    def __init__(self, inputs, squeeze, expand):
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeeze, 1)
        self.squeeze_activation = nn.ReLU(inplace=True)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand1x1_activation = nn.ReLU(inplace=True)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)
        self.expand3x3_activation = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.squeeze_activation(self.squeeze(x))
        return torch.cat([self.expand1x1_activation(self.expand1x1(x)), self.expand3x3_activation(self.expand3x3(x))], 1)


class TinySqueezeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, ceil_mode=True), Fire(8, 4, 8),
            nn.MaxPool2d(3, 2, ceil_mode=True), Fire(16, 4, 8))
        self.classifier = nn.Sequential(nn.Dropout(0.5), nn.Conv2d(16, 5, 1), nn.ReLU(inplace=True),
                                        nn.AdaptiveAvgPool2d((1, 1)))

    def forward(self, x):
        return torch.flatten(self.classifier(self.features(x)), 1)


class TinyVGG(nn.Module):
    """Flattens with the batch size it finds; its last product is written out."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(4),
                                      nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=3), nn.ReLU(inplace=True),
                                      nn.AvgPool2d(2, 2))
        self.avgpool = nn.AdaptiveAvgPool2d((4, 4))
        self.classifier = nn.Sequential(nn.Linear(96, 10), nn.ReLU(True), nn.Dropout(0.25))
        self.weight = nn.Parameter(torch.randn(10, 5) / 3)
        self.bias = nn.Parameter(torch.randn(5))

    def forward(self, x):
        x = self.avgpool(self.features(x))
        x = self.classifier(x.view(x.size(0), -1))
        return torch.matmul(x, self.weight) + self.bias


class Excitation(nn.Module):
    """torchvision's SqueezeExcitation."""

    def __init__(self, channels, squeeze, activation, scale_activation):
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeeze, 1)
        self.fc2 = nn.Conv2d(squeeze, channels, 1)
        self.activation = activation()
        self.scale_activation = scale_activation()

    def forward(self, x):
        return self.scale_activation(self.fc2(self.activation(self.fc1(self.avgpool(x))))) * x


class TinyMobileNet(nn.Module):
    """Depthwise convolutions, ReLU6, SiLU, hard-swish, both kinds of squeeze-and-excitation."""

    def __init__(self):
        super().__init__()

        def block(inputs, outputs, activation, groups=1, stride=1):
            return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, groups=groups, bias=False),
                                 nn.BatchNorm2d(outputs), activation())

        self.features = nn.Sequential(
            block(3, 8, nn.ReLU6, stride=2), block(8, 8, nn.ReLU6, groups=8), block(8, 12, nn.SiLU),
            Excitation(12, 3, nn.SiLU, nn.Sigmoid), block(12, 12, nn.Hardswish, groups=12, stride=2),
            Excitation(12, 4, nn.ReLU, nn.Hardsigmoid))
        self.classifier = nn.Sequential(nn.Linear(12, 10), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(10, 5))

    def forward(self, x):
        x = nn.functional.adaptive_avg_pool2d(self.features(x), (1, 1))
        return self.classifier(torch.flatten(x, 1))


class LayerNorm2d(nn.LayerNorm):
    """torchvision's."""

    def forward(self, x):
        x = nn.functional.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class Permute(nn.Module):
    def __init__(self, order):
        super().__init__()
        self.order = order

    def forward(self, x):
        return torch.permute(x, self.order)


class NextBlock(nn.Module):
    """torchvision's CNBlock without stochastic depth."""

    def __init__(self, width):
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(width, width, 7, padding=3, groups=width), Permute([0, 2, 3, 1]), nn.LayerNorm(width, eps=1e-6),
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), Permute([0, 3, 1, 2]))
        self.layer_scale = nn.Parameter(torch.rand(width, 1, 1) + 0.5)

    def forward(self, x):
        return self.layer_scale * self.block(x) + x


class TinyConvNeXt(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Sequential(nn.Conv2d(3, 6, 4, 4), LayerNorm2d(6, eps=1e-6)), nn.Sequential(NextBlock(6), NextBlock(6)),
            nn.Sequential(LayerNorm2d(6, eps=1e-6), nn.Conv2d(6, 10, 2, 2)), nn.Sequential(NextBlock(10)))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(LayerNorm2d(10, eps=1e-6), nn.Flatten(1), nn.Linear(10, 5))

    def forward(self, x):
        return self.classifier(self.avgpool(self.features(x)))


def without_stack_traces(path):
    """The newer exporter writes the paths of the machine's Python files into every node."""
    model = onnx.load(path)
    for nodes in [model.graph.node, *[function.node for function in model.functions]]:
        for node in nodes:
            kept = [entry for entry in node.metadata_props if "stack_trace" not in entry.key]
            del node.metadata_props[:]
            node.metadata_props.extend(kept)
            node.doc_string = ""
    onnx.save(model, path)


def main():
    expected = collections.OrderedDict()
    for network in [TinyResNet, TinySqueezeNet, TinyVGG, TinyMobileNet, TinyConvNeXt]:
        torch.manual_seed(1)
        model = network()
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.3)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.dim() == 1:
                    parameter.add_(torch.randn_like(parameter) * 0.2)
        model.eval()
        x = torch.randn(3, 3, SIDE, SIDE)
        short = network.__name__
        expected[f"{short}.input"] = x.numpy()
        expected[f"{short}.logits"] = model(x).detach().numpy()
        axes = {"input": {0: "batch"}, "logits": {0: "batch"}}
        legacy = dict(dynamo=False, dynamic_axes=axes, input_names=["input"], output_names=["logits"])
        torch.onnx.export(model, (x,), f"{short}-folded.onnx", **legacy)
        torch.onnx.export(model, (x,), f"{short}-kept.onnx", do_constant_folding=False,
                          training=torch.onnx.TrainingMode.PRESERVE, opset_version=13, **legacy)
        if network is TinyConvNeXt:
            continue  # The newer exporter gathers its averages pixel by pixel, which is not read.
        torch.onnx.export(model, (x,), f"{short}-dynamo.onnx", dynamo=True, external_data=False, verbose=False,
                          dynamic_shapes=({0: torch.export.Dim("batch")},))
        without_stack_traces(f"{short}-dynamo.onnx")
    numpy.savez("onnx_expected.npz", **expected)


main()
