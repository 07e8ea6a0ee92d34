"""Pages of HTML from what nbdev hands to Quarto, made with pandoc as Quarto makes them: the same elements
and classes, as far as widths, links and grounds depend on them."""
import base64
import hashlib
import html
import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pypandoc
import yaml

TEMPLATE = """<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>$pagetitle$</title>
<style>$highlighting-css$</style><link rel="stylesheet" href="ROOT.theme.css">
<link rel="stylesheet" href="ROOTnbs/styles.css"></head><body class="quarto-light fullcontent">
<div id="page"><nav class="navbar"></nav><main id="quarto-document-content">
$if(title)$<header id="title-block-header"><div class="quarto-title"><h1 class="title">$title$</h1>
$if(subtitle)$<p class="subtitle lead">$subtitle$</p>$endif$</div>
$if(description)$<div><div class="description">$description$</div></div>$endif$</header>$endif$
$body$</main><nav id="TOC">$toc$</nav></div></body></html>"""
KINDS = {"image/png": "png", "image/jpeg": "jpg", "image/svg+xml": "svg"}


def options_of(source):
    "The options of a cell (`#| name: value`), and the code below them."
    lines = source.splitlines()
    marked = [line for line in lines if line.startswith("#|")]
    options = {}
    for line in marked:
        name, colon, value = line[2:].strip().partition(":")
        if colon: options[name.strip()] = yaml.safe_load(value.strip() or "''")
    return options, "\n".join(line for line in lines if not line.startswith("#|")).strip()


def joined(text):
    "The text of a field that notebooks keep as one string or as lines."
    return "".join(text) if text else ""


def raw(text):
    "A block of HTML that pandoc leaves alone."
    return f"\n\n```````{{=html}}\n{text}\n```````\n\n"


def picture(kind, data, options, folder, size):
    "A figure, kept as a file; a sharp one has more pixels than the width that its notebook says."
    content = data.encode() if kind == "image/svg+xml" else base64.b64decode(data)
    name = hashlib.sha1(content).hexdigest()[:16] + "." + KINDS[kind]
    (folder / ".figures").mkdir(exist_ok=True)
    (folder / ".figures" / name).write_bytes(content)
    alt, caption = (html.escape(str(options.get(key) or "")) for key in ("fig-alt", "fig-cap"))
    caption = re.sub(r"`([^`]+)`", r"<code>\1</code>", caption)
    below = f"<figcaption>{caption}</figcaption>" if caption else ""
    wide = f' width="{size["width"]}"' if "width" in size else ""
    return raw(f'<figure class="figure"><p><img class="img-fluid figure-img" src="ROOT.figures/{name}" '
               f'alt="{alt}"{wide}></p>{below}</figure>')


def output_block(output, options, folder):
    "One output as Quarto lays it out."
    if output["output_type"] == "stream":
        kind, text = output["name"], html.escape(joined(output["text"]))
        return raw(f'<div class="cell-output cell-output-{kind}"><pre><code>{text}</code></pre></div>')
    if output["output_type"] == "error":
        return raw(f'<div class="cell-output cell-output-error"><pre>{output["ename"]}</pre></div>')
    data = output.get("data", {})
    for kind in ("text/html", "text/markdown", *KINDS, "text/plain"):
        if kind in data: break
    else: return ""
    text = joined(data[kind])
    if kind in KINDS: inner = picture(kind, text, options, folder, output.get("metadata", {}).get(kind, {}))
    elif kind == "text/html": inner = raw(text)
    elif kind == "text/markdown": inner = f"\n\n{text}\n\n"
    else: inner = raw(f"<pre><code>{html.escape(text)}</code></pre>")
    if options.get("output") == "asis": return inner
    return f"\n\n:::::: {{.cell-output .cell-output-display}}\n{inner}\n::::::\n\n"


def code_block(source, options):
    "The code of a cell, folded or open."
    if options.get("echo") is False or not source: return ""
    fence = f"\n\n``````{{.python .cell-code}}\n{source}\n``````\n\n"
    fold = options.get("code-fold")
    if not fold: return fence
    summary = options.get("code-summary", "Code")
    opened = " open" if fold == "show" else ""
    return (raw(f'<details class="code-fold"{opened}><summary>{summary}</summary>') + fence
            + raw("</details>"))


def notebook_text(path, folder):
    "A processed notebook as one text for pandoc."
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = joined(cell["source"])
        if cell["cell_type"] != "code":
            parts.append(source)
            continue
        options, code = options_of(source)
        if options.get("include") is False: continue
        outputs = cell.get("outputs", []) if options.get("output") is not False else []
        classes = " ".join(f".{name}" for name in str(options.get("classes", "")).split())
        parts.append(f"::::::: {{.cell {classes}}}\n" + code_block(code, options)
                     + "".join(output_block(one, options, folder) for one in outputs) + "\n:::::::")
    return "\n\n".join(parts)


def page_text(path, folder):
    "A page as Markdown, and the name of the page that comes out."
    name = path.relative_to(folder).with_suffix(".html")
    if path.suffix == ".ipynb":
        text = notebook_text(path, folder)
        found = re.search(r"^output-file: (.+)$", text, re.M)
        return text, name.with_name(found[1]) if found else name
    text = path.read_text(encoding="utf-8")
    include = re.compile(r"\{\{< include (\S+) >\}\}")
    return include.sub(lambda found: (path.parent / found[1]).read_text(encoding="utf-8"), text), name


def make_page(path, folder):
    "Write one page of HTML beside its source; gives the two, below the folder."
    text, name = page_text(path, folder)
    above = "../" * (len(name.parts) - 1)
    page = pypandoc.convert_text(text, "html5", "markdown", extra_args=[
        "--standalone", f"--template={folder / f'.template{len(name.parts)}.html'}", "--toc",
        f"--metadata=pagetitle:{name}", "--wrap=none", "--mathml", "--quiet"])
    (folder / name).write_text(page.replace("ROOT.figures", above + ".figures"), encoding="utf-8")
    return path.relative_to(folder).as_posix(), name.as_posix()


def make_site(folder, pages, css):
    "Write every page; gives {source: page} with paths below the folder."
    (folder / ".theme.css").write_text(css.read_text(encoding="utf-8"), encoding="utf-8")
    for depth in range(1, 5):  # once, before several threads read them
        template = TEMPLATE.replace("ROOT", "../" * (depth - 1))
        (folder / f".template{depth}.html").write_text(template, encoding="utf-8")
    with ThreadPoolExecutor(2) as pool:
        return dict(pool.map(lambda path: make_page(path, folder), pages))


def rendered(folder):
    "The sources that `_quarto.yml` renders."
    listed = yaml.safe_load((folder / "_quarto.yml").read_text(encoding="utf-8"))["project"]["render"]
    return sorted({path for pattern in listed for path in folder.glob(pattern)})
