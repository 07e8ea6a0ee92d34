"""Ask a library what it takes from folders that are not as its documentation has them.

    python nbs/scripts/odd_folders.py      (with a Python that has fastai 2.8.12)

Writes fastai's answers to
nbs/scripts/results/odd_folders.json. nbs/how-to/odd_folder.ipynb asks petbook and ImageFolder
the same questions, about the same folders, with the functions below, and shows the answers
side by side.
"""

import contextlib
import io
import json
import os
import struct
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image


def drawing(number):
    "A small image with a pattern of its own."
    stream = np.random.default_rng(number)
    cells = stream.integers(0, 255, (4, 6, 3), np.uint8)
    return Image.fromarray(cells).resize((60, 40), Image.Resampling.NEAREST)


def fill(folder, *patterns, count=4):
    "Write images: `count` for each pattern, with # as their number; one for a plain name."
    made = 0
    for pattern in patterns:
        for number in range(count if "#" in pattern else 1):
            file = folder / pattern.replace("#", str(number))
            file.parent.mkdir(parents=True, exist_ok=True)
            made += 1
            drawing(made).save(file, format="JPEG")
    return folder


# case -> (patterns, arguments of from_folder); each pattern stands for four images
FOLDERS = {
    "`train/` and `val/`": (["train/ants/IMG_#.jpg", "train/bees/IMG_#.jpg", "val/ants/IMG_#.jpg", "val/bees/IMG_#.jpg"], {}),
    "`Training/` and `Validation/`": (["Training/ants/#.jpg", "Training/bees/#.jpg", "Validation/ants/#.jpg", "Validation/bees/#.jpg"], {}),
    "`train/`, `valid/` and `test/`": (["train/ants/#.jpg", "train/bees/#.jpg", "valid/ants/#.jpg", "valid/bees/#.jpg", "test/ants/#.jpg", "test/bees/#.jpg"], {}),
    "the same, asked for a random split": (["train/ants/#.jpg", "train/bees/#.jpg", "valid/ants/#.jpg", "valid/bees/#.jpg", "test/ants/#.jpg", "test/bees/#.jpg"], {"valid_pct": 0.25}),
    "`train/` and a `test/` without labels": (["train/ants/#.jpg", "train/bees/#.jpg", "test/#.jpg"], {"valid_pct": 0.25}),
    "the split below the classes": (["ants/train/#.jpg", "bees/train/#.jpg", "ants/val/#.jpg", "bees/val/#.jpg"], {}),
    "named files below the split": (["train/ants_#.jpg", "train/bees_#.jpg", "dev/ants_#.jpg", "dev/bees_#.jpg"], {}),
    "class folders alone": (["ants/IMG_#.jpg", "bees/IMG_#.jpg"], {}),
    "class folders alone, `valid_pct=0.25`": (["ants/IMG_#.jpg", "bees/IMG_#.jpg"], {"valid_pct": 0.25}),
    "a mixture: `train/ants/`, `bees/`": (["train/ants/#.jpg", "bees/#.jpg"], {"valid_pct": 0.25}),
    "a camera's card: `DCIM/100CANON/`, `101CANON/`": (["DCIM/100CANON/IMG_#.jpg", "DCIM/101CANON/IMG_#.jpg"], {"valid_pct": 0.25, "labels": "auto"}),
    "classes below patients": (["patient_1/benign/#.jpg", "patient_2/malignant/#.jpg", "patient_3/benign/#.jpg"], {"valid_pct": 0.25, "labels": "auto"}),
    "days below classes": (["ants/2023-05-01/#.jpg", "ants/2023-05-02/#.jpg", "bees/2023-05-01/#.jpg"], {"valid_pct": 0.25, "labels": "auto"}),
    "two depths that could be classes": (["cats/persian/#.jpg", "dogs/pug/#.jpg", "dogs/boxer/#.jpg"], {"valid_pct": 0.25, "labels": "auto"}),
    "one image beside the class folders": (["ants/#.jpg", "bees/#.jpg", "cover.jpg"], {"valid_pct": 0.25}),
    "`._1.jpg`, `Thumbs.db`, `2.jpg?w=300`, an empty folder": (["ants/#.jpg", "bees/#.jpg", "ants/._1.jpg", "bees/Thumbs.db", "ants/2.jpg?w=300"], {"valid_pct": 0.25}),
    "a file of 0 bytes": (["ants/#.jpg", "bees/#.jpg"], {"valid_pct": 0.25}),
    "`Dog/` and `dog/`": (["Dog/#.jpg", "dog/#.jpg", "cat/#.jpg"], {"valid_pct": 0.25}),
    "`dog/` and `dog /`, with a space": (["dog/#.jpg", "dog /#.jpg", "cat/#.jpg"], {"valid_pct": 0.25}),
    "é composed and decomposed": (["caf\u00e9/#.jpg", "cafe\u0301/#.jpg", "bar/#.jpg"], {"valid_pct": 0.25}),
    "a link in `valid/` to an image in `train/`": (["train/ants/#.jpg", "train/bees/#.jpg", "valid/ants/9.jpg", "valid/bees/9.jpg"], {}),
    "a link to the folder above": (["ants/#.jpg", "bees/#.jpg"], {"valid_pct": 0.25}),
}


def write_folders(home):
    "Make the folders. Returns case -> folder."
    made = {}
    for number, (case, (patterns, _)) in enumerate(FOLDERS.items()):
        made[case] = fill(home / f"set_{number}", *patterns)
    (made["`._1.jpg`, `Thumbs.db`, `2.jpg?w=300`, an empty folder"] / "wasps").mkdir()
    (made["a file of 0 bytes"] / "ants" / "9.jpg").touch()
    linked = made["a link in `valid/` to an image in `train/`"]
    (linked / "valid" / "ants" / "8.jpg").symlink_to(linked / "train" / "ants" / "0.jpg")
    above = made["a link to the folder above"]
    (above / "ants" / "up").symlink_to(above, target_is_directory=True)
    return made


def counted(root, files):
    "How many files lie in each folder of the first level whose name is a part of a split."
    files = [Path(os.path.relpath(file, root)) for file in map(str, files)]
    parts = [next((part for part in file.parts[:-1] if part.lower()[:3] in ("tra", "val", "dev", "tes")), "") for file in files]
    return {part: parts.count(part) for part in sorted(set(parts))}


def shown(classes):
    "The classes, so that spaces and accents can be told apart."
    return ", ".join(ascii(str(name)) for name in classes)


def summary(root, classes, train, valid):
    "What was taken, in one line."
    def side(files):
        parts = ", ".join(f"{count} of {part}/" for part, count in counted(root, files).items() if part)
        return f"{len(files)}" + (f" ({parts})" if parts else "")

    return f"classes {shown(classes)}; trains on {side(train)}, validates on {side(valid)}"


def folder_questions(lib, folders, knows_labels):
    "Case -> function that builds loaders; `lib` has the names that fastai and petbook share."
    def ask(root, how):
        how = {name: value for name, value in how.items() if knows_labels or name != "labels"}
        dls = lib.ImageDataLoaders.from_folder(root, item_tfms=lib.Resize(32), bs=4, num_workers=0, seed=1, **how)
        list(dls.train), list(dls.valid)
        return summary(root, dls.vocab, list(dls.train_ds.items), list(dls.valid_ds.items))

    return {case: lambda root=root, how=FOLDERS[case][1]: ask(root, how) for case, root in folders.items()}


def imagefolder_questions(folders):
    "Case -> function that asks torchvision's ImageFolder."
    from torchvision.datasets import ImageFolder

    def ask(root):
        found = ImageFolder(root)
        for place in range(len(found)): found[place]
        return f"classes {shown(found.classes)}; {len(found)} images"

    return {case: lambda root=root: ask(root) for case, root in folders.items()}


# tables: case -> lines after the header; a/#.jpg and b/#.jpg exist
TABLES = {
    "a table, `labels.csv`": "file,label\na/0.jpg,ant\na/1.jpg,ant\na/2.jpg,ant\nb/0.jpg,bee\nb/1.jpg,bee\nb/2.jpg,bee\n",
    "semicolons between the columns": "file;label\na/0.jpg;ant\na/1.jpg;ant\na/2.jpg;ant\nb/0.jpg;bee\nb/1.jpg;bee\nb/2.jpg;bee\n",
    "a row twice": "file,label\na/0.jpg,ant\na/0.jpg,ant\na/1.jpg,ant\nb/0.jpg,bee\nb/1.jpg,bee\nb/2.jpg,bee\n",
    "a file with two labels": "file,label\na/0.jpg,ant\na/0.jpg,bee\na/1.jpg,ant\nb/0.jpg,bee\nb/1.jpg,bee\nb/2.jpg,bee\n",
    "a file that is not there": "file,label\na/0.jpg,ant\na/7.jpg,ant\na/1.jpg,ant\nb/0.jpg,bee\nb/1.jpg,bee\nb/2.jpg,bee\n",
    "a row without a label": "file,label\na/0.jpg,ant\na/1.jpg,\na/2.jpg,ant\nb/0.jpg,bee\nb/1.jpg,bee\nb/2.jpg,bee\n",
    "a label with a space behind it": "file,label\na/0.jpg,ant\na/1.jpg,ant \na/2.jpg,ant\nb/0.jpg,bee\nb/1.jpg,bee\nb/2.jpg,bee\n",
}


def write_tables(home):
    "Write one folder for each table. Returns case -> folder."
    made = {}
    for number, (case, text) in enumerate(TABLES.items()):
        made[case] = fill(home / f"table_{number}", "a/#.jpg", "b/#.jpg")
        (made[case] / "labels.csv").write_text(text, encoding="utf-8")
    return made


def table_questions(lib, folders):
    "Case -> function that builds loaders from the table."
    def ask(root):
        dls = lib.ImageDataLoaders.from_csv(root, valid_pct=0.34, seed=3, item_tfms=lib.Resize(32), bs=4, num_workers=0)
        list(dls.train), list(dls.valid)
        return f"classes {shown(dls.vocab)}; trains on {len(dls.train_ds)}, validates on {len(dls.valid_ds)}"

    return {case: lambda root=root: ask(root) for case, root in folders.items()}


def display_p3():
    "The bytes of a small ICC profile with the primaries of Display P3 and a plain gamma of 2.2."
    def number(value): return struct.pack(">i", round(value * 65536))
    def xyz(*values): return b"XYZ \0\0\0\0" + b"".join(map(number, values))

    curve = b"curv\0\0\0\0" + struct.pack(">IHH", 1, round(2.2 * 256), 0)
    text = b"desc\0\0\0\0" + struct.pack(">I", 11) + b"Display P3\0" + bytes(78 + 1)
    tags = {b"desc": text, b"cprt": b"text\0\0\0\0free\0\0\0\0", b"wtpt": xyz(0.9642, 1, 0.8249),
            b"rXYZ": xyz(0.51512, 0.24120, -0.00105), b"gXYZ": xyz(0.29198, 0.69225, 0.04189),
            b"bXYZ": xyz(0.15710, 0.06657, 0.78407), b"rTRC": curve, b"gTRC": curve, b"bTRC": curve}
    table, body, start = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4sI4s4s4s", start + len(body), b"\0\0\0\0", 0x02400000, b"mntr", b"RGB ", b"XYZ ")
    head += struct.pack(">6H", 2024, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + number(0.9642) + number(1) + number(0.8249)
    return head.ljust(128, b"\0") + table + body


def write_files(home):
    "Write single files. Returns case -> file."
    home.mkdir(parents=True, exist_ok=True)
    ramp = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (48, 1))
    one_over = ramp.copy()
    one_over[0, 0] = 1.02
    made = {"float TIFF, 0 to 1": ramp, "float TIFF, one pixel at 1.02": one_over,
            "float TIFF, 0 to 255.4": ramp * 255.4, "16-bit TIFF, 0 to 65535": (ramp * 65535).astype(np.uint16),
            "16-bit TIFF that holds bytes, 0 to 255": (ramp * 255).astype(np.uint16)}
    files = {}
    for number, (case, pixels) in enumerate(made.items()):
        files[case] = home / f"{number}.tif"
        Image.fromarray(pixels).save(files[case])
    turned = Image.fromarray(np.tile(np.arange(64, dtype=np.uint8) * 4, (48, 1))).convert("RGB")
    files["TIFF with an orientation tag, 48 wide and 64 high"] = home / "turned.tif"
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(home / "turned.tif", exif=exif)
    files["JPEG in Display P3, a pure green of it"] = home / "green.jpg"
    Image.new("RGB", (64, 48), (0, 200, 0)).save(home / "green.jpg", quality=95, icc_profile=display_p3())
    files["HEIC"] = home / "photo.heic"
    files["HEIC"].write_bytes(struct.pack(">I", 24) + b"ftypheic\0\0\0\0heicmif1" + bytes(200))
    return files


def file_questions(read, files):
    "Case -> function that reads a file; `read` gives an RGB image of PIL's."
    def look(file):
        pixels = np.asarray(read(file))
        colour = ", ".join(f"{value:.0f}" for value in pixels.reshape(-1, 3).mean(0))
        return f"read: {pixels.shape[1]} wide, {pixels.shape[0]} high, mean colour {colour}"

    return {case: lambda file=file: look(file) for case, file in files.items()}


def answer(question, home):
    "What comes of a question, in one line: an error, or what is taken, printed and warned of."
    printed = io.StringIO()
    with warnings.catch_warnings(record=True) as warned, contextlib.redirect_stdout(printed):
        warnings.simplefilter("always")
        try: said = question()
        except Exception as error: said = f"{type(error).__name__}: {error}"
        else:
            told = [" ".join(line.split()) for line in printed.getvalue().splitlines()]
            said = "; ".join([said, *(f"says “{line}”" for line in told if line),
                              *(f"warns “{warning.message}”" for warning in warned if warning.category is UserWarning)])
    for root in sorted({str(home), os.path.realpath(home)}, key=len, reverse=True):
        said = said.replace(f"{root}{os.sep}", "").replace(root, "…")
    return " ".join(said.split())


def main():
    import fastai.vision.all as fastai

    with tempfile.TemporaryDirectory() as home:
        home = Path(home)
        folders, tables, files = write_folders(home), write_tables(home), write_files(home / "files")
        questions = folder_questions(fastai, folders, False) | table_questions(fastai, tables) | file_questions(fastai.PILImage.create, files)
        found = {case: answer(question, home) for case, question in questions.items()}
    for case, said in found.items(): print(f"{case}\n    {said}")
    result = {"fastai": version("fastai"), "pillow": version("pillow"), "answers": found}
    (Path(__file__).parent / "results" / "odd_folders.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__": main()
