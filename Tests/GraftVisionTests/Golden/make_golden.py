#!/usr/bin/env python3
"""Expectations for the picture tests: what Pillow and torchvision make of small pictures.

    make_golden.py          writes golden.json and files/ next to this script

Requirements (exact versions the committed files were made with, Python 3.11):
    pillow==13.0.0  numpy==2.4.6  torch==2.13.0  torchvision==0.28.0

golden.json:
  resize      [width, height, newWidth, newHeight, interpolation, SHA-256 of the RGB bytes]; the source is `formula`
  geometry    [width, height, resize or 0, imageSize, interpolation, SHA-256]: Resize and CenterCrop of torchvision
  region      [width, height, x, y, regionWidth, regionHeight, imageSize, interpolation, SHA-256]: resized_crop
  normalize   SHA-256 of the float32 values of bytes 0 ... 255 in three channels, little-endian, ImageNet's constants
  files       {name: {size, sha256 of RGB as stored, upright_size and upright_sha256 with EXIF applied}}
"""
import hashlib
import io
import json
import os
import struct
import zlib

import numpy as np
import torch
from PIL import Image, ImageOps

# Only transforms are used, so a torchvision whose compiled operators do not load will do.
_register_fake = torch.library.register_fake
torch.library.register_fake = lambda name, *a, **k: (
    (lambda f: f) if name.startswith("torchvision::") else _register_fake(name, *a, **k))
import torchvision.transforms as t  # noqa: E402
import torchvision.transforms.functional as F  # noqa: E402
torch.library.register_fake = _register_fake

HERE = os.path.dirname(os.path.abspath(__file__))
MODES = {"nearest": t.InterpolationMode.NEAREST, "bilinear": t.InterpolationMode.BILINEAR,
         "bicubic": t.InterpolationMode.BICUBIC}


def formula(width, height):
    """Noise over a slope, from whole numbers only."""
    y, x, c = np.meshgrid(np.arange(height, dtype=np.uint64), np.arange(width, dtype=np.uint64),
                          np.arange(3, dtype=np.uint64), indexing="ij")
    z = x * np.uint64(73856093) + y * np.uint64(19349663) + c * np.uint64(83492791)
    z = z ^ (z >> np.uint64(13))
    z = z * np.uint64(0x9E3779B97F4A7C15)
    z = z >> np.uint64(56)
    slope = (x * np.uint64(5) + y * np.uint64(3) + c * np.uint64(40)) & np.uint64(255)
    edge = np.where(((x >> np.uint64(3)) + (y >> np.uint64(3))) & np.uint64(1), np.uint64(255), np.uint64(0))
    pick = (x + y) % np.uint64(3)
    return np.where(pick == 0, z, np.where(pick == 1, slope, edge)).astype(np.uint8)


def sha(a):
    return hashlib.sha256(np.ascontiguousarray(a).tobytes()).hexdigest()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def raw_png(width, height, depth, color, rows, extra=b""):
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)) + extra
            + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def packed_rows(width, height, bits_per_pixel, salt):
    count = (width * bits_per_pixel + 7) // 8
    values = formula(count, height)[..., salt % 3]
    return b"".join(b"\0" + values[y].tobytes() for y in range(height))


def files():
    made = {}
    picture = Image.fromarray(formula(37, 29)).resize((37, 29))
    smooth = picture.resize((12, 10), Image.BILINEAR).resize((37, 29), Image.BICUBIC)
    tall = smooth.resize((21, 50), Image.BICUBIC)

    def save(name, image, **options):
        b = io.BytesIO()
        image.save(b, **options)
        made[name] = b.getvalue()

    for subsampling, label in ((0, "444"), (1, "422"), (2, "420")):
        save(f"jpeg_{label}.jpg", smooth, format="JPEG", quality=85, subsampling=subsampling)
    save("jpeg_noise_q30.jpg", picture, format="JPEG", quality=30)
    save("jpeg_progressive.jpg", tall, format="JPEG", quality=90, progressive=True)
    save("jpeg_optimized.jpg", tall, format="JPEG", quality=75, optimize=True)
    save("jpeg_restart.jpg", tall, format="JPEG", quality=75, restart_marker_blocks=2)
    save("jpeg_gray.jpg", smooth.convert("L"), format="JPEG", quality=90)
    save("jpeg_cmyk.jpg", smooth.convert("CMYK"), format="JPEG", quality=90)
    ink = Image.merge("CMYK", [Image.fromarray(np.ascontiguousarray(formula(37, 29)[..., i % 3])) for i in range(4)])
    save("jpeg_cmyk_ink.jpg", ink, format="JPEG", quality=95)
    save("jpeg_1x1.jpg", smooth.crop((0, 0, 1, 1)), format="JPEG")
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        save(f"jpeg_orientation_{orientation}.jpg", smooth, format="JPEG", quality=80, exif=exif)
    exif = Image.Exif()
    exif[0x0112] = 6
    save("png_orientation_6.png", smooth, format="PNG", exif=exif)
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="8"/></x:xmpmeta>'
    save("jpeg_orientation_xmp_8.jpg", smooth, format="JPEG", quality=80, xmp=xmp)
    save("png_rgb.png", picture, format="PNG")
    save("png_rgba.png", Image.merge("RGBA", [*picture.split(), picture.split()[0]]), format="PNG")
    save("png_1x1.png", picture.crop((3, 3, 4, 4)), format="PNG")
    for depth in (1, 2, 4, 8, 16):
        made[f"png_gray_{depth}.png"] = raw_png(13, 7, depth, 0, packed_rows(13, 7, depth, depth))
    made["png_gray_8_trns.png"] = raw_png(13, 7, 8, 0, packed_rows(13, 7, 8, 0), chunk(b"tRNS", b"\0\x28"))
    palette = formula(256, 1)[0].tobytes()
    for depth in (1, 2, 4, 8):
        entries = palette[:3 * (1 << depth)]
        made[f"png_palette_{depth}.png"] = raw_png(13, 7, depth, 3, packed_rows(13, 7, depth, depth),
                                                   chunk(b"PLTE", entries))
    made["png_palette_trns.png"] = raw_png(13, 7, 4, 3, packed_rows(13, 7, 4, 1),
                                           chunk(b"PLTE", palette[:48]) + chunk(b"tRNS", bytes(range(0, 160, 10))))
    made["png_palette_short.png"] = raw_png(13, 7, 8, 3, packed_rows(13, 7, 8, 1), chunk(b"PLTE", palette[:30]))
    made["png_rgb_16.png"] = raw_png(13, 7, 16, 2, packed_rows(13, 7, 48, 1))
    made["png_rgba_16.png"] = raw_png(13, 7, 16, 6, packed_rows(13, 7, 64, 2))
    made["png_gray_alpha_8.png"] = raw_png(13, 7, 8, 4, packed_rows(13, 7, 16, 2))
    made["png_gray_alpha_16.png"] = raw_png(13, 7, 16, 4, packed_rows(13, 7, 32, 2))
    made["png_gamma.png"] = raw_png(13, 7, 8, 2, packed_rows(13, 7, 24, 2), chunk(b"gAMA", struct.pack(">I", 100000)))
    return made


def main():
    golden = {"resize": [], "geometry": [], "region": [], "files": {}}
    sizes = [
        (1, 1, 7, 5), (2, 3, 9, 4), (7, 5, 1, 1), (17, 13, 17, 13), (17, 13, 8, 13), (17, 13, 17, 6),
        (17, 13, 34, 13), (17, 13, 17, 40), (31, 33, 13, 17), (64, 48, 63, 47), (64, 48, 65, 49), (100, 75, 33, 25),
        (101, 67, 224, 149), (333, 500, 64, 96), (500, 375, 341, 256), (5, 300, 64, 3), (300, 5, 3, 64), (255, 257, 32, 32),
        (1000, 3, 10, 3), (640, 480, 32, 32), (96, 96, 64, 64), (32, 32, 224, 224), (3000, 2, 1, 2), (1, 5000, 1, 2),
        (47, 61, 61, 47), (40, 200, 20, 100), (60, 70, 55, 59), (60, 70, 55, 60), (33, 400, 50, 20)]
    for width, height, new_width, new_height in sizes:
        image = Image.fromarray(formula(width, height))
        for name, mode in (("nearest", Image.NEAREST), ("bilinear", Image.BILINEAR), ("bicubic", Image.BICUBIC)):
            golden["resize"].append([width, height, new_width, new_height, name,
                                     sha(np.asarray(image.resize((new_width, new_height), mode)))])
    cases = [
        (500, 375, 256, 224), (375, 500, 256, 224), (333, 500, 72, 64), (32, 32, 32, 32), (1, 1, 256, 224), (40, 30, 20, 33),
        (40, 30, 32, 40), (64, 64, 0, 64), (97, 61, 0, 64), (61, 97, 64, 64), (100, 99, 65, 64), (100, 99, 67, 64),
        (300, 200, 50, 61), (200, 10, 16, 32), (10, 200, 16, 33), (5, 5, 5, 9), (768, 512, 232, 224), (12, 1000, 12, 12),
        (100, 333, 72, 64), (61, 180, 0, 64)]
    for width, height, resize, size in cases:
        image = Image.fromarray(formula(width, height))
        for name, mode in MODES.items():
            if resize:
                result = t.Compose([t.Resize(resize, interpolation=mode), t.CenterCrop(size)])(image)
            else:
                result = t.Resize((size, size), interpolation=mode)(image)
            assert result.size == (size, size)
            golden["geometry"].append([width, height, resize, size, name, sha(np.asarray(result))])
    regions = [
        (100, 80, 3, 5, 40, 50, 32), (100, 80, 0, 0, 100, 80, 32), (100, 80, 99, 79, 1, 1, 9),
        (50, 40, 18, 8, 32, 32, 32), (200, 150, 77, 33, 93, 101, 64)]
    for width, height, x, y, w, h, size in regions:
        image = Image.fromarray(formula(width, height))
        for name, mode in MODES.items():
            result = F.resized_crop(image, y, x, h, w, [size, size], interpolation=mode)
            golden["region"].append([width, height, x, y, w, h, size, name, sha(np.asarray(result))])
    bytes_ = torch.arange(256, dtype=torch.uint8)
    ramp = Image.fromarray(np.stack([bytes_.numpy()] * 3, axis=-1).reshape(1, 256, 3))
    normal = F.normalize(F.to_tensor(ramp), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    golden["normalize"] = sha(normal.numpy().astype("<f4"))
    os.makedirs(os.path.join(HERE, "files"), exist_ok=True)
    for name, data in sorted(files().items()):
        with open(os.path.join(HERE, "files", name), "wb") as f:
            f.write(data)
        image = Image.open(io.BytesIO(data))
        image.load()
        entry = {"size": list(image.size), "sha256": sha(np.asarray(image.convert("RGB")))}
        upright = ImageOps.exif_transpose(image)
        entry["upright_size"] = list(upright.size)
        entry["upright_sha256"] = sha(np.asarray(upright.convert("RGB")))
        golden["files"][name] = entry
    with open(os.path.join(HERE, "golden.json"), "w", encoding="utf-8") as f:
        f.write("{\n")
        for key in ("resize", "geometry", "region"):
            f.write(f'"{key}": [\n' + ",\n".join(json.dumps(row) for row in golden[key]) + "\n],\n")
        f.write(f'"normalize": "{golden["normalize"]}",\n"files": {{\n')
        f.write(",\n".join(json.dumps(k) + ": " + json.dumps(v) for k, v in golden["files"].items()) + "\n}\n}\n")
    print({k: len(v) for k, v in golden.items()})


if __name__ == "__main__":
    main()
