#!/bin/sh
# Reproduces the embedded demo network: draws the pictures, trains from scratch, copies the weights into place.
# Run it in the root of the repository. The same device gives the same bytes.
set -e
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
graft="swift run -c release graft"
$graft demo --write-pictures "$folder/pictures" --pictures-per-class 600
$graft train "$folder/pictures" --model resnet8_cifar --image-size 32 --resize 32 --device "${DEVICE:-cpu}" \
    --epochs 24 --batch-size 64 --learning-rate 0.1 --schedule cosine --weight-decay 0.0005 --augment flip \
    --seed 1 --out "$folder/run"
cp "$folder/run/last.safetensors" Sources/CDemoWeights/resnet8_cifar.safetensors
