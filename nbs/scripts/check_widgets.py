"""Drive every widget of petbook in a real JupyterLab, in a headless browser, and look at what happens.

    python nbs/scripts/check_widgets.py [--shots FOLDER] [--chromium PATH] [--no-voila]

Starts JupyterLab (and Voila, if installed) on this machine alone, with a temporary folder and a random token, opens a notebook that it
writes itself, runs it, and then does what a person does: moves sliders by mouse and keyboard, clicks, chooses, uploads. Every step is
asserted on what the page shows or what happened on the disk, and waits until it holds. Screenshots go to FOLDER; where a step fails,
`failed.png` shows the page. Needs the development packages `jupyterlab` and `playwright`, and a Chromium.
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
from petbook.all import random_stream
from petbook.all import ClassificationInterpretation
from petbook.all import LRFind
from petbook.all import draw_pet
from petbook.all import *

folder = Path("pets").absolute()
breeds = ["Birman", "Ragdoll", "Siamese", "beagle", "pug", "<img src=x onerror=alert(1)>"]
items = [folder / f"{breed}_{number}.jpg" for breed in ("Birman", "Ragdoll", "Siamese", "beagle", "pug", "samoyed") for number in range(1, 13)]
folder.mkdir(exist_ok=True)
for item in items: draw_pet(item.stem.split("_")[0], int(item.stem.split("_")[1]), size=300).save(item)
targets = torch.arange(6).repeat_interleave(12)
logits = torch.randn(72, 6, generator=random_stream("check")) + 2.3 * torch.nn.functional.one_hot(targets, 6)
logits[:, 0] += 6 * (targets == 1) * torch.rand(72, generator=random_stream("mix"))
interp = ClassificationInterpretation(logits.softmax(1), targets, items=items, vocab=breeds)
many = 37
big_targets = torch.randint(many, (600,), generator=random_stream("big"))
big = torch.randn(600, many, generator=random_stream("big logits")) + 3.4 * torch.nn.functional.one_hot(big_targets, many)
wide = ClassificationInterpretation(big.softmax(1), big_targets, items=[items[n % 72] for n in range(600)], vocab=[f"a rather long breed name {n}" for n in range(many)])
rates = np.geomspace(1e-7, 10, 100)
losses = 3.6 - 2.2 / (1 + 1e-3 / rates) + 3 * (rates / 0.6) ** 1.5 + torch.randn(100, generator=random_stream("noise")).numpy() * 0.12

class ColourReader:
    vocab = breeds
    def predict(self, image):
        mean = torch.from_numpy(np.array(image)).float().mean((0, 1))
        p = torch.softmax(torch.cat([mean, 255 - mean]) / 40, 0)
        return self.vocab[int(p.argmax())], int(p.argmax()), p
"""

CELLS = {
    "setup": SETUP,
    "softmax": 'softmax_explorer = SoftmaxExplorer([2.0, 1.0, -1.0], ["Ragdoll", "Birman", "<b>Siamese</b>"], target=1)\nsoftmax_explorer',
    "augmentation": 'AugmentationExplorer(items[40], max_rotate=30, min_scale=0.5)',
    "rates": "rate_explorer = LearningRateExplorer(LRFind(rates.tolist(), losses.tolist(), 100))\nrate_explorer",
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
    "The browser to drive: the one given, one that is installed and starts, or None for playwright's own."
    if given or os.environ.get("CHROMIUM"): return given or os.environ["CHROMIUM"]
    for found in filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
        # some systems have a stand-in of that name, which only says how to install the real one
        if not subprocess.run([found, "--version"], capture_output=True).returncode: return found
    return None


@contextmanager
def server(command: list[str], url: str, folder: Path, environment: dict):
    "Run a server until the block ends; wait until it answers."
    with open(folder / "server.log", "ab") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        for _ in range(480):
            if process.poll() is not None: raise SystemExit("the server did not start:\n" + (folder / "server.log").read_text()[-3000:])
            try:
                urllib.request.urlopen(url, timeout=2)
                break
            except urllib.error.HTTPError: break  # it answers
            except OSError: time.sleep(0.5)
        else: raise SystemExit("the server does not answer:\n" + (folder / "server.log").read_text()[-3000:])
        yield
    finally:
        process.terminate()
        try: process.wait(20)
        except subprocess.TimeoutExpired: process.kill()


def write_notebook(file: Path) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in CELLS.values()])
    notebook.metadata["kernelspec"] = {"display_name": "python3", "language": "python", "name": "python3"}
    nbformat.write(notebook, file)


class Failed(Exception):
    "A step that did not come true."


class Page:
    "A notebook in the browser, and a few short ways to act on it."

    def __init__(self, page, shots: Path):
        self.page, self.shots, self.steps, self.alerts = page, shots, 0, []
        page.set_default_timeout(60_000)
        page.on("dialog", lambda dialog: (self.alerts.append(dialog.message), dialog.dismiss()))

    def output(self, name: str): return self.page.locator(".jp-Notebook .jp-Cell").nth(list(CELLS).index(name)).locator(".jp-Cell-outputArea")

    def shot(self, name: str, locator=None) -> None:
        "A screenshot of the page, or of one part of it, once its pictures are there."
        if locator: locator.scroll_into_view_if_needed()
        self.page.wait_for_function("[...document.images].every(image => image.complete)")
        (locator or self.page).screenshot(path=str(self.shots / f"{name}.png"))

    def check(self, what: str, test, seconds: float = 60) -> None:
        "Wait until `test()` holds; say so, or fail with the words."
        from playwright.sync_api import Error

        end = time.monotonic() + seconds
        while True:
            try: held = test()
            except (Error, TypeError, IndexError): held = False  # a part of the page that is not there, or is being replaced
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
        raise SystemExit(f"FAILED: {problem}\nthe page at that moment: {page.shots / 'failed.png'}") from None


def run_all(page: Page) -> None:
    "Run the notebook. JupyterLab drops the command while the kernel is still starting, so wait for it, and look whether it took."
    page.check("the kernel is ready", lambda: page.page.get_by_text(re.compile(r"\| Idle")).count() > 0, 240)
    prompt = page.page.locator(".jp-Notebook .jp-Cell .jp-InputPrompt").first
    for _ in range(6):
        page.page.get_by_role("menuitem", name="Run", exact=True).click()
        page.page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        try: return page.check("the cells are running", lambda: prompt.inner_text().strip(" []:"), 20)  # [*]: or [1]:
        except Failed: continue
    raise Failed("JupyterLab does not run the cells")


def check_softmax(page: Page) -> None:
    area = page.output("softmax")
    area.locator(".widget-slider, .jupyter-widget-slider").first.wait_for()
    table = area.locator("table")
    page.check("softmax: class names are shown as text", lambda: "<b>Siamese</b>" in table.inner_text())
    page.check("softmax: the loss is shown", lambda: "loss 1.349" in area.inner_text())
    page.shot("softmax", area)
    handle = area.locator(".noUi-handle").nth(1)
    handle.focus()
    for _ in range(10): page.page.keyboard.press("ArrowRight")
    page.check("softmax: ten steps by keyboard raise the activation by 1, and the loss falls", lambda: "loss 0.718" in area.inner_text())
    box = handle.bounding_box()
    page.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.page.mouse.down()
    page.page.mouse.move(box["x"] - 60, box["y"] + 5, steps=6)
    page.page.mouse.up()
    page.check("softmax: the mouse drags a slider, and the loss rises", lambda: float(re.search(r"loss ([\d.]+)", area.inner_text())[1]) > 1.5)
    area.locator("select").select_option(label="Ragdoll")
    page.check("softmax: another right answer", lambda: "Ragdoll (right)" in table.inner_text())
    page.shot("softmax_moved", area)


def check_augmentation(page: Page) -> None:
    area = page.output("augmentation")
    area.locator("img").first.wait_for()
    page.check("augmentation: eight pictures", lambda: area.locator("img").count() == 8)
    call = area.locator('input[type="text"]').last
    page.check("augmentation: the call is shown", lambda: call.input_value() == "aug_transforms(max_rotate=30, size=224, min_scale=0.5)")
    page.shot("augmentation", area)
    before = area.locator("img").nth(1).get_attribute("src")
    area.get_by_role("button", name="draw again").click()
    page.check("augmentation: other draws", lambda: area.locator("img").nth(1).get_attribute("src") != before)
    handles = area.locator(".noUi-handle")
    handles.nth(1).focus()  # max_rotate
    for _ in range(5): page.page.keyboard.press("ArrowRight")
    page.check("augmentation: a slider by keyboard changes the call", lambda: "max_rotate=35," in call.input_value())
    area.locator('input[type="checkbox"]').first.click()
    page.check("augmentation: a box changes the call", lambda: "do_flip=False" in call.input_value())
    area.locator("select").nth(1).select_option("zeros")
    page.check("augmentation: a choice changes the call", lambda: "pad_mode='zeros'" in call.input_value())
    page.shot("augmentation_moved", area)


def check_rates(page: Page) -> None:
    area = page.output("rates")
    area.locator("img").first.wait_for()
    page.shot("rates", area)
    steep = area.get_by_role("button", name=re.compile("steep"))
    reading = steep.inner_text().split()[1]
    steep.click()
    page.check("rates: pressing a reading chooses its rate", lambda: f"base_lr={reading}" in area.locator("code").inner_text())
    before = area.locator("img").get_attribute("src")
    area.locator(".noUi-handle").first.focus()
    for _ in range(10): page.page.keyboard.press("ArrowLeft")
    page.check("rates: less smoothing draws another curve", lambda: area.locator("img").get_attribute("src") != before)
    page.check("rates: and other readings", lambda: area.get_by_role("button", name=re.compile("valley")).inner_text() != "valley")
    page.shot("rates_moved", area)


def check_confusion(page: Page) -> None:
    area = page.output("confusion")
    area.locator("img").first.wait_for()
    page.check("confusion: the worst cell is shown first", lambda: "Ragdoll, taken for Birman" in area.inner_text())
    page.check("confusion: no name became markup", lambda: area.locator("img[src=x]").count() == 0)
    page.shot("confusion", area)
    cell = area.locator('button[title="beagle taken for beagle: 12"], button[title^="beagle taken for beagle"]').first
    cell.click()
    page.check("confusion: a click shows that cell", lambda: "beagle, rightly recognised" in area.inner_text())
    cells = area.locator("button[title]")
    cells.nth(0).focus()
    page.page.keyboard.press("Enter")
    page.check("confusion: Enter on a cell shows it", lambda: "Birman, " in area.inner_text())
    area.locator("select").nth(0).select_option(label="Ragdoll")
    area.locator("select").nth(1).select_option(label="Ragdoll")
    page.check("confusion: the drop-downs do the same", lambda: "Ragdoll, rightly recognised" in area.inner_text())
    page.shot("confusion_clicked", area)
    wide = page.output("wide")
    wide.locator("button").first.wait_for()
    page.check("confusion: 37 classes are drawn with a button per filled cell", lambda: 37 < wide.locator("button").count() < 500)
    page.shot("confusion_wide", wide)


def check_cleaner(page: Page, folder: Path) -> None:
    area = page.output("cleaner")
    area.locator("img").first.wait_for()
    page.check("cleaner: twelve photographs", lambda: area.locator("figure, img").count() == 12)
    page.check("cleaner: names are shown as text", lambda: area.locator("img[src=x]").count() == 0)
    page.shot("cleaner", area)
    def card(number): return area.locator(".widget-html-content").filter(has_text=".jpg").nth(number)
    removed, relabelled = (re.search(r"\S+\.jpg", card(number).inner_text())[0] for number in (0, 1))
    choices = area.locator("select")
    filters, text = 3, "menu => menu.selectedOptions[0].text.replaceAll(String.fromCharCode(160), ' ')"
    choices.nth(filters).focus()
    # JupyterLab keeps arrows and letters for its own commands until the menu is open
    for key in ("Space", "ArrowDown", "Enter"): page.page.keyboard.press(key)
    page.check("cleaner: a choice by keyboard is counted", lambda: "1 to remove, 0 to relabel" in area.inner_text())
    options = [text.replace("\xa0", " ") for text in choices.nth(filters + 1).locator("option").all_text_contents()]
    label = next(option for option in options if option in ("label: pug", "label: beagle"))
    choices.nth(filters + 1).select_option(index=options.index(label))
    page.check("cleaner: the choices are counted", lambda: "1 to remove, 1 to relabel" in area.inner_text())
    page.shot("cleaner_chosen", area)
    choices.nth(0).select_option(label="pug")
    page.check("cleaner: another class", lambda: "of 12" in area.inner_text())
    choices.nth(0).select_option(label="all classes")
    page.check("cleaner: the choices have survived the switching", lambda: choices.nth(filters).evaluate(text) == "remove")
    page.check("cleaner: the menu says which classes are shown", lambda: choices.nth(0).evaluate(text) == "all classes")
    choices.nth(2).select_option(label="likely label error")
    page.check("cleaner: ordered by likely label error, the suggested label on the first card", lambda: re.search(r"likely \w", card(0).inner_text()))
    choices.nth(2).select_option(label="highest loss")
    area.get_by_role("button", name="apply choices").click()
    page.check("cleaner: applied", lambda: "done: 2 files moved." in area.inner_text())
    page.check("cleaner: the removed file lies in .removed", lambda: (folder / "pets" / ".removed" / removed).exists() and not (folder / "pets" / removed).exists())
    page.check("cleaner: the relabelled file has another name", lambda: not (folder / "pets" / relabelled).exists() and len(list((folder / "pets").glob("*.jpg"))) == 71)
    page.shot("cleaner_applied", area)
    area.get_by_role("button", name="undo").click()
    page.check("cleaner: undone", lambda: (folder / "pets" / removed).exists() and (folder / "pets" / relabelled).exists())
    with open(folder / "pets" / ".removed" / "changes.csv", newline="", encoding="utf-8") as stream: actions = sorted(row["action"] for row in csv.DictReader(stream))
    page.check("cleaner: every change is in the diary", lambda: actions == ["relabel", "remove", "undo"], 1)
    area.get_by_role("button", name="next page").click()
    page.check("cleaner: the next page", lambda: "13 to 24 of 72" in area.inner_text())


def check_upload(page: Page, area, folder: Path, shot: str) -> None:
    area.locator("button").first.wait_for()
    bad, nasty = folder / "diary.txt", folder / "<img src=x onerror=alert(2)>.jpg"
    bad.write_text("Dear diary")
    shutil.copy(next((folder / "pets").glob("*.jpg")), nasty)
    files = [{"name": nasty.name, "mimeType": "image/jpeg", "buffer": nasty.read_bytes()}, {"name": bad.name, "mimeType": "text/plain", "buffer": bad.read_bytes()}]
    with page.page.expect_file_chooser() as chooser: area.locator("button").first.click()
    chooser.value.set_files(files)
    page.check("upload: an answer with probabilities", lambda: area.locator("table tr").count() >= 3, 40)
    page.check("upload: the file's name is shown as text", lambda: nasty.name in area.inner_text() and area.locator("img[src=x]").count() == 0)
    page.check("upload: what is no photograph is answered in words", lambda: "diary.txt" in area.inner_text())
    page.shot(shot, area)


def check_dark(page: Page) -> None:
    page.page.evaluate("window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})")
    page.check("dark theme: it is on", lambda: page.page.evaluate("document.body.dataset.jpThemeLight") == "false" and not page.page.locator("#jupyterlab-splash").count())
    for name in ("softmax", "confusion", "cleaner", "upload"): page.shot(f"dark_{name}", page.output(name))


def check_voila(browser, folder: Path, shots: Path, environment: dict) -> int:
    "The page for others: served by Voila, without any code in sight."
    shutil.copy(Path(__file__).parent.parent / "tutorials" / "app.ipynb", folder / "app.ipynb")
    port = free_port()
    command = [sys.executable, "-m", "voila", "app.ipynb", "--no-browser", f"--port={port}", "--Voila.ip=127.0.0.1", "--show_tracebacks=True"]
    with server(command, f"http://127.0.0.1:{port}/static/", folder, environment):
        page = Page(browser.new_context(viewport={"width": 1000, "height": 900}).new_page(), shots)
        with reported(page):
            page.page.goto(f"http://127.0.0.1:{port}/", timeout=240_000)
            page.check("voila: the button is there", lambda: page.page.get_by_role("button", name=re.compile("choose photographs")).count() == 1, 240)
            page.check("voila: no code in sight", lambda: "load_learner" not in page.page.locator("body").inner_text(), 3)
            page.shot("voila")
            check_upload(page, page.page.locator("body"), folder, "voila_answered")
            page.check("voila: no script of a name has run", lambda: not page.alerts, 1)
    return page.steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shots", type=Path, default=None, help="folder for screenshots (a temporary one if left out)")
    parser.add_argument("--chromium", default=None, help="the browser's program (found by itself if left out)")
    parser.add_argument("--no-voila", action="store_true", help="leave out the page for others")
    given = parser.parse_args()
    from playwright.sync_api import sync_playwright

    folder = Path(tempfile.mkdtemp(prefix="petbook_widgets_"))
    shots = (given.shots or folder / "shots").absolute()
    shots.mkdir(parents=True, exist_ok=True)
    write_notebook(folder / "check.ipynb")
    for name, setting in {"notebook-extension/tracker": '{"windowingMode": "none"}', "apputils-extension/notification": '{"fetchNews": "false"}'}.items():
        file = folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(setting)
    # nothing of the person's own settings, kernels and startup files
    environment = os.environ | {"JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"), "JUPYTER_CONFIG_DIR": str(folder / "config"), "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "JUPYTER_DATA_DIR": str(folder / "data"), "IPYTHONDIR": str(folder / "ipython"), "JUPYTER_PREFER_ENV_PATH": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    token, port = secrets.token_hex(16), free_port()
    base = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={folder}", "--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", "--ServerApp.allow_root=True",
        "--LabApp.expose_app_in_browser=True"]
    begin = time.time()
    try:
        with server(command, f"{base}/api?token={token}", folder, environment), sync_playwright() as play:
            browser = play.chromium.launch(executable_path=find_chromium(given.chromium), args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
            context = browser.new_context(viewport={"width": 1280, "height": 900})
            page = Page(context.new_page(), shots)
            with reported(page):
                page.page.goto(f"{base}/doc/tree/check.ipynb?token={token}", timeout=240_000)
                page.page.locator(".jp-Notebook .jp-Cell").nth(len(CELLS) - 1).wait_for(state="attached", timeout=240_000)
                run_all(page)
                failure = page.page.locator(".jp-Notebook .jp-RenderedText[data-mime-type='application/vnd.jupyter.error']")
                page.check("all cells have run", lambda: failure.count() or "all cells have run" in page.output("done").inner_text(), 600)
                if failure.count(): raise Failed("a cell of the notebook\n" + failure.first.inner_text())
                check_softmax(page)
                check_augmentation(page)
                check_rates(page)
                check_confusion(page)
                check_cleaner(page, folder)
                check_upload(page, page.output("upload"), folder, "upload")
                check_dark(page)
                page.check("no script of a name has run", lambda: not page.alerts, 1)
            voila = None if given.no_voila or not find_spec("voila") else check_voila(browser, folder, shots, environment)
            browser.close()
        if voila is None: print("  --  the page for others was not tried (no Voila, or --no-voila)")
        else: page.steps += voila
        print(f"{page.steps} steps passed in {time.time() - begin:.0f} s; screenshots in {shots}")
    finally:
        if (folder / "server.log").exists(): shutil.copy(folder / "server.log", shots)
        if given.shots: shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__": main()
