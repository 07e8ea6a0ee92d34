"""Drive the page that classifies in a headless browser, and compare its answers with petbook's.

    python nbs/scripts/check_web.py [PHOTOGRAPHS] [--count 40] [--shots FOLDER] [--chromium PATH]

Without a folder, pets are drawn and petnet gets a linear probe: a check of a minute. With a
folder of photographs, named like Oxford-IIIT Pet's (beagle_12.jpg), EfficientNet-Lite0 gets the
probe, the page is made with the graph in 32 and in 8 bits, and what was found is written to
results/web.json, beside it how many of all the photographs the page decodes to the very pixels
that petbook sees. The browser is offline and opens the page as a file, as a person would; images
are chosen, dropped, pasted, and reached by the keyboard. Needs the extra `onnx`, playwright, a
Chromium, and, the first time, a network connection for the page's programs.
"""
import argparse
import base64
import json
import shutil
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

from check_onnx import trained
from check_widgets import find_chromium
from petbook.all import (
    ImageDataLoaders, Resize, aug_transforms, draw_pet, get_image_files, load_learner, petnet,
    vision_learner)
from petbook.cli.exporting import steps_of
from petbook.cli.run_folders import Answered
from petbook.core import DownloadError
from petbook.images.opening import open_image
from petbook.inference.onnx import onnx_graph
from petbook.inference.web import PROGRAMS, fetch_programs, write_web_page


def drawn_model(folder):
    "A model file, its validation images, and more images: odd ones, too."
    (folder / "pets").mkdir()
    for breed in ("Birman", "Ragdoll", "Siamese", "beagle", "pug", "samoyed"):
        for number in range(1, 9):
            draw_pet(breed, number, size=240).save(folder / "pets" / f"{breed}_{number}.jpg")
    files = sorted((folder / "pets").iterdir())
    dls = ImageDataLoaders.from_name_re(folder / "pets", files, r"(.+)_\d+.jpg$", seed=42, bs=16,
                                        item_tfms=Resize(128), num_workers=0,
                                        batch_tfms=aug_transforms(size=96, min_scale=0.75))
    learn = vision_learner(dls, petnet, precision="fp32")
    learn.linear_probe(penalties=[0.03])
    model = learn.export(folder / "model.safetensors")
    image, odd = Image.open(files[3]).convert("RGB"), folder / "odd"
    odd.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    image.rotate(90, expand=True).save(odd / "lying.jpg", quality=95, exif=exif)
    image.convert("L").save(odd / "grey.png")
    for turn in range(1, 9):
        exif[0x0112] = turn
        image.resize((90, 60)).save(odd / f"turn_{turn}.jpg", exif=exif)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = srgb.replace(b"rXYZ", b"----").replace(b"gXYZ", b"rXYZ").replace(b"----", b"gXYZ")
    for name, profile in {"same": srgb, "swapped": swapped, "broken": swapped[:90]}.items():
        image.save(odd / f"profile_{name}.jpg", icc_profile=profile)
        image.convert("L").save(odd / f"grey_{name}.jpg", icc_profile=profile)
    for number, subsampling in enumerate(("4:4:4", "4:2:2", "4:2:0")):
        image.resize((101, 77)).save(odd / f"odd_{number}.jpg", subsampling=subsampling,
                                     progressive=number > 0)
    cut_out = image.copy()
    cut_out.putalpha(Image.linear_gradient("L").resize(image.size))
    cut_out.save(odd / "half_transparent.png")
    image.resize((31, 900)).save(odd / "tall.webp", lossless=True)
    image.resize((1, 1)).save(odd / "one_pixel.png")
    return model, list(dls.valid.dataset.items), [*sorted(odd.iterdir()), *files[::5]]


class Tried:
    "The page in the browser."

    def __init__(self, browser, page_file, dark=False):
        self.context = browser.new_context(viewport={"width": 390, "height": 844}, offline=True,
                                           color_scheme="dark" if dark else "light")
        self.page, self.asked, self.said = self.context.new_page(), [], []
        self.page.on("request", self.note_request)
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.goto(page_file.resolve().as_uri())
        self.wait("document.getElementById('state').textContent != 'Loading …'", "it starts")
        assert self.state() == "Ready.", self.state()

    def note_request(self, request):
        if request.url.split(":")[0] not in ("file", "blob", "data"): self.asked.append(request.url)

    def state(self): return self.page.inner_text("#state")

    def wait(self, condition, what, seconds=120):
        "Wait until an expression of JavaScript holds; the page forbids playwright's own way."
        end = time.monotonic() + seconds
        while not self.page.evaluate(condition):
            if time.monotonic() > end:
                raise SystemExit(f"FAILED: {what} (not so after {seconds} s); the page says "
                                 f"{self.state()!r}, the console {self.said}")
            time.sleep(0.02)

    @contextmanager
    def answering(self, found):
        "What is done in the block makes the page answer; the probabilities come into `found`."
        self.page.evaluate("window.petbookAnswer = null")
        yield
        self.wait("window.petbookAnswer && document.getElementById('state').textContent == ''",
                  "an answer")
        found[:] = self.page.evaluate("window.petbookAnswer")

    def choose(self, file):
        found = []
        with self.answering(found): self.page.set_input_files("#file", str(file))
        return found

    def hand_over(self, file, event):
        "Drop or paste a file."
        found, content = [], base64.b64encode(file.read_bytes()).decode()
        make = """([text, name, event]) => {
            const data = new DataTransfer()
            const bytes = Uint8Array.from(atob(text), sign => sign.charCodeAt(0))
            data.items.add(new File([bytes], name))
            const options = {bubbles: true, cancelable: true, dataTransfer: data,
                             clipboardData: data}
            document.getElementById('drop').dispatchEvent(event == 'drop'
                ? new DragEvent(event, options) : new ClipboardEvent(event, options))
        }"""
        with self.answering(found): self.page.evaluate(make, [content, file.name, event])
        return found

    def by_keyboard(self, file):
        "Reach the button by Tab and open it by Space."
        found = []
        self.page.evaluate("document.activeElement.blur()")
        self.page.keyboard.press("Tab")
        with self.answering(found):
            with self.page.expect_file_chooser() as chooser: self.page.keyboard.press("Space")
            chooser.value.set_files(str(file))
        return found

    def decoded(self, file):
        "The pixels that the page would hand to the network: uint8 (H, W, 3)."
        height, width, text = self.page.evaluate("""async text => {
            const bytes = Uint8Array.from(atob(text), sign => sign.charCodeAt(0))
            const {rgb, height, width} = await pixels(new Blob([bytes]))
            let signs = ''
            for (let from = 0; from < rgb.length; from += 32768)
                signs += String.fromCharCode(...rgb.subarray(from, from + 32768))
            return [height, width, btoa(signs)]
        }""", base64.b64encode(file.read_bytes()).decode())
        return np.frombuffer(base64.b64decode(text), np.uint8).reshape(height, width, 3)

    def refuses(self, file, words):
        "What the page says of a file that it cannot take."
        self.page.set_input_files("#file", str(file))
        self.wait(f"document.getElementById('state').textContent.includes({json.dumps(words)})",
                  f"{words!r} about {file.name}")
        assert not self.page.is_visible("#shown") and not self.page.inner_text("#answers")
        return self.state()


def compare_pixels(tried, files):
    "By how much the browser's pixels differ from petbook's."
    off = [np.abs(tried.decoded(file).astype(int) - np.asarray(open_image(file))) for file in files]
    for file, levels in zip(files, off):
        if levels.any(): print(f"  {file.name}: up to {levels.max()} levels off")
    return {"images": len(files), "identical": sum(not levels.any() for levels in off),
            "largest_level": int(max(levels.max() for levels in off))}


def compare(tried, predictor, files):
    "Choose each file; count the same answers, and find the largest difference."
    same, largest, seconds = 0, 0.0, []
    for file in files:
        started = time.monotonic()
        found, wanted = tried.choose(file), predictor.predict(file)
        seconds.append(time.monotonic() - started)
        likely = max(range(len(found)), key=found.__getitem__)
        first = tried.page.inner_text("#answers li:first-child span")
        assert first == predictor.vocab[likely], (file, first)
        same += likely == wanted.index
        off = max(abs(one - float(two)) for one, two in zip(found, wanted.probabilities))
        largest = max(largest, off)
        if likely != wanted.index or off > 0.02: print(f"  {file.name}: off by {off:.3f}")
    return {"images": len(files), "same": same, "largest": largest,
            "seconds": sorted(seconds)[len(files) // 2]}


def check_ways(tried, files, note, shots, name):
    "The other ways in give the same; what is no image is answered in words; nothing is sent."
    file = files[-1]
    wanted = tried.choose(file)
    for way, found in (("dropped", tried.hand_over(file, "drop")),
                       ("pasted", tried.hand_over(file, "paste")),
                       ("by keyboard", tried.by_keyboard(file))):
        assert found == wanted, (way, found)
        print(f"  ok  {way}: the same answer as chosen")
    assert tried.page.inner_text("#worth").startswith("Of "), "what its certainty is worth"
    width = tried.page.evaluate("document.documentElement.scrollWidth")
    assert width <= 390, f"wider than a phone: {width}"
    tried.page.screenshot(path=str(shots / f"{name}.png"), full_page=True)
    half = note.with_name("half.jpg")
    photograph = next(each for each in files if each.suffix == ".jpg").read_bytes()
    half.write_bytes(photograph[: len(photograph) * 2 // 3])
    print(f"  ok  no image: {tried.refuses(note, 'is not an image')}")
    print(f"  ok  half a photograph: {tried.refuses(half, 'is cut short')}")
    assert not tried.asked, f"the page asked {tried.asked}"
    assert not tried.said, f"the console holds {tried.said}"
    print("  ok  no other host was asked, no error in the console")


def check(args, folder, browser, programs):
    "Make the pages, try them, and give what was found of the pixels, and a row for each page."
    if args.photographs:
        model, kept_out = trained(args.photographs, folder / "model.safetensors")
        every = sorted(get_image_files(args.photographs))
        files = every[:: max(len(every) // args.count, 1)][: args.count]
    else:
        model, kept_out, files = drawn_model(folder)
        every = files
    predictor, rows, pixels = load_learner(model, device="cpu", precision="fp32"), [], None
    answered = [Answered(Path(file).stem.rpartition("_")[0], answer.label,
                         float(answer.probabilities.max()))
                for file, answer in zip(kept_out, map(predictor.predict, kept_out))]
    note = folder / "note.txt"
    note.write_text("Buy dog food")
    for name, int8 in [("32 bits", False), ("8 bits", True)][: 2 if args.photographs else 1]:
        graph = onnx_graph(predictor, kept_out, int8)
        page = write_web_page(folder / name, graph.content, predictor.vocab,
                              steps=steps_of(answered), programs=programs)
        tried = Tried(browser, page, dark=int8)
        if not pixels:
            pixels = compare_pixels(tried, every)
            print(f"  pixels {pixels}")
        rows.append({"graph": name} | compare(tried, predictor, files))
        print(rows[-1], flush=True)
        check_ways(tried, files, note, args.shots or folder, name.split()[0])
    return pixels, rows


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", type=Path, nargs="?")
    parser.add_argument("--count", type=int, default=40, help="how many photographs")
    parser.add_argument("--shots", type=Path, help="folder for screenshots")
    parser.add_argument("--chromium", help="the browser's program (found if left out)")
    args = parser.parse_args()
    if args.photographs and not args.photographs.is_dir():
        raise SystemExit(f"not run: there is no folder {args.photographs}")
    try: programs = fetch_programs()
    except DownloadError as error: return print(f"not tried: {error}")
    if args.shots: args.shots.mkdir(parents=True, exist_ok=True)
    from playwright.sync_api import sync_playwright

    folder = Path(tempfile.mkdtemp(prefix="petbook_web_"))
    try:
        with sync_playwright() as play:
            browser = play.chromium.launch(executable_path=find_chromium(args.chromium),
                                           args=["--no-sandbox", "--disable-dev-shm-usage"])
            (pixels, rows), version = check(args, folder, browser, programs), browser.version
            browser.close()
    finally: shutil.rmtree(folder, ignore_errors=True)
    if args.photographs:
        kept = {"rows": rows, "pixels": pixels,
                "network": "efficientnet_lite0 with a linear probe",
                "browser": f"Chromium {version}, headless",
                "programs": [f"{package.name} {package.version}" for package in PROGRAMS]}
        results = Path(__file__).with_name("results") / "web.json"
        results.write_text(json.dumps(kept, indent=1) + "\n")
    wrong = [row for row in rows if row["graph"] == "32 bits" and (
        row["same"] < row["images"] or row["largest"] > 1e-4)]
    if wrong: raise SystemExit(f"FAILED: the page answers otherwise than petbook: {wrong}")
    if pixels["identical"] < pixels["images"]:
        raise SystemExit(f"FAILED: the page decodes otherwise than petbook: {pixels}")


if __name__ == "__main__": main()
