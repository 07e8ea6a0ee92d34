"""Ask a library what it says to data that is not clean.

    python nbs/scripts/bad_data.py      (with a Python that has fastai 2.8.12)

Writes fastai's answers to nbs/scripts/results/fastai_bad_data.json. nbs/04_datablock.ipynb asks petbook the same questions,
about the same files, with the functions below, and shows both answers side by side.
"""

import json
import os
import struct
import tempfile
import warnings
import zlib
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image


def drawing(width=90, height=60, shift=0):
    "A picture of slow colours; `shift` makes another one."
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([40 + 2 * x, 60 + 2 * y + 40 * shift, np.full_like(x, 120)], axis=-1).clip(0, 255).astype(np.uint8))


def write_files(folder):
    "Write odd files into a folder. Returns case -> file."
    folder.mkdir(parents=True, exist_ok=True)
    picture, files = drawing(), {}

    def odd(case, name, image=None, data=None, **how):
        files[case] = folder / name
        if image is not None: image.save(files[case], **how)
        elif data is not None: files[case].write_bytes(data)

    odd("an empty file", "empty.jpg", data=b"")
    odd("a file cut short", "whole.jpg", drawing(400, 300))
    odd("a file cut short", "cut.jpg", data=(folder / "whole.jpg").read_bytes()[:-1000])
    odd("not an image", "text.jpg", data=b"hello, I am not an image")
    odd("a missing file", "missing.jpg")
    claim = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)  # a header that claims 3.6 thousand million pixels
    odd("a decompression bomb", "bomb.png", data=b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + claim + struct.pack(">I", zlib.crc32(claim)) + struct.pack(">I", 0) + b"IDAT")
    odd("a GIF named .jpg", "gif.jpg", picture, format="GIF")
    odd("a PNG named .jpg", "png.jpg", picture, format="PNG")
    odd("an animated GIF", "moving.gif", picture, save_all=True, append_images=[picture.rotate(180)])
    odd("CMYK", "cmyk.jpg", picture.convert("CMYK"))
    odd("palette", "palette.png", picture.convert("P"))
    odd("16 bits, a ramp from black to white", "deep.png", Image.fromarray(np.tile(np.linspace(0, 65535, 256).astype(np.uint16), (64, 1))))
    clear = picture.convert("RGBA")
    clear.putalpha(0)
    odd("fully transparent", "clear.png", clear)
    turn = Image.Exif()
    turn[0x0112] = 6
    odd("taken upright (EXIF), 60 wide and 90 high", "turned.jpg", picture, exif=turn)
    odd("one pixel wide", "thin.png", picture.crop((0, 0, 1, 60)))
    return files


def write_folders(folder):
    "Write folders of pictures: clean ones, one odd name, an empty folder and one without images."
    for name in ("pets", "odd_name", "bare", "notes"): (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(10):
        for kind in ("Birman", "pug"): drawing(90 + 5 * number, 60, number % 3).save(folder / "pets" / f"{kind}_{number}.jpg")
    for name in ("Birman_1.jpg", "pug_1.jpg", "whatever.jpg"): drawing().save(folder / "odd_name" / name)
    (folder / "notes" / "list.csv").write_text("name,label\n")


def image_questions(read, files):
    "Case -> function that reads a file and says what came out; `read` gives an RGB image of PIL's."

    def look(file):
        pixels = np.asarray(read(file))
        return f"read: {pixels.shape[1]} wide, {pixels.shape[0]} high, mean value {pixels.mean():.0f}"

    return {case: lambda file=file: look(file) for case, file in files.items()}


def block_questions(lib, folder):
    "Case -> function that builds loaders; `lib` has the names that fastai and petbook share."
    label = lib.using_attr(lib.RegexLabeller(r"(.+)_\d+.jpg$"), "name")
    answers = dict(blocks=(lib.ImageBlock, lib.CategoryBlock), get_items=lib.get_image_files, get_y=label, item_tfms=lib.Resize(64))
    pets = folder / "pets"

    def loaders(source=pets, bs=4, splitter=lib.RandomSplitter(seed=1), **changes):
        extra = {"shufled": changes.pop("shufled")} if "shufled" in changes else {}
        return lib.DataBlock(splitter=splitter, **{**answers, **changes}).dataloaders(source, bs=bs, num_workers=0, **extra)

    def passed(dls): return f"accepted: {len(list(dls.train))} training batches, {len(list(dls.valid))} validation batches"

    where = lambda items, test: [place for place, item in enumerate(items) if test(item)]
    only_pugs_to_validate = lambda items: (where(items, lambda item: "pug" not in item.name), where(items, lambda item: "pug" in item.name))
    return {
        "an empty folder": lambda: passed(loaders(folder / "bare")),
        "a missing folder": lambda: passed(loaders(folder / "pest")),
        "no image among the files": lambda: passed(loaders(folder / "notes")),
        "a name that the labeller cannot read": lambda: passed(loaders(folder / "odd_name")),
        "no folder called train": lambda: passed(lib.ImageDataLoaders.from_folder(pets, item_tfms=lib.Resize(64), bs=4)),
        "one class": lambda: passed(loaders(get_y=lambda item: "pet")),
        "a class only in validation": lambda: passed(loaders(splitter=only_pugs_to_validate, get_y=lambda item: "dog" if "pug" in item.name else f"cat {int(item.stem[-1]) % 2}")),
        "nothing to validate on": lambda: passed(loaders(splitter=lib.RandomSplitter(0.0))),
        "an item on both sides": lambda: passed(loaders(splitter=lambda items: (list(range(20)), list(range(10, 20))))),
        "a position that is not there": lambda: passed(loaders(splitter=lib.IndexSplitter([-1]))),
        "a batch larger than the data": lambda: passed(loaders(bs=64)),
        "pictures of different sizes": lambda: passed(loaders(item_tfms=None)),
        "a misspelt argument": lambda: passed(loaders(shufled=True)),
    }


def answer(question, folder):
    "What comes of a question, in one line: an error, a warning, or what the function says."
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try: said = question()
        except Exception as error: said = f"{type(error).__name__}: {error}"
        else: said = "; ".join([said] + [f"warning: {warning.message}" for warning in warned if warning.category is UserWarning])
    return " ".join(said.replace(f"{folder}{os.sep}", "").replace(str(folder), "…").split())


def main():
    import fastai.vision.all as fastai

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        write_folders(folder)
        questions = image_questions(fastai.PILImage.create, write_files(folder / "odd")) | block_questions(fastai, folder)
        found = {case: answer(question, folder) for case, question in questions.items()}
    for case, said in found.items(): print(f"{case}\n    {said}")
    result = {"fastai": version("fastai"), "pillow": version("pillow"), "answers": found}
    (Path(__file__).parent / "results" / "fastai_bad_data.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__": main()
