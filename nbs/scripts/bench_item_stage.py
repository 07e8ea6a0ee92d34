"""Measure the item stage (open a file, bring it to 460 pixels, hand over a uint8 tensor) side by side with fastai.

    python nbs/scripts/bench_item_stage.py --peer-python PATH [--images FOLDER]

PATH is a Python that has fastai in it; without it, a virtual environment with fastai 2.8.12 is made in petbook's cache
folder. Both libraries run as one process with one thread each, and take turns in short rounds, so that a busy machine is as
busy for the one as for the other; of each one's rounds the fastest counts. The files are read once before, so that they come
from memory. The table is printed and written to nbs/scripts/results/item_stage.json.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import describe_machine

FASTAI = "fastai==2.8.12"
SIZE = 460


def petbook_steps():
    import torch

    from petbook.all import random_stream
    from petbook.all import ItemStage, Resize, open_image

    torch.set_num_threads(1)
    stage, generator = ItemStage([Resize(SIZE)]), random_stream(42, "bench")
    return {
        "open": lambda path: open_image(path),
        "train": lambda path: stage(path, generator),
        "valid": lambda path: stage(path),
    }


def fastai_steps():
    import torch
    from fastai.vision.all import PILImage, Pipeline, Resize, ToTensor

    torch.set_num_threads(1)
    pipelines = {name: Pipeline([PILImage.create, Resize(SIZE), ToTensor()], split_idx=idx) for name, idx in (("train", 0), ("valid", 1))}
    return {"open": PILImage.create, **pipelines}


def serve(library):
    "Answer each line `step, files` with the seconds of processor time that the step took on all the files."
    out = os.dup(1)
    os.dup2(2, 1)  # whatever the library prints must not be taken for an answer
    steps = {"petbook": petbook_steps, "fastai": fastai_steps}[library]()
    answers = os.fdopen(out, "w")
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        step, files = json.loads(line)
        files = [Path(file) for file in files]
        start = time.process_time()
        for file in files: steps[step](file)
        print(time.process_time() - start, file=answers, flush=True)


class Worker:
    "A library in a process of its own."

    def __init__(self, python, library):
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        command = [python, __file__, "--serve", library]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line: raise SystemExit("a worker ended early; its message stands above")
        return line

    def seconds(self, step, files):
        print(json.dumps([step, [str(file) for file in files]]), file=self.process.stdin, flush=True)
        return float(self.answer())


def peer_python():
    "A virtual environment with fastai in it, made once."
    from petbook.all import cache_folder

    folder = cache_folder("peers") / "fastai"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists(): subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", FASTAI], check=True)
    return str(python)


def twelve_megapixels(folder, count=3):
    "Photo-like JPEGs of 4000 x 3000 pixels: drawn pets, enlarged, with the grain of a sensor; quality 90, as cameras write them."
    import numpy as np
    from PIL import Image

    from petbook.all import BREEDS, draw_pet

    files = []
    for number in range(count):
        pet = draw_pet(BREEDS[number * 12], number).resize((4000, 3000), Image.Resampling.BICUBIC)
        # 2 levels of grain: about as many bits as a photograph by day
        grain = np.random.default_rng(number).normal(0, 2, (3000, 4000, 1)).astype(np.float32)
        pixels = (np.asarray(pet) + grain).round().clip(0, 255).astype(np.uint8)
        files.append(Path(folder) / f"large_{number}.jpg")
        Image.fromarray(pixels).save(files[-1], quality=90)
    return files


def compare(workers, cases, rounds):
    rows = []
    for title, step, files in cases:
        for worker in workers.values(): worker.seconds(step, files)  # warm up
        best = {}
        for _ in range(rounds):
            for name, worker in workers.items():
                best[name] = min(best.get(name, float("inf")), worker.seconds(step, files) / len(files))
        row = {"images": title, "step": step, "count": len(files)} | {f"{name}_images_per_s": round(1 / seconds, 1) for name, seconds in best.items()}
        row["ratio"] = round(best["fastai"] / best["petbook"], 2)
        rows.append(row)
        print(f"{title:28} {step:6} fastai {row['fastai_images_per_s']:8.1f} images/s   petbook {row['petbook_images_per_s']:8.1f} images/s   {row['ratio']:.2f} times", flush=True)
    return rows


def versions(python):
    code = "import json, torch, torchvision, PIL, fastai; print(json.dumps({m.__name__: m.__version__ for m in (fastai, torch, torchvision, PIL)}))"
    return json.loads(subprocess.run([python, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="a Python that has fastai; made if left out")
    parser.add_argument("--images", type=Path, help="a folder of photographs to measure as well")
    parser.add_argument("--rounds", type=int, default=15, help="rounds of each library and case")
    parser.add_argument("--serve", choices=("petbook", "fastai"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve: return serve(arguments.serve)


    from petbook.all import atomic_path
    from petbook.all import get_pets

    python = arguments.peer_python or peer_python()
    with tempfile.TemporaryDirectory() as folder:
        sets = {"drawn pets, 300 to 600 px": sorted((get_pets("sketch") / "images").glob("*.jpg"))[::13][:56]}
        if arguments.images: sets["photographs"] = sorted(arguments.images.glob("*.jpg"))[::7][:53]
        sets["12 megapixels"] = twelve_megapixels(folder)
        cases = [(title, step, files) for title, files in sets.items() for step in ("open", "train", "valid")]
        workers = {"fastai": Worker(python, "fastai"), "petbook": Worker(sys.executable, "petbook")}
        size_mb = sum(file.stat().st_size for file in sets["12 megapixels"]) / len(sets["12 megapixels"]) / 1e6
        print(f"one process and one thread each, processor time, {arguments.rounds} rounds in turn, the fastest counts; Resize({SIZE}); a 12-megapixel file has {size_mb:.1f} MB")
        rows = compare(workers, cases, arguments.rounds)
        for worker in workers.values(): worker.process.stdin.close()
    result = {
        "size": SIZE,
        "rounds": arguments.rounds,
        "measured": "processor time of one process with one thread, fastest round",
        "twelve_megapixel_file_mb": round(size_mb, 2),
        "peer": versions(python),
        "measured_on": describe_machine(),
        "rows": rows,
    }
    with atomic_path(Path(__file__).parent / "results" / "item_stage.json") as path: path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__": main()
