"""How much memory interpretation needs over a plain validation pass, for small and for large pictures, beside fastai.

    python nbs/scripts/bench_interpretation.py [--peer-python PATH]

Each figure is the peak resident memory of a process of its own, so nothing is left over from another; the smallest of three runs counts.
Beside it stands what interpretation is allowed to keep: a float for each class, the label, the prediction, the loss and a place, for each
picture. A tiny network keeps activations out of the way. PATH is a Python that has fastai 2.8. Prints a table and writes
nbs/scripts/results/interpretation.json.
"""
import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

LABEL, RUNS = r"(.+)_\d+.jpg$", 3


def vocab_of(folder: str) -> list[str]:
    "Every class there is: nine tenths validate, so some classes have no training picture, and fastai would not know them."
    return sorted({re.match(LABEL, path.name)[1] for path in Path(folder).glob("*.jpg")})


def tiny(classes: int):
    from torch import nn

    return nn.Sequential(nn.Conv2d(3, 8, 7, stride=8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes))


def petbook_child(folder: str, size: int, what: str) -> None:
    from petbook.all import Normalize
    from petbook.all import CategoryBlock, DataBlock, ImageBlock, RandomSplitter, RegexLabeller, get_image_files, using_attr
    from petbook.all import ClassificationInterpretation
    from petbook.all import Resize
    from petbook.all import Trainer

    block = DataBlock(blocks=(ImageBlock, CategoryBlock(vocab=vocab_of(folder))), get_items=get_image_files, splitter=RandomSplitter(valid_pct=0.9, seed=42),
                      get_y=using_attr(RegexLabeller(LABEL), "name"), item_tfms=Resize(size), batch_tfms=[Normalize([0.5] * 3, [0.5] * 3)])
    dls = block.dataloaders(folder, bs=16, num_workers=0)
    learn = Trainer(dls, tiny(dls.c), precision="fp32")
    if what == "validate": return learn.validate()
    found = ClassificationInterpretation.from_learner(learn)
    found.confusion_matrix(), found.most_confused(2), found.top_losses(9), found.label_errors(), found.calibration_error(), found.class_scores()


def fastai_child(folder: str, size: int, what: str) -> None:
    from fastai.vision.all import (CategoryBlock, ClassificationInterpretation, DataBlock, ImageBlock, Learner, Normalize, RandomSplitter, RegexLabeller, Resize, get_image_files, using_attr)

    block = DataBlock(blocks=(ImageBlock, CategoryBlock(vocab=vocab_of(folder))), get_items=get_image_files, splitter=RandomSplitter(valid_pct=0.9, seed=42),
                      get_y=using_attr(RegexLabeller(LABEL), "name"), item_tfms=Resize(size), batch_tfms=[Normalize.from_stats([0.5] * 3, [0.5] * 3, cuda=False)])
    dls = block.dataloaders(Path(folder), bs=16, num_workers=0)
    learn = Learner(dls, tiny(dls.c))
    with learn.no_bar(), learn.no_logging():
        if what == "validate": return learn.validate()
        found = ClassificationInterpretation.from_learner(learn)
        found.confusion_matrix(), found.most_confused(2), found.top_losses(9)


def peak(python: str, library: str, folder: str, size: int, what: str) -> float:
    "The smallest peak of a few runs, in MB."
    command = [python, __file__, "--child", library, folder, str(size), what]
    return min(int(re.search(r"PEAK (\d+)", subprocess.run(command, capture_output=True, text=True, check=True).stdout)[1]) for _ in range(RUNS)) / 1024


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--peer-python", help="a Python with fastai 2.8")
    options.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.child:
        library, folder, size, what = chosen.child
        {"petbook": petbook_child, "fastai": fastai_child}[library](folder, int(size), what)
        return print("PEAK", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    from petbook.all import get_pets

    rows, paths = [], sorted((get_pets("sketch") / "images").glob("*.jpg"))
    judged, classes = int(0.9 * len(paths)), len({re.match(LABEL, path.name)[1] for path in paths})
    kept = judged * (classes * 4 + 3 * 8 + 4) / 2**20
    with tempfile.TemporaryDirectory() as folder:
        for path in paths: (Path(folder) / path.name).symlink_to(path)
        for library, python in ("petbook", sys.executable), *([("fastai", chosen.peer_python)] if chosen.peer_python else []):
            for size in (64, 460):
                plain, full = (peak(python, library, folder, size, what) for what in ("validate", "interpret"))
                rows.append({"library": library, "pixels": size, "plain validation, MB": round(plain, 1), "with interpretation, MB": round(full, 1), "over, MB": round(full - plain, 1), "N x classes and ids, MB": round(kept, 2)})
                print(rows[-1], flush=True)
    results = {"rows": rows, "pictures judged": judged, "classes": classes, "runs": RUNS}
    (Path(__file__).parent / "results" / "interpretation.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__": main()
