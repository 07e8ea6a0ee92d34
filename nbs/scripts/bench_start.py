"""Measure how long a beginner waits: for the import, for the drawn pets, and for the main job.

    python nbs/scripts/bench_start.py                       # some minutes
    python nbs/scripts/bench_start.py --only import drawing
    python nbs/scripts/bench_start.py --peer-python PATH    # a Python that has fastai==2.8.12: its import too

import    `from petbook.all import *` against `import torch, torchvision`, each in fresh processes that take turns; the least time counts.
drawing   get_pets("sketch"), 37 x 20 pictures, into an empty folder, with as many processes as the machine has cores.
job       `petbook train` with an empty cache and nothing else said: draw, find a rate, fine-tune, compare with random weights, report.
The figures are added to nbs/scripts/results/start.json.
"""
import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import describe_machine

FILE = Path(__file__).resolve().parent / "results" / "start.json"
BARE = "import torch, torchvision"


def seconds_of(python, statement):
    "How long one statement takes in a process of its own, without the start of Python itself."
    code = f"import time; start = time.perf_counter(); exec({statement!r}); print(time.perf_counter() - start)"
    return float(subprocess.run([python, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True).stdout.split()[-1])


def measure_import(options):
    cases = {"import torch, torchvision": (sys.executable, BARE), "from petbook.all import *": (sys.executable, f"{BARE}\nfrom petbook.all import *")}
    if options.peer_python:
        cases["import torch, torchvision (fastai's Python)"] = (options.peer_python, BARE)
        cases["from fastai.vision.all import *"] = (options.peer_python, f"{BARE}\nfrom fastai.vision.all import *")
    least = dict.fromkeys(cases, float("inf"))
    for turn in range(options.rounds + 1):  # the first turn fills the disk cache and compiles
        for case, (python, statement) in cases.items():
            seconds = seconds_of(python, statement)
            if turn: least[case] = min(least[case], seconds)
    rows, names = [], list(least)
    for number, (case, seconds) in enumerate(least.items()): rows.append({"statement": case, "seconds": round(seconds, 3), "ratio": round(seconds / least[names[number - number % 2]], 3)})
    return rows


def measure_drawing(options):
    with tempfile.TemporaryDirectory() as folder:
        code = "import sys, time; from petbook.drawing.pets import get_pets; start = time.perf_counter(); print(len(list((get_pets('sketch', folder=sys.argv[1]) / 'images').iterdir())), time.perf_counter() - start)"
        pictures, seconds = subprocess.run([sys.executable, "-c", code, folder], stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    return {"pictures": int(pictures), "seconds": round(float(seconds), 1)}


def measure_job(options):
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        said = subprocess.run([sys.executable, "-c", "import sys; from petbook.cli.main import main; sys.exit(main())", "train", "--out", f"{folder}/run"], stdout=subprocess.PIPE, text=True, check=True,
                              env={**os.environ, "PETBOOK_HOME": f"{folder}/home"}).stdout
        seconds = time.perf_counter() - start
    print(said)
    shares = [float(re.search(rf"^{word} .*?([\d.]+)%", said, flags=re.M)[1]) for word in ("error", "compare")]
    return {"seconds": round(seconds, 1), "error": shares[0], "error_from_random_weights": shares[1]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="a Python that has fastai")
    parser.add_argument("--rounds", type=int, default=8, help="turns of each import")
    parts = {"import": measure_import, "drawing": measure_drawing, "job": measure_job}
    parser.add_argument("--only", nargs="+", choices=list(parts), default=list(parts), help="parts to measure; the others keep their last figures")
    options = parser.parse_args()


    found = json.loads(FILE.read_text()) if FILE.exists() else {}
    found["measured_on"] = describe_machine()
    for part in options.only:
        found[part] = parts[part](options)
        print(part, json.dumps(found[part], indent=1), flush=True)
        FILE.parent.mkdir(exist_ok=True)
        FILE.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__": main()
