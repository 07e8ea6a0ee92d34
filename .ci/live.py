"""The sliders of the page on cross-entropy, used in a headless browser as a person would: by keyboard, by
touch, by mouse, on a wide and on a narrow screen. What they show is compared with torch. `pages.py` hands
over the page of the site; alone, this script makes a bare page of the notebook's stored output."""
import json
import math
import random
import shutil
import sys
import tempfile
from pathlib import Path

import torch

SOURCE = "nbs/explanation/cross_entropy.ipynb"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ROOT = ".petbook-softmax"


def wanted(logits, target):
    "What torch computes, in float64."
    given = torch.tensor([logits], dtype=torch.float64, requires_grad=True)
    loss = torch.nn.functional.cross_entropy(given, torch.tensor([target]))
    loss.backward()
    return {"probabilities": torch.softmax(given, 1)[0].tolist(), "gradient": given.grad[0].tolist(),
            "logs": torch.log_softmax(given, 1)[0].tolist(), "loss": loss.item()}


class Page:
    "The page in a browser, and what was found wrong with it."

    def __init__(self, chromium, address, width, touch):
        context = chromium.new_context(viewport={"width": width, "height": 900}, has_touch=touch)
        context.set_default_timeout(10_000)
        self.tab, self.faults, self.width = context.new_page(), [], width
        self.tab.on("request", self.note)
        self.tab.on("pageerror", lambda error: self.expect(False, f"an error: {error}"))
        self.tab.goto(address, wait_until="load")
        self.sliders = self.tab.locator(f"{ROOT} input[type=range]")
        self.labels = self.tab.locator(f"{ROOT} input[type=radio]")

    def note(self, request):
        self.expect(request.url.split(":")[0] in ("file", "data", "blob"), f"asks for {request.url}")

    def expect(self, true, words):
        if not true: self.faults.append(f"{words} ({self.width} px)")

    def state(self): return json.loads(self.tab.get_attribute(ROOT, "data-state"))

    def press(self, name): self.tab.click(f"{ROOT} [data-do={name}]")

    def move(self, index, value):
        "Set a slider as a drag of the mouse does."
        self.sliders.nth(index).evaluate(
            "(one, value) => { one.value = value; one.dispatchEvent(new Event('input')); }", str(value))

    def compare(self, when):
        "The numbers behind the page and those on it, against torch."
        found = self.state()
        right = wanted(found["logits"], found["target"])
        for name, values in right.items():
            pairs = zip(values, found[name]) if isinstance(values, list) else [(values, found[name])]
            far = max(abs(one - two) for one, two in pairs)
            self.expect(far < 1e-12, f"{when}: {name} is off by {far:.1e}")
        said = self.tab.inner_text(f"{ROOT} .said")
        self.expect(f"loss {right['loss']:.3f}" in said, f"{when}: it says {said!r}, not {right['loss']:.3f}")
        for index, one in enumerate(right["probabilities"]):
            row = self.tab.locator(f"{ROOT} .row:not(.titles)").nth(index)
            shown = row.locator(".probability span").inner_text()
            self.expect(abs(float(shown) - one) < 5.01e-4, f"{when}: row {index} shows {shown} for {one}")
            box, ink = (row.locator(f".probability{part}").bounding_box() for part in ("", " i"))
            self.expect(abs(ink["width"] / (box["width"] - 2) - one) < 0.01, f"{when}: bar {index}")


def by_keyboard(page):
    "Arrow keys move a slider and choose the label; the buttons are reached by Tab."
    first = page.state()
    page.sliders.nth(0).focus()
    for _ in range(7): page.tab.keyboard.press("ArrowRight")
    page.expect(math.isclose(page.state()["logits"][0], first["logits"][0] + 0.7), "seven arrow keys")
    page.compare("after seven arrow keys")
    page.tab.keyboard.press("End")
    page.compare("after End")
    page.labels.nth(0).focus()
    page.tab.keyboard.press("ArrowDown")
    page.expect(page.state()["target"] == 1, "an arrow key chooses the next label")
    page.compare("with another label")
    page.sliders.last.focus()
    for _ in range(5):  # buttons that would leave the range are skipped
        page.tab.keyboard.press("Tab")
        if page.tab.evaluate("document.activeElement.dataset.do") == "reset": break
    page.tab.keyboard.press("Enter")
    page.expect(page.state()["logits"] == first["logits"] and page.state()["target"] == first["target"],
                "start again, by keyboard")


def by_buttons(page):
    "Adding changes nothing, doubling sharpens, the limit is kept."
    first = page.state()
    page.press("add")
    after = page.state()
    page.expect(max(abs(a - b) for a, b in zip(first["probabilities"], after["probabilities"])) < 1e-12,
                "all + 1 changes no probability")
    page.press("take")
    page.press("double")
    page.compare("after all × 2")
    page.expect(page.state()["loss"] > first["loss"], "a wrong favourite costs more when doubled")
    page.move(0, 10)
    page.expect(page.tab.is_disabled(f"{ROOT} [data-do=add]"), "no logit beyond the slider")
    page.press("reset")
    page.expect(page.state()["logits"] == first["logits"], "start again")


def by_touch(page):
    "A tap on a slider moves it there; a tap on a name makes it the label."
    box = page.sliders.nth(2).bounding_box()
    page.tab.touchscreen.tap(box["x"] + 0.8 * box["width"], box["y"] + box["height"] / 2)
    page.expect(4 < page.state()["logits"][2] < 8, f"a tap moves a slider: {page.state()['logits'][2]}")
    page.compare("after a tap")
    name = page.tab.locator(f"{ROOT} label").nth(3).bounding_box()
    page.tab.touchscreen.tap(name["x"] + name["width"] / 2, name["y"] + name["height"] / 2)
    page.expect(page.state()["target"] == 3, "a tap on a name makes it the label")
    page.expect(min(box["height"], name["height"]) >= 32, "places to touch are 32 px high")
    page.press("reset")


def fits(page):
    "Nothing is wider than the screen, and nothing lies upon another thing."
    over = page.tab.evaluate("document.documentElement.scrollWidth")
    page.expect(over <= page.width, f"the page is {over} px wide")
    laid = page.tab.evaluate(f"""[...document.querySelectorAll('{ROOT} .row:not(.titles)')].flatMap(row => {{
        const boxes = [...row.children].map(one => one.getBoundingClientRect());
        return boxes.flatMap((a, i) => boxes.slice(i + 1).filter(b => a.right > b.left + 1 &&
            b.right > a.left + 1 && a.bottom > b.top + 1 && b.bottom > a.top + 1));
    }}).length""")
    page.expect(laid == 0, f"{laid} pieces lie upon others")


def faults_of(browser, file, shots=None):
    "Everything that is wrong with the sliders of a page, as sentences."
    from playwright.sync_api import sync_playwright

    faults, draw = [], random.Random(1)
    with sync_playwright() as player:
        chromium = player.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        for width in (1300, 390):
            page = Page(chromium, Path(file).resolve().as_uri(), width, touch=width == 390)
            page.compare("at first")
            fits(page)
            by_keyboard(page)
            by_buttons(page)
            if width == 390: by_touch(page)
            for number in range(5):
                for index in range(page.sliders.count()): page.move(index, round(draw.uniform(-10, 10), 1))
                page.labels.nth(number).check()
                page.compare(f"at random place {number}")
            for dark in (False, True) if shots else ():
                page.press("reset")
                page.tab.evaluate(f"document.body.classList.toggle('quarto-dark', {str(dark).lower()})")
                name = f"softmax-{width}{'-dark' * dark}.png"
                page.tab.locator(ROOT).screenshot(path=str(Path(shots) / name))
            faults += page.faults
        chromium.close()
    return faults


def bare_page(folder):
    "The stored output of the notebook on a page with the theme's colours."
    cells = json.loads(Path(SOURCE).read_text(encoding="utf-8"))["cells"]
    made = ["".join(output["data"]["text/html"]) for cell in cells for output in cell.get("outputs", [])
            if "petbook-softmax" in "".join(output.get("data", {}).get("text/html", ""))]
    css = Path(__file__).with_name("theme.css").read_text(encoding="utf-8")
    file = Path(folder) / "page.html"
    file.write_text(f"<!DOCTYPE html><meta charset=utf-8><meta name=viewport content='width=device-width'>"
                    f"<style>{css}</style><body><div id=page><main>{made[0]}</main></div>", encoding="utf-8")
    return file


if __name__ == "__main__":
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not browser: sys.exit(f"no browser: install one of {', '.join(BROWSERS)}")
    with tempfile.TemporaryDirectory() as folder:
        faults = faults_of(browser, bare_page(folder), *sys.argv[1:2])
    print("\n".join(faults) or "the sliders agree with torch, by mouse, keyboard and touch")
    sys.exit(bool(faults))
