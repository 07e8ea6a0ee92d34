"""Mutate model files by their structure, load each in a process that is watched, and list whatever is not refused as it should be.

    python nbs/scripts/fuzz_models.py                            10,000 files, written to results/fuzz_models.json
    python nbs/scripts/fuzz_models.py --count 200 --no-results   a short run: what the continuous integration does

Every file gets the SHA-256 that fits it, as one who means harm would do, unless the damage is to the bytes themselves. A file must
either be refused with `ModelFileError` (within 2 seconds of processor time and 500 MB, in at most 400 characters that all print), or
load and answer for an image. Anything else is a finding: another exception, a crash, a hang, a refusal that costs more, an answer
that is none. The mutations of file N depend on (seed, N) alone, so a finding is a recipe: --only N makes and tries it again.
"""
import argparse
import json
import os
import random
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save

from fuzz_workers import peak, reset_peak, run
from petbook.all import (
    CategoryBlock, DataBlock, ImageBlock, ModelFileError, RandomErasing, RandomSplitter, RatioResize, Resize, aug_transforms,
    draw_pet, export_learner, get_image_files, load_learner, petnet, vision_learner)
from petbook.models.files import model_digest, read_model_file

SECONDS, MEGABYTES, LETTERS = 2, 500, 400  # what a refusal may cost and say
HANG, RUNAWAY = 20, 3000  # seconds of processor time, and megabytes, after which the watchdog ends a worker
MOST_TEXT = 10_000_000  # letters of a list that is repeated: beyond that the file is refused by its header's length alone
ASLEEP = 600  # seconds after which a worker is ended that does not even work


def base_files(folder):
    "Three sound model files to mutate: two heads, different stages, and a stem alone, which is quick to hash."
    for breed in ("beagle", "pug"):
        for number in range(1, 5): draw_pet(breed, number, size=80).save(folder / f"{breed}_{number}.jpg")
    stages = ((Resize(112), aug_transforms(size=96, min_scale=0.75), {}),
              ([RatioResize(120), Resize((64, 80))], [*aug_transforms(flip_vert=True, max_warp=0.1), RandomErasing()],
               {"lin_ftrs": [], "concat_pool": False, "ps": 0.1}),
              (Resize(64, method="pad"), aug_transforms(size=48), {"cut": 1}))
    for number, (items, batches, head) in enumerate(stages):
        block = DataBlock(blocks=(ImageBlock, CategoryBlock), get_items=get_image_files, get_y=breed_of, item_tfms=items,
                          splitter=RandomSplitter(seed=0), batch_tfms=batches)
        dls = block.dataloaders(folder, bs=2, num_workers=0)
        learner = vision_learner(dls, petnet, precision="fp32", pretrained=False, **head)
        yield export_learner(learner, folder / f"base{number}.safetensors")


def breed_of(path): return path.name.split("_")[0]


# Values that have harmed some program or other.
VALUES = [None, True, False, 0, 1, -1, 2, 0.5, 1.5, -0.0, 1e-300, 1e300, float("nan"), float("inf"), -float("inf"), 10**6, 10**9,
          2**31, 2**63, 10**30, 8192, 4096, 2048, 65535, "", "x", "x" * 10**5, "\x1b[2J\x07", "\ud800", "../../etc/passwd", "224",
          "nan", [], [[]], {}, [0], [1, 2], [8192, 8192], [float("nan"), 224], [224, float("inf")], {"name": "ItemStage"},
          {"name": "BatchStage", "tfms": []}, {"name": "foreign", "class": "os.system"}, {"name": "eval"}, {"a": {"b": {}}}]
ARCHS = ["petnet", "mobilenet_v1", "efficientnet_lite0", "resnet18", "resnet152", "vit_h_14", "vit_b_16", "regnet_y_128gf",
         "regnet_y_400mf", "swin_v2_b", "maxvit_t", "convnext_large", "inception_v3", "googlenet", "vgg19", "squeezenet1_1",
         "eva02_enormous_patch14_clip_224", "vit_giant_patch14_224", "hf_hub:some/thing", "timm/resnet50", "os.system", "",
         "petnet.safetensors", "/dev/zero", "local-dir:/tmp", "resnet34:main", "RESNET18", "ｒesnet18", "petnet\x00"]


def places(value, path=()):
    "Every place in a manifest."
    yield path
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts: yield from places(part, (*path, key))


def at(value, path):
    "What stands at a place."
    for key in path: value = value[key]
    return value


def change_value(manifest, rng):
    "Another value at some place."
    path = rng.choice([path for path in places(manifest) if path])
    at(manifest, path[:-1])[path[-1]] = rng.choice(VALUES)
    return f"value at {path}"


def change_number(manifest, rng):
    "A number made larger, smaller, negative or broken."
    found = [path for path in places(manifest) if path and type(at(manifest, path)) in (int, float)]
    path = rng.choice(found)
    old = at(manifest, path)
    at(manifest, path[:-1])[path[-1]] = rng.choice([old * 2, old + 1, old - 1, -old, old * 1000, old / 3, old * 10, float(old), 0])
    return f"number at {path}"


def move_part(manifest, rng):
    "A part of the manifest at another's place."
    paths = [path for path in places(manifest) if path]
    source, target = rng.choice(paths), rng.choice(paths)
    part = json.loads(json.dumps(at(manifest, source)))
    at(manifest, target[:-1])[target[-1]] = part
    return f"part {source} at {target}"


def drop_or_add(manifest, rng):
    "An entry missing, or one too many."
    path = rng.choice([path for path in places(manifest) if isinstance(at(manifest, path), (dict, list))])
    found = at(manifest, path)
    if found and rng.random() < 0.5:
        found.pop(rng.choice(list(found)) if isinstance(found, dict) else rng.randrange(len(found)))
        return f"entry lost at {path}"
    if isinstance(found, list): found.insert(rng.randrange(len(found) + 1), rng.choice(VALUES))
    else: found[rng.choice(["weights", "init", "custom_head", "name", "size", "tfm", "tfms", "file", "__class__", ""])] = \
        rng.choice(VALUES)
    return f"entry added at {path}"


def repeat(manifest, rng):
    "A list, or what is in it, many times over."
    path = rng.choice([path for path in places(manifest) if isinstance(at(manifest, path), list) and at(manifest, path)])
    times = min(rng.choice([2, 10, 32, 200, 10_000]), 1 + MOST_TEXT // len(json.dumps(at(manifest, path))))
    at(manifest, path)[:] = at(manifest, path) * times
    return f"{times} times the list at {path}"


def nest(manifest, rng):
    "Something wrapped in itself, many times."
    path = rng.choice([path for path in places(manifest) if path])
    part, depth = at(manifest, path), rng.choice([1, 2, 15, 60, 300])
    wrap = rng.choice([lambda inner: [inner], lambda inner: {"name": "TrainOnly", "tfm": inner}, lambda inner: {"tfms": inner},
                       lambda inner: {"name": "ItemStage", "tfms": [inner]}])
    for _ in range(depth): part = wrap(part)
    at(manifest, path[:-1])[path[-1]] = part
    return f"{depth} wrappers at {path}"


def change_network(manifest, rng):
    "Another network or head."
    model = manifest["model"]
    for _ in range(rng.choice([1, 1, 2, 3])):
        name = rng.choice(list(model))
        model[name] = {"arch": rng.choice(ARCHS), "n_out": rng.choice([0, 1, 2, 3, 10**6, 2**40]),
                       "cut": rng.choice([None, 0, 1, 2, 3, -1, -2, 99, 10**9]),
                       "lin_ftrs": rng.choice([None, [], [0], [1], [512], [2**16] * 16, [7] * 20, [2**40], [512, 0]]),
                       "ps": rng.choice([0, 1, 0.5, 1.0, [0.5], [0.1, 0.2], [], 2, -1, float("nan")])}.get(
                           name, rng.choice([True, False, 0, "yes", None]))
    return f"network {str(model)[:120]}"


def change_size(manifest, rng):
    "Sizes, anywhere in the stages."
    for stage in ("item_stage", "batch_stage"):
        for tfm in manifest[stage]["tfms"]:
            if rng.random() < 0.5: continue
            side = rng.choice([1, 2, 7, 31, 224, 512, 1024, 2048, 4096, 8192, 8193, 65535, 10**6, 0, -5, 2.5, float("nan"), None])
            for name in tfm.keys() & {"size", "max_sz"}: tfm[name] = [side, rng.choice([side, 64])] if name == "size" else side
    if rng.random() < 0.5: manifest["image_size"] = rng.choice([[96, 96], [2048, 2048], [1, 1], [8192, 1], [1024, 4096]])
    return "sizes"


def change_nothing(manifest, rng):
    "A sound manifest, whose weights are mutated."
    return ""


CHANGES = [change_value] * 4 + [change_number] * 3 + [move_part, drop_or_add, drop_or_add, repeat, nest, change_network,
                                                       change_network, change_size, change_nothing, change_nothing]


def mutate_tensors(tensors, rng):
    "Weights lost, renamed, added, of another shape, type or value."
    kind, name = rng.randrange(9), rng.choice(sorted(tensors))
    found = tensors[name]
    if kind == 0: del tensors[name]
    if kind == 1: tensors[rng.choice(["", "x" * 1000, "\x1b[2J", f"{name}.", "0.module.__class__"])] = tensors.pop(name)
    if kind == 2: tensors["extra"] = torch.zeros(rng.choice([0, 1, 10**6]))
    if kind == 3: tensors[name] = found.reshape(-1)
    if kind == 4: tensors[name] = found.to(rng.choice([torch.float16, torch.float64, torch.int64, torch.bool, torch.bfloat16]))
    if kind == 5 and found.is_floating_point(): tensors[name] = torch.full_like(found, rng.choice([float("nan"), 1e38, -1e38, 0]))
    if kind == 6: tensors[name] = torch.zeros(*found.shape, 0)
    if kind == 7: tensors.clear()
    if kind == 8 and found.ndim: tensors[name] = found.repeat(2, *[1] * (found.ndim - 1))
    return f"weights, kind {kind}, {name[:40]!r}"


def sealed(manifest, tensors, version=1):
    "A file with a hash that fits; what `write_model_file` refuses is written, too."
    tensors = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    envelope = {"format_version": version, "sha256": model_digest(manifest, tensors), "manifest": manifest}
    return save(tensors, metadata={"petbook": json.dumps(envelope, sort_keys=True)})


def mutate_bytes(content, rng):
    "Damage that no writer of safetensors would do; gives the file's length as well, which a hole may fill."
    length = int.from_bytes(content[:8], "little")
    header, data, kind, longer = content[8:8 + length], content[8 + length:], rng.randrange(16), 0
    swap = lambda old, new: header.replace(old, new, 1)
    if kind == 0: header += b" " * rng.choice([1, 8, 4096, 10**6])
    if kind == 1: header = b" " * 8 + header
    if kind == 2: header = swap(b'{"', b'{"__metadata__":{"petbook":"{}"},"')
    if kind == 3: header = swap(rb'\"vocab\":', rb'\"vocab\": [\"a\"], \"vocab\":')
    if kind == 4: header = swap(rb'\"n_out\": 2', rng.choice([rb'\"n_out\": NaN', rb'\"n_out\": 1e999', b'\\"n_out\\": ' + b"9" * 5000]))
    if kind == 5: longer = rng.choice([1, 1000, 3 * 10**9])
    if kind == 6: data = data[:rng.randrange(len(data) + 1)]
    if kind == 7: header = swap(b'"dtype":"F32"', b'"dtype":"' + rng.choice([b"F8_E4M3", b"", b"F64", b"x" * 999, b"U8"]) + b'"')
    if kind == 8: header = swap(b'"shape":[', b'"shape":[' + rng.choice([b"0,", b"-1,", b"99999999999,", b"1.5,", b"1," * 999]))
    if kind == 9: header = swap(b'"data_offsets":[', b'"data_offsets":[' + rng.choice([b"1", b"-", b"9" * 30, b'"a",', b"[],"]))
    if kind == 10: header = header.decode().encode(rng.choice(["utf-16", "utf-8-sig", "utf-32"]))
    if kind == 11: header = b'{"a":' * rng.choice([10, 1000, 10**5]) + b"1" + b"}"
    if kind == 12: header = header[:rng.randrange(len(header) + 1)]
    if kind == 13: header = swap(rb'\"manifest\": {', rb'\"manifest\": {\"x\": ' + b"[" * 5000 + b"]" * 5000 + b", ")
    if kind == 14: header = b"{" + b",".join(b'"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % n for n in range(30_000)) + b"}"
    start = len(header).to_bytes(8, "little")
    if kind == 15: start = rng.choice([b"", b"\xff" * 8, bytes(8), (length + 1).to_bytes(8, "little"), b"\x80\x04" + bytes(6), b"PK\3\4"])
    made = bytearray(start + header + data)
    if made and rng.random() < 0.1: made[rng.randrange(len(made))] ^= 1 << rng.randrange(8)
    return bytes(made), len(made) + longer, f"bytes, kind {kind}"


def make_file(bases, seed, number, file):
    "Write mutated file `number`; say what was done."
    rng = random.Random(f"{seed}/{number}")
    manifest, tensors = rng.choices(bases, (1, 1, 18))[0]
    manifest, tensors, done = json.loads(json.dumps(manifest)), dict(tensors), []
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        try: done.append(rng.choice(CHANGES)(manifest, rng))
        except (KeyError, TypeError, IndexError, AttributeError, ValueError, OverflowError, RecursionError): pass
    if rng.random() < 0.2: done.append(mutate_tensors(tensors, rng))
    try: content = sealed(manifest, tensors, rng.choice([1] * 30 + [0, 2, "1", None, True]))
    except (UnicodeError, ValueError, OverflowError): content = sealed({}, tensors)
    length = len(content)
    if rng.random() < 0.2:
        content, length, what = mutate_bytes(content, rng)
        done.append(what)
    with open(file, "wb") as stream:
        stream.write(content)
        if length > len(content): stream.truncate(length)
    return "; ".join(filter(None, done)) or "sound"


def try_file(file, photograph):
    "Load a file and ask it: what came of it, and what the loading cost."
    before, start = reset_peak(), time.process_time()
    try:
        predictor = load_learner(file, device="cpu")
        outcome, said = "loaded", ""
    except ModelFileError as error: outcome, said = "refused", str(error).replace(str(file), "FILE")
    except BaseException as error: outcome, said = "finding", f"{type(error).__name__} while loading: {error}"[:300]
    cost = {"seconds": time.process_time() - start, "megabytes": peak() - before}
    if outcome == "loaded":
        try:
            answer = predictor.predict(photograph)
            assert abs(answer.probabilities.sum().item() - 1) < 1e-3 or predictor.activation == "none", "no probabilities"
            outcome = "answered"
        except BaseException as error: outcome, said = "finding", f"{type(error).__name__} while predicting: {error}"[:300]
    if outcome == "refused":
        if cost["seconds"] > SECONDS or cost["megabytes"] > MEGABYTES: outcome = "finding"
        if len(said) > LETTERS + 4 or not said.isprintable(): outcome, said = "finding", f"words of a stranger: {said[:300]!r}"
    return {"outcome": outcome, "said": said, **cost}


def work(connection, seed, folder, bases, name):
    "A worker: asked for a number, it makes that file, tries it, and tells."
    torch.set_num_threads(1)
    bases = [read_model_file(base) for base in bases]
    photograph = Image.radial_gradient("L").resize((300, 200)).convert("RGB")
    load_learner(folder / "base0.safetensors", device="cpu").predict(photograph)  # what is loaded at first use is loaded
    file = folder / f"{name}.safetensors"
    connection.send("ready")
    while (number := connection.recv()) is not None:
        what = make_file(bases, seed, number, file)
        connection.send("made")
        connection.send({"number": number, "what": what[:400], **try_file(file, photograph)})


def summary(rows, seconds, args):
    "What is told and kept."
    refused, findings = ([row for row in rows if row["outcome"] == kind] for kind in ("refused", "finding"))
    told = {}
    for row in rows:
        words = row["said"].split(": ", 1)[-1][:40]
        told[words] = told.get(words, 0) + 1
    costs = {}
    for what in ("seconds", "megabytes"):
        values = sorted(row[what] for row in refused) or [0]
        costs[what] = {"median": round(values[len(values) // 2], 3), "largest": round(values[-1], 3)}
    return {"files": len(rows), "seed": args.seed, "refused": len(refused), "findings": findings,
            "answered": sum(row["outcome"] == "answered" for row in rows), "refusal_costs": costs, "minutes": round(seconds / 60, 1),
            "workers": args.workers, "kinds_of_refusals": len(told), "torch": torch.__version__}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=min(os.cpu_count(), 4))
    parser.add_argument("--only", type=int, nargs="*", help="numbers of files to try again")
    parser.add_argument("--no-results", action="store_true", help="write no file of results")
    args = parser.parse_args()
    start, rows = time.monotonic(), []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        bases = list(base_files(folder))
        crew = [(args.seed, folder, bases, f"w{place}") for place in range(args.workers)]
        for row in run(args.only or range(args.count), work, crew, (HANG, ASLEEP, RUNAWAY)):
            rows.append(row)
            if row["outcome"] == "finding" or args.only:
                print(f"{row['number']}: {row['what']}\n    {row['outcome']}: {row['said']}  "
                      f"({row['seconds']:.2f} s, {row['megabytes']:.0f} MB)", flush=True)
    found = summary(rows, time.monotonic() - start, args)
    print(json.dumps(found | {"findings": len(found["findings"])}, indent=1))
    if not args.no_results and not args.only:
        Path(__file__).with_name("results").joinpath("fuzz_models.json").write_text(json.dumps(found, indent=1) + "\n")
    raise SystemExit(bool(found["findings"]))


if __name__ == "__main__": main()
