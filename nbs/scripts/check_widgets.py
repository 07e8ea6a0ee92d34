"""Drive every widget of petbook in a real JupyterLab, in a headless browser.

    python nbs/scripts/check_widgets.py [--shots FOLDER] [--chromium PATH] [--no-voila]

Starts JupyterLab (and Voila, if installed) on this machine alone, with a temporary folder
and a random token, opens a notebook that it writes itself, runs it, and then does what a
person does: moves sliders by mouse and keyboard, clicks, chooses, uploads. Every step is
asserted on what the page shows or what happened on the disk, and waits until it holds.
Screenshots go to FOLDER (light and dark, wide and narrow); where a step fails, `failed.png`
shows the page. Needs the development packages `jupyterlab` and `playwright`, and a Chromium.
"""

import argparse
import csv
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import nbformat

SETUP = """
import numpy as np, torch
from pathlib import Path
from torch.nn.functional import one_hot
from petbook.all import *

folder = Path("pets").absolute()
folder.mkdir(exist_ok=True)
drawn = ["Birman", "Ragdoll", "Siamese", "beagle", "pug", "samoyed"]
breeds = [*drawn[:5], "<img src=x onerror=alert(1)>"]
items = [folder / f"{breed}_{number}.jpg" for breed in drawn for number in range(1, 13)]
for item in items:
    breed, number = item.stem.split("_")
    draw_pet(breed, int(number), size=300).save(item)

targets = torch.arange(6).repeat_interleave(12)
logits = torch.randn(72, 6, generator=random_stream("check")) + 2.3 * one_hot(targets, 6)
logits[:, 0] += 6 * (targets == 1) * torch.rand(72, generator=random_stream("mix"))
interp = ClassificationInterpretation(logits.softmax(1), targets, items=items, vocab=breeds)

many = 37
big_targets = torch.randint(many, (600,), generator=random_stream("big"))
big = torch.randn(600, many, generator=random_stream("big logits"))
big += 3.4 * one_hot(big_targets, many)
wide = ClassificationInterpretation(
    big.softmax(1), big_targets, items=[items[n % 72] for n in range(600)],
    vocab=[f"a rather long breed name {n}" for n in range(many)])

lrs = np.geomspace(1e-7, 10, 100)
losses = 3.6 - 2.2 / (1 + 1e-3 / lrs) + 3 * (lrs / 0.6) ** 1.5
losses += torch.randn(100, generator=random_stream("noise")).numpy() * 0.12

class ColourReader:
    vocab = breeds
    def predict(self, image):
        mean = torch.from_numpy(np.array(image)).float().mean((0, 1))
        p = torch.softmax(torch.cat([mean, 255 - mean]) / 40, 0)
        return self.vocab[int(p.argmax())], int(p.argmax()), p
"""

CELLS = {
    "setup": SETUP,
    "softmax": """
names = ["Ragdoll", "Birman", "<b>Siamese</b>"]
SoftmaxExplorer(logits=[2.0, 1.0, -1.0], names=names, target=1)
""",
    "augmentation": 'AugmentationExplorer(items[40], max_rotate=30, min_scale=0.5)',
    "learning_rate": "LearningRateExplorer(LRFind(lrs.tolist(), losses.tolist(), 100))",
    "confusion": "ConfusionExplorer(interp)",
    "wide": "ConfusionExplorer(wide)",
    "cleaner": "cleaner = ImageClassifierCleaner(interp)\ncleaner",
    "upload": "upload_and_classify(ColourReader())",
    "done": 'print("all cells " + "have run")',
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def find_chromium(given: str | None) -> str | None:
    "The browser given, one that is installed and starts, or None for playwright's own."
    if given or os.environ.get("CHROMIUM"): return given or os.environ["CHROMIUM"]
    names = ("chromium", "chromium-browser", "google-chrome")
    for found in filter(None, map(shutil.which, names)):
        # a stand-in of that name only says how to install the real one
        tried = subprocess.run([found, "--version"], capture_output=True)
        if tried.returncode == 0: return found
    return None


@contextmanager
def server(command: list[str], url: str, folder: Path, environment: dict):
    "Run a server until the block ends; wait until it answers."
    file = folder / "server.log"
    with open(file, "ab") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log,
                                   stderr=subprocess.STDOUT)
    try:
        for _ in range(480):
            if process.poll() is not None:
                raise SystemExit("the server did not start:\n" + file.read_text()[-3000:])
            try:
                urllib.request.urlopen(url, timeout=2)
                break
            except urllib.error.HTTPError: break  # it answers
            except OSError: time.sleep(0.5)
        else: raise SystemExit("the server does not answer:\n" + file.read_text()[-3000:])
        yield
    finally:
        process.terminate()
        try: process.wait(20)
        except subprocess.TimeoutExpired: process.kill()


def write_notebook(file: Path) -> None:
    cells = [nbformat.v4.new_code_cell(source.strip()) for source in CELLS.values()]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = {"display_name": "python3", "language": "python",
                                       "name": "python3"}
    nbformat.write(notebook, file)


class Failed(Exception):
    "A step that did not come true."


class Page:
    "A notebook in the browser, and a few short ways to act on it."

    def __init__(self, page, shots: Path):
        self.page, self.shots, self.steps, self.alerts = page, shots, 0, []
        page.set_default_timeout(60_000)
        page.on("dialog", self.note_alert)

    def note_alert(self, dialog) -> None:
        self.alerts.append(dialog.message)
        dialog.dismiss()

    def output(self, name: str):
        "What a cell of the notebook shows."
        cell = self.page.locator(".jp-Notebook .jp-Cell").nth(list(CELLS).index(name))
        return cell.locator(".jp-Cell-outputArea")

    def shot(self, name: str, locator=None) -> None:
        "A screenshot of the page, or of one part of it, once its pictures are there."
        usual = self.page.viewport_size
        if locator:
            # JupyterLab scrolls inside the window, so the window must hold the whole part
            height = int(locator.bounding_box()["height"]) + 250
            self.page.set_viewport_size(usual | {"height": max(usual["height"], height)})
            locator.scroll_into_view_if_needed()
        self.page.wait_for_function("[...document.images].every(image => image.complete)")
        (locator or self.page).screenshot(path=str(self.shots / f"{name}.png"))
        self.page.set_viewport_size(usual)

    def check(self, what: str, test, seconds: float = 60) -> None:
        "Wait until `test()` holds; say so, or fail with the words."
        from playwright.sync_api import Error

        end = time.monotonic() + seconds
        while True:
            try: held = test()
            # a part of the page that is not there, or is being replaced
            except (Error, TypeError, IndexError): held = False
            if held: break
            if time.monotonic() > end: raise Failed(f"{what} (not so after {seconds:.0f} s)")
            self.page.wait_for_timeout(100)
        self.steps += 1
        print(f"  ok  {what}", flush=True)


@contextmanager
def reported(page: Page):
    "Whatever goes wrong in the block ends the run with its words and a picture of the page."
    from playwright.sync_api import Error

    try: yield
    except (Failed, Error) as problem:
        try: page.page.screenshot(path=str(page.shots / "failed.png"), timeout=10_000)
        except Error: pass  # the browser itself has gone
        picture = page.shots / "failed.png"
        raise SystemExit(f"FAILED: {problem}\nthe page at that moment: {picture}") from None


def run_all(page: Page) -> None:
    """Run the notebook. JupyterLab drops the command while the kernel is still starting, so
    wait for it, and look whether it took."""
    idle = page.page.get_by_text(re.compile(r"\| Idle"))
    page.check("the kernel is ready", lambda: idle.count() > 0, 240)
    prompt = page.page.locator(".jp-Notebook .jp-Cell .jp-InputPrompt").first
    for _ in range(6):
        page.page.get_by_role("menuitem", name="Run", exact=True).click()
        page.page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        try:  # the prompt is [*]: or [1]: then
            return page.check("the cells are running",
                              lambda: prompt.inner_text().strip(" []:"), 20)
        except Failed: continue
    raise Failed("JupyterLab does not run the cells")


def check_softmax(page: Page) -> None:
    area = page.output("softmax")
    area.locator(".widget-slider, .jupyter-widget-slider").first.wait_for()
    table = area.locator("table")
    page.check("softmax: class names are shown as text",
               lambda: "<b>Siamese</b>" in table.inner_text())
    page.check("softmax: logits and the right class have their names",
               lambda: all(word in area.inner_text() for word in ("logits", "right class")))
    page.check("softmax: the loss is shown", lambda: "loss 1.349" in area.inner_text())
    page.shot("softmax", area)
    handle = area.locator(".noUi-handle").nth(1)
    handle.focus()
    for _ in range(10): page.page.keyboard.press("ArrowRight")
    page.check("softmax: ten steps by keyboard raise the logit by 1, and the loss falls",
               lambda: "loss 0.718" in area.inner_text())
    box = handle.bounding_box()
    page.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.page.mouse.down()
    page.page.mouse.move(box["x"] - 60, box["y"] + 5, steps=6)
    page.page.mouse.up()

    def loss(): return float(re.search(r"loss ([\d.]+)", area.inner_text())[1])

    page.check("softmax: the mouse drags a slider, and the loss rises", lambda: loss() > 1.5)
    area.locator("select").select_option(label="Ragdoll")
    page.check("softmax: another right class", lambda: "Ragdoll (right)" in table.inner_text())
    page.shot("softmax_moved", area)


def check_augmentation(page: Page) -> None:
    area = page.output("augmentation")
    images = area.locator("img")
    images.first.wait_for()
    page.check("augmentation: eight images", lambda: images.count() == 8)
    call = area.locator('input[type="text"]').last
    expected = "aug_transforms(max_rotate=30, size=224, min_scale=0.5)"
    page.check("augmentation: the call is shown", lambda: call.input_value() == expected)
    page.shot("augmentation", area)
    before = images.nth(1).get_attribute("src")
    area.get_by_role("button", name="draw again").click()
    page.check("augmentation: other draws",
               lambda: images.nth(1).get_attribute("src") != before)
    area.locator(".noUi-handle").nth(1).focus()  # max_rotate
    for _ in range(5): page.page.keyboard.press("ArrowRight")
    page.check("augmentation: a slider by keyboard changes the call",
               lambda: "max_rotate=35," in call.input_value())
    area.locator('input[type="checkbox"]').first.click()
    page.check("augmentation: a box changes the call",
               lambda: "do_flip=False" in call.input_value())
    area.locator("select").nth(1).select_option("zeros")
    page.check("augmentation: a choice changes the call",
               lambda: "pad_mode='zeros'" in call.input_value())
    page.shot("augmentation_moved", area)


def check_learning_rate(page: Page) -> None:
    area = page.output("learning_rate")
    area.locator("img").first.wait_for()
    page.check("learning rate: its slider has its whole name",
               lambda: area.get_by_text("learning rate", exact=True).is_visible())
    page.shot("learning_rate", area)
    steep = area.get_by_role("button", name=re.compile("steep"))
    reading = steep.inner_text().split()[1]
    steep.click()
    page.check("learning rate: pressing a reading chooses it",
               lambda: f"base_lr={reading}" in area.locator("code").inner_text())
    before = area.locator("img").get_attribute("src")
    valley = area.get_by_role("button", name=re.compile("valley"))
    read = valley.inner_text()
    area.locator(".noUi-handle").first.focus()
    for _ in range(10): page.page.keyboard.press("ArrowLeft")
    page.check("learning rate: less smoothing draws another curve",
               lambda: area.locator("img").get_attribute("src") != before)
    page.check("learning rate: and gives other readings", lambda: valley.inner_text() != read)
    page.shot("learning_rate_moved", area)


def check_confusion(page: Page) -> None:
    area = page.output("confusion")
    area.locator("img").first.wait_for()
    page.check("confusion: the worst cell is shown first",
               lambda: "Ragdoll, taken for Birman" in area.inner_text())
    page.check("confusion: no name became markup",
               lambda: area.locator("img[src=x]").count() == 0)
    cells = area.locator("button[title]")

    def top(part): return part.first.bounding_box()["y"]

    page.check("confusion: drop-downs, then the images, then the matrix",
               lambda: top(area.locator("select")) < top(area.locator("img")) < top(cells))
    page.shot("confusion", area)
    area.locator('button[title^="beagle taken for beagle"]').first.click()
    page.check("confusion: a click shows that cell",
               lambda: "beagle, rightly recognised" in area.inner_text())
    cells.nth(0).focus()
    page.page.keyboard.press("Enter")
    page.check("confusion: Enter on a cell shows it", lambda: "Birman, " in area.inner_text())
    area.locator("select").nth(0).select_option(label="Ragdoll")
    area.locator("select").nth(1).select_option(label="Ragdoll")
    page.check("confusion: the drop-downs do the same",
               lambda: "Ragdoll, rightly recognised" in area.inner_text())
    page.shot("confusion_clicked", area)
    wide = page.output("wide")
    wide.locator("button").first.wait_for()
    page.check("confusion: 37 classes are drawn with a button per filled cell",
               lambda: 37 < wide.locator("button").count() < 500)
    page.shot("confusion_wide", wide)
    lowest = wide.locator("button[title]").last
    lowest.scroll_into_view_if_needed()
    lowest.click()

    def in_sight(part):
        box = part.bounding_box()
        return box and 0 <= box["y"] and box["y"] + box["height"] <= 900

    page.check("confusion: what the lowest of 37 rows shows stands in sight of the clicked cell",
               lambda: in_sight(lowest) and in_sight(wide.locator("img").first))
    page.shot("confusion_wide_clicked")


class Cleaner:
    "The parts of the cleaner's page."

    filters = 3  # drop-downs before those of the images

    def __init__(self, page: Page, folder: Path):
        self.page, self.area = page, page.output("cleaner")
        self.menus, self.images = self.area.locator("select"), folder / "pets"

    def holds(self, words: str, test, seconds: float = 60) -> None:
        self.page.check(f"cleaner: {words}", test, seconds)

    def says(self, text: str): return lambda: text in self.area.inner_text()

    def card(self, number: int):
        cards = self.area.locator(".widget-html-content").filter(has_text=".jpg")
        return cards.nth(number)

    def chosen(self, number: int) -> str:
        "What a drop-down shows."
        text = self.menus.nth(number).evaluate("menu => menu.selectedOptions[0].text")
        return text.replace("\xa0", " ")

    def press(self, name: str) -> None: self.area.get_by_role("button", name=name).click()


def check_choosing(cleaner: Cleaner) -> None:
    "Choose by keyboard and by mouse, and look at other images in between."
    menus, filters, first = cleaner.menus, cleaner.filters, cleaner.filters
    menus.nth(first).focus()
    # JupyterLab keeps arrows and letters for its own commands until the menu is open
    for key in ("Space", "ArrowDown", "Enter"): cleaner.page.page.keyboard.press(key)
    cleaner.holds("a choice by keyboard is counted",
                  cleaner.says("1 to remove, 0 to relabel"))
    options = menus.nth(first + 1).locator("option").all_text_contents()
    options = [text.replace("\xa0", " ") for text in options]
    label = next(text for text in options if text in ("label: pug", "label: beagle"))
    menus.nth(first + 1).select_option(index=options.index(label))
    cleaner.holds("the choices are counted", cleaner.says("1 to remove, 1 to relabel"))
    cleaner.page.shot("cleaner_chosen", cleaner.area)
    menus.nth(0).select_option(label="pug")
    cleaner.holds("another class", cleaner.says("of 12"))
    menus.nth(0).select_option(label="all classes")
    cleaner.holds("the choices have survived the switching",
                  lambda: cleaner.chosen(filters) == "remove")
    cleaner.holds("the menu says which classes are shown",
                  lambda: cleaner.chosen(0) == "all classes")
    menus.nth(2).select_option(label="likely label error")
    cleaner.holds("ordered by likely label error, the suggestion on the first card",
                  lambda: re.search(r"likely label \w", cleaner.card(0).inner_text()))
    menus.nth(2).select_option(label="highest loss")


def check_applying(cleaner: Cleaner, removed: str, relabelled: str) -> None:
    "Apply, undo, and compare the disk and the log."
    images = cleaner.images

    def there(name): return (images / name).exists()

    cleaner.press("apply choices")
    cleaner.holds("applied", cleaner.says("done: 2 files moved. The log is "))
    cleaner.holds("the removed file lies in .removed",
                  lambda: there(f".removed/{removed}") and not there(removed))
    cleaner.holds("the relabelled file has another name",
                  lambda: not there(relabelled) and len(list(images.glob("*.jpg"))) == 71)
    cleaner.page.shot("cleaner_applied", cleaner.area)
    cleaner.press("undo")
    cleaner.holds("undone", cleaner.says("undone: 2 files moved"))
    cleaner.holds("both files are where they were",
                  lambda: there(removed) and there(relabelled))
    with open(images / ".removed" / "changes.csv", newline="", encoding="utf-8") as stream:
        actions = sorted(row["action"] for row in csv.DictReader(stream))
    cleaner.holds("every change is in the log",
                  lambda: actions == ["relabel", "remove", "undo"], 1)


def check_cleaner(page: Page, folder: Path) -> None:
    cleaner = Cleaner(page, folder)
    area = cleaner.area
    area.locator("img").first.wait_for()
    cleaner.holds("twelve images", lambda: area.locator("figure, img").count() == 12)
    cleaner.holds("label, answer and loss on a card",
                  lambda: re.search(r"labelled .*the model answers .*, loss \d",
                                    cleaner.card(0).inner_text(), re.DOTALL))
    cleaner.holds("'likely label' is explained beside 'the model answers'",
                  lambda: "\"Likely label\": it is as" in area.inner_text())
    cleaner.holds("names are shown as text",
                  lambda: area.locator("img[src=x]").count() == 0)
    page.shot("cleaner", area)
    names = [re.search(r"\S+\.jpg", cleaner.card(number).inner_text())[0]
             for number in (0, 1)]
    check_choosing(cleaner)
    check_applying(cleaner, *names)
    cleaner.press("next page")
    cleaner.holds("the next page", cleaner.says("13 to 24 of 72"))
    for number in (1, 2): cleaner.press("previous page")
    cleaner.holds("no page before the first", cleaner.says("1 to 12 of 72"))


def check_upload(page: Page, area, folder: Path, shot: str) -> None:
    area.locator("button").first.wait_for()
    photograph = next((folder / "pets").glob("*.jpg")).read_bytes()
    nasty = "<img src=x onerror=alert(2)>.jpg"
    files = [{"name": nasty, "mimeType": "image/jpeg", "buffer": photograph},
             {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"Buy dog food"}]
    with page.page.expect_file_chooser() as chooser: area.locator("button").first.click()
    chooser.value.set_files(files)
    page.check("upload: an answer with probabilities",
               lambda: area.locator("table tr").count() >= 3, 40)
    page.check("upload: the file's name is shown as text",
               lambda: nasty in area.inner_text() and not area.locator("img[src=x]").count())
    page.check("upload: what is no photograph is answered in words",
               lambda: "notes.txt" in area.inner_text())
    page.shot(shot, area)


# the parts of a widget that reach over its right edge and stand in nothing that scrolls
CUT_OFF = """box => {
    const right = box.getBoundingClientRect().right + 1
    const scrolls = part => part !== box && !part.matches('.jp-OutputArea-output')
        && ['auto', 'scroll'].includes(getComputedStyle(part).overflowX)
    const held = part => part !== box && (scrolls(part) || held(part.parentElement))
    return [...box.querySelectorAll('table, img, input, select, button, p')].filter(
        part => part.getBoundingClientRect().right > right && !held(part)).length
}"""


def check_looks(page: Page) -> None:
    "Take every widget in a narrow window and in the dark theme."
    names = [name for name in CELLS if name not in ("setup", "done")]

    page.page.set_viewport_size({"width": 560, "height": 900})
    for name in names:
        area = page.output(name)
        page.check(f"narrow window: {name} fits into it, or can be scrolled",
                   lambda: not area.evaluate(CUT_OFF), 10)
        page.shot(f"narrow_{name}", page.output(name))
    dark = "window.jupyterapp.commands.execute('apputils:change-theme', {theme: '%s'})"
    page.page.evaluate(dark % "JupyterLab Dark")
    page.check("dark theme: it is on",
               lambda: page.page.evaluate("document.body.dataset.jpThemeLight") == "false"
               and not page.page.locator("#jupyterlab-splash").count())
    page.check("dark theme: the plot is dark", lambda: "invert" in page.output(
        "learning_rate").locator("img").first.evaluate("one => getComputedStyle(one).filter"))
    page.shot("narrow_dark_confusion", page.output("confusion"))
    page.page.set_viewport_size({"width": 1280, "height": 900})
    for name in names: page.shot(f"dark_{name}", page.output(name))


def check_voila(browser, folder: Path, shots: Path, environment: dict) -> int:
    "The page for others: served by Voila, without any code in sight."
    app = Path(__file__).parent.parent / "tutorials" / "app.ipynb"
    shutil.copy(app, folder / "app.ipynb")
    port = free_port()
    command = [sys.executable, "-m", "voila", "app.ipynb", "--no-browser", f"--port={port}",
               "--Voila.ip=127.0.0.1", "--show_tracebacks=True"]
    with server(command, f"http://127.0.0.1:{port}/static/", folder, environment):
        context = browser.new_context(viewport={"width": 1000, "height": 900})
        page = Page(context.new_page(), shots)
        with reported(page):
            page.page.goto(f"http://127.0.0.1:{port}/", timeout=240_000)
            body = page.page.locator("body")
            button = page.page.get_by_role("button", name=re.compile("choose photographs"))
            page.check("voila: the button is there", lambda: button.count() == 1, 240)
            page.check("voila: no code in sight",
                       lambda: "load_learner" not in body.inner_text(), 3)
            page.shot("voila")
            check_upload(page, body, folder, "voila_answered")
            page.check("voila: no script of a name has run", lambda: not page.alerts, 1)
    return page.steps


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shots", type=Path, default=None,
                        help="folder for screenshots (a temporary one if left out)")
    parser.add_argument("--chromium", default=None,
                        help="the browser's program (found by itself if left out)")
    parser.add_argument("--no-voila", action="store_true",
                        help="leave out the page for others")
    return parser.parse_args()


def quiet_settings(folder: Path) -> dict[str, str]:
    "An environment with nothing of the person's own settings, kernels and startup files."
    settings = {"notebook-extension/tracker": '{"windowingMode": "none"}',
                "apputils-extension/notification": '{"fetchNews": "false"}'}
    for name, setting in settings.items():
        file = folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(setting)
    places = {"JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTER_CONFIG_DIR": "config",
              "JUPYTER_RUNTIME_DIR": "runtime", "JUPYTER_DATA_DIR": "data",
              "IPYTHONDIR": "ipython"}
    own = {name: str(folder / place) for name, place in places.items()}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | own | {"JUPYTER_PREFER_ENV_PATH": "1", "PATH": path}


def check_lab(browser, url: str, folder: Path, shots: Path) -> int:
    "All widgets in JupyterLab."
    page = Page(browser.new_context(viewport={"width": 1280, "height": 900}).new_page(), shots)
    with reported(page):
        page.page.goto(url, timeout=240_000)
        last = page.page.locator(".jp-Notebook .jp-Cell").nth(len(CELLS) - 1)
        last.wait_for(state="attached", timeout=240_000)
        run_all(page)
        failure = page.page.locator(".jp-Notebook .jp-RenderedText")
        failure = failure.filter(has_text="Traceback (most recent call last)")
        done = page.output("done")
        page.check("all cells have run",
                   lambda: failure.count() or "all cells have run" in done.inner_text(), 600)
        if failure.count():
            raise Failed("a cell of the notebook\n" + failure.first.inner_text())
        check_softmax(page)
        check_augmentation(page)
        check_learning_rate(page)
        check_confusion(page)
        check_cleaner(page, folder)
        check_upload(page, page.output("upload"), folder, "upload")
        check_looks(page)
        page.check("no script of a name has run", lambda: not page.alerts, 1)
    return page.steps


def check_all(given: argparse.Namespace, folder: Path, shots: Path) -> None:
    "Start the servers and the browser, and check everything."
    from playwright.sync_api import sync_playwright

    write_notebook(folder / "check.ipynb")
    environment = quiet_settings(folder)
    token, port, begin = secrets.token_hex(16), free_port(), time.time()
    base = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1",
               f"--ServerApp.port={port}", "--ServerApp.port_retries=0",
               f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}",
               "--ServerApp.allow_root=True", "--LabApp.news_url=None",
               "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
               "--LabApp.expose_app_in_browser=True"]
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    lab = server(command, f"{base}/api?token={token}", folder, environment)
    with lab, sync_playwright() as play:
        browser = play.chromium.launch(executable_path=find_chromium(given.chromium),
                                       args=arguments)
        url = f"{base}/doc/tree/check.ipynb?token={token}"
        steps = check_lab(browser, url, folder, shots)
        if given.no_voila or not find_spec("voila"):
            print("  --  the page for others was not tried (no Voila, or --no-voila)")
        else: steps += check_voila(browser, folder, shots, environment)
        browser.close()
    print(f"{steps} steps passed in {time.time() - begin:.0f} s; screenshots in {shots}")


def main() -> None:
    given = read_arguments()
    folder = Path(tempfile.mkdtemp(prefix="petbook_widgets_"))
    shots = (given.shots or folder / "shots").absolute()
    shots.mkdir(parents=True, exist_ok=True)
    try: check_all(given, folder, shots)
    finally:
        if (folder / "server.log").exists(): shutil.copy(folder / "server.log", shots)
        if given.shots: shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__": main()
