"""Measure whole loaders (files to finished batches) side by side with fastai.

    python nbs/scripts/bench_loader.py --peer-python PATH [--images FOLDER]

PATH is a Python that has fastai in it; without it, a virtual environment with fastai 2.8.12 is made in petbook's cache
folder. The block is the chapter's: Resize(460), aug_transforms(size=224, min_scale=0.75), batches of 64. Measured are
passes over training and validation without workers (the two libraries take turns, of each one's rounds the fastest counts),
petbook's passes from its caches, what a worker process keeps to itself in memory, and how long a block takes to list, label
and split 10,000, 30,000 and 100,000 small files, and what memory does in a whole pass over them by two workers. The table is
printed and written to nbs/scripts/results/loader.json.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import describe_machine

FASTAI = "fastai==2.8.12"
PATTERN = r"(.+)_\d+.jpg$"
PARTS = "passes", "memory", "building", "reading"


def make_loaders(library, folder, **arguments):
    if library == "petbook":
        from petbook.all import aug_transforms
        from petbook.all import CategoryBlock, DataBlock, ImageBlock, RandomSplitter, RegexLabeller, get_image_files, using_attr
        from petbook.all import Resize
    else:
        from fastai.vision.all import CategoryBlock, DataBlock, ImageBlock, RandomSplitter, RegexLabeller, Resize, aug_transforms, get_image_files, using_attr
    item_tfms, batch_tfms = (Resize(8), None) if arguments.pop("tiny", False) else (Resize(460), aug_transforms(size=224, min_scale=0.75))
    block = DataBlock(blocks=(ImageBlock, CategoryBlock), get_items=get_image_files, splitter=RandomSplitter(seed=42),
                      get_y=using_attr(RegexLabeller(PATTERN), "name"), item_tfms=item_tfms, batch_tfms=batch_tfms)
    if arguments.pop("only_datasets", False): return block.datasets(Path(folder))
    return block.dataloaders(Path(folder), bs=64, device="cpu", **arguments)


def one_pass(dls): return sum(len(y) for loader in (dls.train, dls.valid) for _, y in loader)


def private_megabytes(process):
    "Memory that a process shares with nobody (Linux)."
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private")) / 1024


def resident_megabytes(process):
    "All memory of a process that is in use (Linux)."
    return next(int(line.split()[1]) for line in Path(f"/proc/{process}/status").read_text().splitlines() if line.startswith("VmRSS")) / 1024


def children():
    return [child for task in Path("/proc/self/task").iterdir() for child in (task / "children").read_text().split()]


class Measures:
    "What a library's process can be asked to do."

    def __init__(self, library): self.library, self.loaders = library, {}

    def timed_pass(self, folder, threads, cache=None):
        import torch

        torch.set_num_threads(threads)
        if (folder, cache) not in self.loaders:
            self.loaders[folder, cache] = make_loaders(self.library, folder, num_workers=0, **({"cache": cache} if cache else {}))
            if cache: one_pass(self.loaders[folder, cache])  # fill it
        start = time.perf_counter()
        count = one_pass(self.loaders[folder, cache])
        return count / (time.perf_counter() - start)

    def worker_memory(self, folder):
        dls, memory = make_loaders(self.library, folder, num_workers=2, **({"persistent_workers": True} if self.library == "fastai" else {})), []
        for _ in range(2):
            for batch in dls.train: memory.append(max(private_megabytes(child) for child in children()))
        return max(memory)

    def building(self, folder):
        import resource

        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.perf_counter()
        data = make_loaders(self.library, folder, only_datasets=True)
        seconds = time.perf_counter() - start
        assert len(data.train) > len(data.valid) > 0
        return [seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024]

    def reading(self, folder):
        dls, marks = make_loaders(self.library, folder, num_workers=2, tiny=True), []
        every = len(dls.train) // 10
        for number, _ in enumerate(dls.train):
            if number % every == every // 2:  # in the middle of each tenth: at the end a worker may be gone
                marks.append([max(private_megabytes(child) for child in children()), resident_megabytes("self")])
        return marks


def serve(library):
    "Answer each line `measure, arguments` with its result."
    out = os.dup(1)
    os.dup2(2, 1)  # whatever the library prints must not be taken for an answer
    measures = Measures(library)
    if library == "petbook": import petbook.all  # noqa: F401
    else: import fastai.vision.all  # noqa: F401
    answers = os.fdopen(out, "w")
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        measure, arguments = json.loads(line)
        print(json.dumps(getattr(measures, measure)(*arguments)), file=answers, flush=True)


class Worker:
    "A library in a process of its own."

    def __init__(self, python, library):
        command = [python, "-W", "ignore", __file__, "--serve", library]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line: raise SystemExit("a worker ended early; its message stands above")
        return line

    def ask(self, measure, *arguments):
        print(json.dumps([measure, arguments]), file=self.process.stdin, flush=True)
        return json.loads(self.answer())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def peer_python():
    "A virtual environment with fastai in it, made once."
    from petbook.all import cache_folder

    folder = cache_folder("peers") / "fastai"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists(): subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", FASTAI], check=True)
    return str(python)


def passes(pythons, folder, rounds, threads, scratch):
    "Images per second of whole passes; the libraries take turns."
    workers = {name: Worker(python, name) for name, python in pythons.items()}
    cases = {"fastai": ("fastai", None), "petbook": ("petbook", None), "petbook, memory cache": ("petbook", "memory"),
             "petbook, folder cache": ("petbook", f"{scratch}/cache-{threads}")}
    best = dict.fromkeys(cases, 0.0)
    for turn in range(rounds + 1):
        for case, (library, cache) in cases.items():
            speed = workers[library].ask("timed_pass", str(folder), threads, *([cache] if cache else []))
            if turn: best[case] = max(best[case], speed)  # the first round warms up
    for worker in workers.values(): worker.close()
    rows = [{"threads": threads, "loader": case, "images_per_s": round(speed, 1), "ratio": round(speed / best["fastai"], 2)} for case, speed in best.items()]
    for row in rows: print(f"{threads} thread(s)  {row['loader']:24} {row['images_per_s']:8.1f} images/s  {row['ratio']:6.2f} times", flush=True)
    return rows


def fresh(python, library, measure, *arguments):
    worker = Worker(python, library)
    result = worker.ask(measure, *arguments)
    worker.close()
    return result


def many_files(scratch, count):
    "A folder of small pictures in a hundred classes, made once."
    from PIL import Image

    folder, file = Path(scratch) / f"many-{count}", io.BytesIO()
    if folder.exists(): return folder
    Image.new("RGB", (8, 8), "tan").save(file, "JPEG")
    for breed in range(100): (folder / f"breed_{breed}").mkdir(parents=True)
    for number in range(count): (folder / f"breed_{number % 100}" / f"breed_{number % 100}_{number}.jpg").write_bytes(file.getvalue())
    return folder


def building(pythons, scratch, counts=(10_000, 30_000, 100_000)):
    rows = []
    for count in counts:
        folder = many_files(scratch, count)
        for library, python in pythons.items():
            seconds, megabytes = min(fresh(python, library, "building", str(folder)) for _ in range(2))
            rows.append({"files": count, "library": library, "seconds": round(seconds, 2), "megabytes": round(megabytes, 1)})
            print(f"{count:7} files  {library:8} {seconds:6.2f} s  {megabytes:7.1f} MB", flush=True)
    return rows


def reading(pythons, scratch):
    folder, found = many_files(scratch, 100_000), {}
    for library, python in pythons.items():
        marks = fresh(python, library, "reading", str(folder))
        found[library] = {"worker_megabytes": [round(worker, 1) for worker, _ in marks], "main_megabytes": [round(main, 1) for _, main in marks]}
        print(f"a pass over {len(list(folder.glob('*/*')))} files, tenth by tenth, MB: {library} {found[library]}", flush=True)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="a Python that has fastai; made if left out")
    parser.add_argument("--images", type=Path, help="a folder of photographs named like Oxford-IIIT Pet's; the drawn pets if left out")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each loader")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to measure; the others keep their last figures")
    parser.add_argument("--serve", choices=("petbook", "fastai"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve: return serve(arguments.serve)


    from petbook.all import atomic_path
    from petbook.all import get_pets

    folder = arguments.images.absolute() if arguments.images else get_pets("sketch") / "images"
    pythons = {"fastai": arguments.peer_python or peer_python(), "petbook": sys.executable}
    count = len(list(folder.rglob("*.jpg")))
    file = Path(__file__).parent / "results" / "loader.json"
    result = json.loads(file.read_text()) if file.exists() else {}
    result |= {"measured_on": describe_machine()}
    with tempfile.TemporaryDirectory() as scratch:
        if "passes" in arguments.only:
            print(f"{count} {'photographs' if arguments.images else 'drawn pets'}, no workers, {arguments.rounds} rounds in turn, the fastest counts")
            result |= {"images": count, "kind": "photographs" if arguments.images else "drawn", "rounds": arguments.rounds}
            result["passes"] = [row for threads in sorted({1, os.cpu_count()}) for row in passes(pythons, folder, arguments.rounds, threads, scratch)]
        if "memory" in arguments.only and sys.platform == "linux":
            result["worker_megabytes"] = {library: round(fresh(python, library, "worker_memory", str(folder)), 1) for library, python in pythons.items()}
            print("memory that a worker keeps to itself, MB:", result["worker_megabytes"], flush=True)
        if "building" in arguments.only: result["building"] = building(pythons, scratch)
        if "reading" in arguments.only and sys.platform == "linux": result["reading"] = reading(pythons, scratch)
    with atomic_path(file) as path: path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__": main()
