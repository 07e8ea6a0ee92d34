"""Look at every page of the site without Quarto: nbdev's processing, HTML by pandoc with the site's own
CSS at the theme's widths (site_html.py, theme.css), and headless Chromium at 1300 and 390 pixels, light and
dark (look.js). Prints a table of what was found beside its limit, and exits with 1 if one is broken.
`--keep FOLDER` keeps the pages' figures as JSON and `--shots FOLDER PAGE ...` makes pictures of some pages."""
import argparse
import json
import os
import re
import shutil
import sys
import time
from pathlib import Path
from urllib.parse import unquote

from nbdev.serve import proc_nbs

sys.path.insert(0, str(Path(__file__).parent))
import live  # noqa: E402
from site_html import make_site, rendered  # noqa: E402

HEIGHT, TABLES = 15_000, 90  # pixels at 1300 with the folds closed; tables that scroll in their own box
WIDTHS = (1300, 390)
HOLLOW = 5  # sentences with a colon under which nothing stands
# Pages that are still longer, and how long they may be; a page may leave this list, none may join it.
LONGER = {}
LEAKS = re.compile(r"/work/|(?<!\w)/root/|\.\./(?:\.\./)?shared|shared/pets|not installed here"
                   r"|installed here, so|no photographs here|\b0x[0-9a-f]{8,}")
NOISE = re.compile(r"\]\(|__main__\.|\(\*args, \*\*kwargs\)|collections\.abc\.|None=None|0x[0-9a-f]{8,}")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def look_at(folder, pages, browser, shots):
    "What the browser measures on each page, by view."
    from playwright.sync_api import sync_playwright

    script, found = (Path(__file__).parent / "look.js").read_text(encoding="utf-8"), {}
    with sync_playwright() as player:
        chromium = player.chromium.launch(executable_path=browser, args=[
            "--no-sandbox", "--allow-file-access-from-files"])
        tab = chromium.new_page()
        for source, name in pages.items():
            tab.set_viewport_size({"width": WIDTHS[0], "height": 900})
            tab.goto((folder / name).resolve().as_uri(), wait_until="load")
            found[source] = {}
            for width in WIDTHS:
                tab.set_viewport_size({"width": width, "height": 900})
                for dark in (False, True):
                    view = {"width": width, "dark": dark}
                    found[source][f"{width} dark" if dark else str(width)] = tab.evaluate(script, view)
                    if shots and source in shots[1:]:
                        stem = f"{Path(name).stem}-{width}{'-dark' * dark}.png"
                        tab.screenshot(path=str(Path(shots[0]) / stem), full_page=True)
        chromium.close()
    return found


def broken_links(pages, found, folder):
    "Links to a page or an anchor that is missing."
    ids = {pages[source]: set(views["1300"]["ids"]) for source, views in found.items()}
    for source, views in found.items():
        for link in views["1300"]["links"]:
            if re.match(r"[a-z]+:", link): continue
            place, _, mark = unquote(link).partition("#")
            target = os.path.normpath(os.path.join(os.path.dirname(source), place)) if place else source
            name = pages.get(target.replace(os.sep, "/"), target.replace(os.sep, "/"))
            if not (folder / name).exists(): yield source, f"no page for {link}"
            elif mark and name in ids and mark not in ids[name]: yield source, f"no anchor for {link}"


def faults_of(source, views):
    "Everything that is wrong on one page, as {kind: [what]}."
    desk, phone, night = views["1300"], views["390"], views["1300 dark"]
    text = desk["text"] + "\n" + desk["code"]
    code_lines = [line for kind, line in desk["wraps"] if kind == "code"]
    return {
        "blocks that scroll sideways, 1300": desk["scrolls"],
        "blocks that scroll sideways, 390": phone["scrolls"],
        "blocks of code with a line over the width, 1300": code_lines,
        "tables wider than the column, 1300": desk["tables"],
        "pages wider than the screen, 1300": desk["wide"][:1] if desk["page"] > WIDTHS[0] else [],
        "pages wider than the screen, 390": phone["wide"][:1] or ["?"] if phone["page"] > WIDTHS[1] else [],
        f"pages over {HEIGHT} px, or over what LONGER allows": [f"{desk['height']} px"] * (
            desk["height"] > LONGER.get(source, HEIGHT)),
        "pages with a signature before a picture": ["late"] if desk["late"] else [],
        "pictures without alt text": desk["noalt"] + desk["emptyalt"],
        "leaks of the workshop": [text[max(0, one.start() - 30):one.end() + 30].replace("\n", " ")
                                  for one in LEAKS.finditer(text)],
        "sentences that introduce nothing": desk["hollow"],
        "empty outputs": ["?"] * desk["empty"],
        "white code or figures on a dark page": night["slabs"],
        "text of too little contrast on a dark page": night["faint"],
        "signatures with links, module paths or addresses inside": [
            one for one in desk["signatures"] if NOISE.search(one)],
    }


def report(pages, found, links, sliders):
    "Print the table and the faults; gives whether a limit is broken."
    listed = {"broken links and anchors": links, "sliders that differ from torch, or fail a hand": sliders}
    for source, views in found.items():
        for kind, what in faults_of(source, views).items():
            listed.setdefault(kind, []).extend((source, one) for one in what)
    tables = sum(len(views["390"]["tables"]) for views in found.values())
    blocks = sum(views["1300"]["blocks"] for views in found.values())
    for kind, what in listed.items():
        for source, one in what: print(f"{source}: {kind}: {one}")
    print(f"\n{len(pages)} pages, {blocks} blocks of code and output")
    for kind, what in sorted(listed.items()): print(f"{len(what):6}  (0)   {kind}" if "introduce" not in kind
                                                    else f"{len(what):6}  ({HOLLOW})  {kind}")
    print(f"{tables:6}  ({TABLES})  tables that scroll in their own box, 390")
    longest = max((views["1300"]["height"], source) for source, views in found.items())
    print(f"{longest[0]:6}  ({HEIGHT})  px, the longest page: {longest[1]}")
    hollow = len(listed.pop("sentences that introduce nothing"))
    return any(listed.values()) or tables > TABLES or hollow > HOLLOW


def deployed(pages):
    "Pages that the workflow tests for, and that nbdev would not write."
    text = Path(".github/workflows/docs.yml").read_text(encoding="utf-8")
    for name in re.findall(r"[\w/-]+\.html", text):
        if name not in pages.values(): yield ".github/workflows/docs.yml", f"no page for {name}"


def main():
    "Make the pages, look at them, say what is wrong."
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=Path, help="a file for all figures, as JSON")
    parser.add_argument("--shots", nargs="+", help="a folder, and the sources of pages to take pictures of")
    parser.add_argument("--only-changed", action="store_true", help="process what is newer than `_proc`")
    options, started = parser.parse_args(), time.time()
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not browser: sys.exit(f"no browser: install one of {', '.join(BROWSERS)}")
    folder = proc_nbs(force=not options.only_changed, n_workers=2)
    pages = make_site(folder, rendered(folder), Path(__file__).parent / "theme.css")
    found = look_at(folder, pages, browser, options.shots)
    if options.keep: options.keep.write_text(json.dumps(found), encoding="utf-8")
    twice = [("_quarto.yml", f"two pages named {name}") for name in set(pages.values())
             if list(pages.values()).count(name) > 1]
    links = [*broken_links(pages, found, folder), *deployed(pages), *twice]
    sliders = [(live.SOURCE, fault) for fault in live.faults_of(browser, folder / pages[live.SOURCE])]
    bad = report(pages, found, links, sliders)
    if not options.only_changed: shutil.rmtree(folder)
    print(f"{time.time() - started:.0f} s")
    sys.exit(bad)


if __name__ == "__main__": main()
