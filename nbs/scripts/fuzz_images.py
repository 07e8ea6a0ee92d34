"""Mutate images of eight formats by their structure, open each in a process that is watched, and list whatever is not refused as it should be.

    python nbs/scripts/fuzz_images.py                            10,000 images, written to results/fuzz_images.json
    python nbs/scripts/fuzz_images.py --count 300 --no-results   a short run: what the continuous integration does

An image must either open, or be refused with `ImageError` in at most 600 characters that all print, within 2 seconds of processor
time and 1 GB of memory; nothing may be written to the terminal, and no program started (a fake Ghostscript on the path tells).
Anything else is a finding: another exception, a crash, a hang. Lengths and checksums are made to fit again, as one who means harm
would do. The mutations of image N depend on (seed, N) alone, so a finding is a recipe: --only N makes and tries it again.
"""
import argparse
import io
import json
import os
import random
import struct
import sys
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image, ImageCms, features

from fuzz_workers import peak, reset_peak, run
from petbook.core import ImageError
from petbook.images.opening import open_image
from petbook.images.values import rgb_tensor

SECONDS, MEGABYTES, LETTERS = 2, 1000, 600  # what an image may cost, and its refusal say
HANG, RUNAWAY = 60, 3000  # seconds and megabytes after which the watchdog ends a worker
NUMBERS = [0, 1, 2, 3, 7, 8, 15, 16, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 10**5, 2**24, 2**31 - 1, 2**31, 2**32 - 1]


def saved(image, kind, **options):
    "An image as the bytes of a file."
    packed = io.BytesIO()
    if "append_images" in options: options["append_images"] = [frame.copy() for frame in options["append_images"]]
    image.copy().save(packed, kind, **options)
    return packed.getvalue()


def base_images():
    "Sound images to mutate: format -> variants."
    rows, columns = np.mgrid[:90, :120]
    pixels = np.stack([2 * columns, 2 * rows, 128 + 60 * np.sin(rows / 7)], axis=-1).astype(np.uint8)
    image = Image.fromarray(pixels)
    clear = image.convert("RGBA")
    clear.putalpha(Image.fromarray((columns * 2).astype(np.uint8)))
    frames = {"save_all": True, "append_images": [image.rotate(90), image.rotate(180)]}
    note = Image.Exif()
    note[0x0112], note[0x010E], note[0x0110] = 6, "a description", "a camera"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    told = {"exif": note, "icc_profile": profile}
    deep = Image.fromarray((columns * 500).astype(np.uint16))
    real = Image.fromarray((columns / 130).astype(np.float32))
    found = {
        "JPEG": [saved(image, "JPEG", **told), saved(image, "JPEG", progressive=True), saved(image.convert("CMYK"), "JPEG"),
                 saved(image.convert("L"), "JPEG", restart_marker_blocks=2), saved(image, "MPO", **frames)],
        "PNG": [saved(image, "PNG", **told), saved(clear, "PNG"), saved(image.convert("P"), "PNG", transparency=3), saved(deep, "PNG"),
                saved(image, "PNG", **frames), saved(image.convert("1"), "PNG")],
        "GIF": [saved(image, "GIF"), saved(image, "GIF", **frames), saved(image.convert("P"), "GIF", transparency=3)],
        "BMP": [saved(image, "BMP"), saved(image.convert("P"), "BMP"), saved(clear, "BMP"), saved(image.convert("1"), "BMP")],
        "TIFF": [*(saved(image, "TIFF", compression=how) for how in ("raw", "tiff_lzw", "jpeg", "tiff_adobe_deflate", "packbits")),
                 saved(image.convert("1"), "TIFF", compression="group4"), saved(deep, "TIFF"), saved(real, "TIFF"),
                 saved(image, "TIFF", **told), saved(image, "TIFF", **frames), saved(image.convert("P"), "TIFF")],
        "WEBP": [saved(image, "WEBP", **told), saved(clear, "WEBP", lossless=True), saved(image, "WEBP", **frames)],
        "PPM": [saved(image, "PPM"), saved(image.convert("L"), "PPM"), saved(image.convert("1"), "PPM"), saved(deep, "PPM"),
                b"P3 4 2 255\n" + b"1 2 3 " * 8],
        "TGA": [saved(image, "TGA"), saved(image.convert("P"), "TGA", rle=True), saved(clear, "TGA", rle=True)],
        "JPEG2000": [saved(image, "JPEG2000"), saved(clear, "JPEG2000", tile_size=(64, 64)), saved(image, "JPEG2000", no_jp2=True)],
        "AVIF": [saved(image, "AVIF", speed=10)] if features.check("avif") else [],
        "QOI": [b"qoif" + struct.pack(">IIBB", 6, 4, 3, 0) + b"\xfe\1\2\3\xc5" + b"\xc0" * 10 + bytes(7) + b"\1"],
    }
    return {kind: variants for kind, variants in found.items() if variants}


def number_of(rng, most=2**32 - 1):
    "A number that harms some program or other."
    return rng.choice([*NUMBERS, rng.randrange(2**8), rng.randrange(2**16), rng.randrange(2**32)]) & most


def change_bytes(data, rng, start=0, end=None):
    "Overwrite a number of 1, 2 or 4 bytes somewhere, in either order; mostly near the head."
    data, end = bytearray(data), len(data) if end is None else end
    if end <= start: return bytes(data), "nothing"
    reach = rng.choice([end - start, min(end - start, 64), min(end - start, 400)])
    place, size, order = start + rng.randrange(reach), rng.choice([1, 2, 4]), rng.choice(["little", "big"])
    value = number_of(rng, 256**size - 1)
    data[place : place + size] = value.to_bytes(size, order)[: max(len(data) - place, 0)]
    return bytes(data), f"{size} bytes at {place} = {value}"


def rearrange(parts, rng, change):
    "Drop, repeat, move, mutate or fill one of a file's parts."
    parts = list(parts)
    if not parts: return parts, "nothing"
    place = rng.randrange(len(parts))
    what = rng.choice(["drop", "repeat", "many", "move", "change", "change", "change", "change", "fill"])
    if what == "drop": parts.pop(place)
    if what in ("repeat", "many"): parts[place:place] = [parts[place]] * (1 if what == "repeat" else rng.choice([20, 500]))
    if what == "move": parts.insert(rng.randrange(len(parts)), parts.pop(place))
    if what == "change": parts[place], what = change(parts[place])
    if what == "fill": parts[place] = (parts[place][0], rng.choice([b"", bytes(5000), rng.randbytes(300), b"\xff" * 700]))
    return parts, f"part {place} ({str(parts[min(place, len(parts) - 1)][0]) if parts else ''}): {what}"


def mutate_png(data, rng):
    "Chunks, with checksums that fit."
    place, chunks = 8, []
    while place + 8 <= len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + size]))
        place += 12 + size

    def change(chunk):
        name, body = chunk
        if name == b"IDAT" and rng.random() < 0.5:  # other pixels, well packed
            rows = bytearray(zlib.decompress(body)) if rng.random() < 0.5 else bytearray(rng.choice([10, 10**6]))
            rows[rng.randrange(len(rows)):] = rng.randbytes(rng.randrange(50))
            return (name, zlib.compress(bytes(rows))), "other rows"
        body, what = change_bytes(body, rng)
        return (name, body), what

    if rng.random() < 0.2:
        name = rng.choice([b"tRNS", b"iCCP", b"eXIf", b"acTL", b"fcTL", b"fdAT", b"PLTE", b"zTXt", b"iTXt", b"gAMA", b"pHYs"])
        chunks.insert(rng.randrange(1, len(chunks)), (name, rng.randbytes(rng.choice([0, 4, 8, 26, 300]))))
    chunks, what = rearrange(chunks, rng, change)
    return data[:8] + b"".join(len(body).to_bytes(4, "big") + name + body + zlib.crc32(name + body).to_bytes(4, "big")
                               for name, body in chunks), what


def mutate_jpeg(data, rng):
    "Segments, with lengths that fit; compressed data belongs to its scan."
    place, parts = 2, []
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] != 0xD9:
        size, scan = int.from_bytes(data[place + 2 : place + 4], "big"), data[place + 1] == 0xDA
        end = place + 2 + size
        if scan:
            while end + 1 < len(data) and not (data[end] == 0xFF and data[end + 1] not in (0, *range(0xD0, 0xD8))): end += 1
        parts.append((data[place + 1], data[place + 4 : end]))
        place = end

    def change(part):
        body, what = change_bytes(part[1], rng, 0, min(len(part[1]), 12 if part[0] == 0xDA else len(part[1])))
        return (part[0], body), what

    parts, what = rearrange(parts, rng, change)
    packed = b""
    for mark, body in parts:
        size = 2 + (body[0] * 2 + 4 if mark == 0xDA and body else len(body))
        packed += bytes([0xFF, mark]) + min(size, 65535).to_bytes(2, "big") + body[: 65533 if mark != 0xDA else None]
    return data[:2] + packed + b"\xff\xd9", what


def mutate_riff(data, rng):
    "Chunks of a WebP, with sizes that fit."
    place, chunks = 12, []
    while place + 8 <= len(data):
        size = int.from_bytes(data[place + 4 : place + 8], "little")
        chunks.append((data[place : place + 4], data[place + 8 : place + 8 + size]))
        place += 8 + size + size % 2

    def change(chunk):
        body, what = change_bytes(chunk[1], rng)
        return (chunk[0], body), what

    chunks, what = rearrange(chunks, rng, change)
    body = b"".join(name + len(part).to_bytes(4, "little") + part + bytes(len(part) % 2) for name, part in chunks)
    return b"RIFF" + (len(body) + 4).to_bytes(4, "little") + b"WEBP" + body, what


def mutate_tiff(data, rng):
    "One entry of the first directory: tag, type, count or value."
    place = int.from_bytes(data[4:8], "little")
    count = int.from_bytes(data[place : place + 2], "little")
    entry, data = place + 2 + 12 * rng.randrange(max(count, 1)), bytearray(data)
    tag = int.from_bytes(data[entry : entry + 2], "little")
    offset, size = rng.choice([(0, 2), (2, 2), (4, 4), (8, 4), (8, 4), (8, 4)])
    if offset == 0: value = rng.choice([254, 256, 257, 258, 259, 262, 273, 277, 278, 279, 284, 317, 322, 323, 330, 339, 50706, 34675])
    elif offset == 2: value = rng.randrange(20)
    else: value = number_of(rng)
    if tag == 259 and offset == 8: value = rng.choice([1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946, 34925, 50000, 50001, 65535])
    data[entry + offset : entry + offset + size] = value.to_bytes(size, "little")
    return bytes(data), f"tag {tag}, byte {offset} = {value}"


def mutate_boxes(data, rng):
    "A box of an AVIF or JPEG 2000 file, or a number anywhere in its heads."
    return change_bytes(data, rng, 0, min(len(data), 500))


def mutate(bases, seed, number):
    "Image N: its format, its bytes, and what was done to it."
    rng = random.Random(f"{seed}/{number}")
    kind = rng.choice(list(bases))
    data, told = rng.choice(bases[kind]), []
    own = {"PNG": mutate_png, "JPEG": mutate_jpeg, "WEBP": mutate_riff, "TIFF": mutate_tiff, "AVIF": mutate_boxes,
           "JPEG2000": mutate_boxes}.get(kind, change_bytes)
    for _ in range(rng.choice([1, 1, 1, 2, 3, 6])):
        try: data, what = rng.choices([own, change_bytes], [5, 1])[0](data, rng)
        except (IndexError, ValueError, zlib.error): what = "nothing"  # already too damaged for this
        told.append(what)
    rough = rng.random()
    if rough < 0.08:
        data = data[: rng.randrange(len(data) + 1)]
        told.append(f"cut at {len(data)}")
    elif rough < 0.13:
        other = rng.choice(bases[rng.choice(list(bases))])
        place = rng.randrange(len(data) + 1)
        data = data[:place] + other[rng.randrange(len(other)):]
        told.append(f"spliced at {place}")
    elif rough < 0.16:
        data = rng.choice([b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"\0\0\2", b"\xc5\xd0\xd3\xc6"]) + data
        told.append("another head")
    return kind, data, "; ".join(told)


def try_image(data, file):
    "Open an image, from memory or from a file: what came of it, and what it cost."
    if file: file.write_bytes(data)
    spoken, before, start = os.fstat(2).st_size, reset_peak(), time.process_time()
    try:
        opened = rgb_tensor(open_image(file or data, (64, 64) if len(data) % 2 else None))
        outcome, said = "opened", str(tuple(opened.shape))
        if opened.dtype != torch.uint8 or opened.ndim != 3 or opened.shape[0] != 3: outcome = "finding"
    except ImageError as error: outcome, said = "refused", error.reason
    except BaseException as error: outcome, said = "finding", f"{type(error).__name__}: {error}"[:300]
    opened = None
    cost = {"seconds": round(time.process_time() - start, 3), "megabytes": round(peak() - before, 1)}
    if cost["seconds"] > SECONDS or cost["megabytes"] > MEGABYTES: outcome, said = "finding", f"costs too much: {said}"
    if len(said) > LETTERS or not said.isprintable(): outcome, said = "finding", f"words of a stranger: {said[:300]!r}"
    if os.fstat(2).st_size > spoken: outcome, said = "finding", "it wrote to the terminal"
    return {"outcome": outcome, "said": said, **cost}


def work(connection, seed, folder, name):
    "A worker: asked for a number, it makes that image, tries it, and tells."
    torch.set_num_threads(1)
    os.environ["PATH"] = f"{folder}{os.pathsep}{os.environ['PATH']}"  # a fake Ghostscript stands there
    import warnings
    warnings.simplefilter("ignore", UserWarning)  # what petbook says of decoders is tested elsewhere
    bases = base_images()
    for variants in bases.values():
        for data in variants: open_image(data)  # what is loaded at first use is loaded
    os.dup2(os.open(folder / f"{name}.stderr", os.O_WRONLY | os.O_CREAT), 2)
    connection.send("ready")
    while (number := connection.recv()) is not None:
        kind, data, what = mutate(bases, seed, number)
        connection.send("made")
        file = folder / f"{name}.jpg" if number % 3 == 0 else None
        connection.send({"number": number, "kind": kind, "what": what[:300], "bytes": len(data), **try_image(data, file)})


def summary(rows, seconds, args, started):
    "What is told and kept."
    kinds, costs = {}, {}
    for row in rows:
        counts = kinds.setdefault(row["kind"], {"opened": 0, "refused": 0, "finding": 0})
        counts[row["outcome"]] += 1
    for what in ("seconds", "megabytes"):
        values = sorted(row[what] for row in rows)
        costs[what] = {"median": values[len(values) // 2], "largest": values[-1]}
    return {"images": len(rows), "seed": args.seed, "formats": dict(sorted(kinds.items())),
            "findings": [row for row in rows if row["outcome"] == "finding"], "programs_started": started, "costs": costs,
            "minutes": round(seconds / 60, 1), "workers": args.workers, "pillow": PIL.__version__, "torch": torch.__version__}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=min(os.cpu_count(), 4))
    parser.add_argument("--only", type=int, nargs="*", help="numbers of images to try again")
    parser.add_argument("--no-results", action="store_true", help="write no file of results")
    args = parser.parse_args()
    start, rows = time.monotonic(), []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        ghost = folder / "gs"
        ghost.write_text(f"#!/bin/sh\necho started >> '{folder}/marker'\nexit 1\n")
        ghost.chmod(0o755)
        crew = [(args.seed, folder, f"w{place}") for place in range(args.workers)]
        for row in run(args.only or range(args.count), work, crew, (HANG, HANG, RUNAWAY)):
            rows.append(row)
            if row["outcome"] == "finding" or args.only:
                print(f"{row['number']} {row['kind']}: {row['what']}\n    {row['outcome']}: {row['said']}  "
                      f"({row['seconds']:.2f} s, {row['megabytes']:.0f} MB)", flush=True)
        started = (folder / "marker").exists()
        if args.only: sys.stderr.write("".join(path.read_text(errors="replace") for path in folder.glob("*.stderr")))
    found = summary(rows, time.monotonic() - start, args, started)
    print(json.dumps(found | {"findings": len(found["findings"])}, indent=1))
    if not args.no_results and not args.only:
        Path(__file__).with_name("results").joinpath("fuzz_images.json").write_text(json.dumps(found, indent=1) + "\n")
    raise SystemExit(bool(found["findings"] or started))


if __name__ == "__main__": main()
