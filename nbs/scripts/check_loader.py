"""Check that a loader gives the same batches however it reads: 0, 1, 2 and 4 workers, forked and spawned, with and without
caches, and from the middle of an epoch on.

    python nbs/scripts/check_loader.py

Every batch of two epochs (training and validation: pixels, classes and places) is hashed and compared with those of a loader
without workers. Stops at the first difference. The table is printed and written to nbs/scripts/results/loader_check.json.
"""

import hashlib
import json
import multiprocessing
import platform
import tempfile
import time
import warnings
from pathlib import Path


def hashes(dls, epochs=2):
    found = []
    for _ in range(epochs):
        for loader in (dls.train, dls.valid):
            for batch in loader.batches(): found.append(hashlib.sha256(b"".join(part.numpy().tobytes() for part in batch)).hexdigest())
    return found


def main():
    import torch

    from petbook.all import aug_transforms
    from petbook.all import atomic_path
    from petbook.all import DataBlock, RandomSplitter, RegexLabeller, get_image_files, using_attr
    from petbook.all import get_pets
    from petbook.all import Resize

    warnings.filterwarnings("ignore", "This DataLoader will create")  # four workers on two cores are meant
    files = get_image_files(get_pets("sketch") / "images")[::6]
    block = DataBlock(get_y=using_attr(RegexLabeller(r"(.+)_\d+.jpg$"), "name"), splitter=RandomSplitter(seed=1),
                      item_tfms=Resize(128), batch_tfms=aug_transforms(size=64, min_scale=0.5))
    wanted, rows = hashes(block.dataloaders(files, bs=16, num_workers=0)), []
    print(f"{len(files)} images, {len(wanted)} batches in two epochs")
    for start_method in [way for way in ("fork", "spawn") if way in multiprocessing.get_all_start_methods()]:
        for num_workers in (0, 1, 2, 4):
            for kind in ("none", "memory", "folder"):
                with tempfile.TemporaryDirectory() as folder:
                    cache, began = {"none": None, "memory": "memory", "folder": folder}[kind], time.perf_counter()
                    arguments = dict(bs=16, num_workers=num_workers, start_method=start_method)
                    whole = hashes(block.dataloaders(files, cache=cache, **arguments)) == wanted
                    half = block.dataloaders(files, cache=cache, **arguments)
                    half.train.load_state_dict({"epoch": 0, "batch": 3})
                    resumed = hashes(half, 1) == wanted[3 : len(wanted) // 2]
                rows.append({"start_method": start_method, "num_workers": num_workers, "cache": kind, "same": whole, "same_when_resumed": resumed})
                print(f"{start_method:6} {num_workers} workers  cache: {kind:6}  whole: {whole}  resumed: {resumed}  {time.perf_counter() - began:5.1f} s", flush=True)
                if not (whole and resumed): raise SystemExit("the batches differ")
    print("all the same")
    found = {"images": len(files), "batches": len(wanted), "epochs": 2, "torch": torch.__version__, "python": platform.python_version(), "system": platform.system(), "rows": rows}
    with atomic_path(Path(__file__).parent / "results" / "loader_check.json") as file: file.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__": main()
