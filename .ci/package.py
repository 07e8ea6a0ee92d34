"""Build the two files that are published, look into them, and use one as a stranger would.

From a copy of what git knows (with caches planted in it) `python -m build` makes the sdist, and
the wheel from the sdist. Both must hold what they should and nothing else. The wheel is then
installed into an empty environment that sees the libraries of this one, and petbook is imported,
asked for its help, and trained, from a folder that is not the clone. `--keep FOLDER` leaves the
two files there; `--tag v1.2.3` refuses a tag that is not the version."""
import argparse
import configparser
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
import zipfile
from email.parser import Parser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BESIDE = {"settings.ini", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md"}
MADE = {"PKG-INFO", "setup.cfg"}  # what setuptools adds to an sdist
LARGEST = 5_000_000  # bytes of either file
JUNK = ["petbook/__pycache__/core.cpython-310.pyc", "petbook/.ipynb_checkpoints/core.py",
        "petbook/weights/petnet.safetensors.tmp", "petbook/models/weights.safetensors",
        "runs/one/model.safetensors", "build/lib/petbook/old.py", ".venv/petbook/core.py"]
TRAINED = ["model.safetensors", "results.csv", "validation.csv", "settings.json", "report.html",
           "model_card.md"]
DRAW = """from pathlib import Path
import petbook.all
from petbook.all import draw_pet
here = Path(petbook.__file__).parent
assert (here / "py.typed").exists()
print(here)
for breed in ("pug", "Ragdoll"):
    Path("pets", breed).mkdir(parents=True)
    for number in range(8): draw_pet(breed, number, size=128).save(f"pets/{breed}/{number}.png")
"""
problems, begun = [], time.monotonic()


def say(text):
    print(f"{time.monotonic() - begun:4.0f} s  {text}", flush=True)


def wrong(where, names, what):
    "Note the files that are missing or too many."
    if names: problems.append(f"{where}: {what} {', '.join(sorted(names)[:8])}")


def run(*command, cwd, **also):
    "Run a command with no trace of the clone in its surroundings; give what it printed."
    clean = {key: value for key, value in os.environ.items()
             if key not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    done = subprocess.run([str(part) for part in command], cwd=cwd, text=True,
                          capture_output=True, env={**clean, **also})
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\nended with {done.returncode}:\n"
                 f"{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done.stdout


def settings():
    config = configparser.ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    return config["DEFAULT"]


def copy_of_the_clone(to):
    "What git knows, copied, with caches and leftovers planted; gives the names below petbook/."
    names = run("git", "ls-files", cwd=ROOT).splitlines()
    for name in names:
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, to / name)
    for name in JUNK:
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        (to / name).write_text("left over", encoding="utf-8")
    return {name for name in names if name.startswith("petbook/")}


def look_into(sdist, wheel, package, card):
    "Both files hold what they should, and nothing else."
    for file in (sdist, wheel):
        if file.stat().st_size > LARGEST:
            problems.append(f"{file.name}: {file.stat().st_size} bytes, over {LARGEST}")
    with tarfile.open(sdist) as tar:
        held = {name.partition("/")[2] for name in tar.getnames() if "/" in name
                and tar.getmember(name).isfile()}
    held = {name for name in held if not name.startswith("petbook.egg-info/")}
    wrong(sdist.name, (package | BESIDE) - held, "lacks")
    wrong(sdist.name, held - package - BESIDE - MADE, "holds by accident")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        for name in package & names:
            if archive.read(name) != (ROOT / name).read_bytes():
                problems.append(f"{wheel.name}: {name} is not what the clone has")
        info = f"petbook-{card['version']}.dist-info/"
        metadata = Parser().parsestr(archive.read(info + "METADATA").decode())
        points = archive.read(info + "entry_points.txt").decode()
    wrong(wheel.name, package - names, "lacks")
    wrong(wheel.name, {name for name in names if not name.startswith(info)} - package,
          "holds by accident")
    wrong(wheel.name, {info + "licenses/LICENSE"} - names, "lacks")
    look_at_metadata(wheel.name, metadata, points, card)


def look_at_metadata(name, metadata, points, card):
    "Name, version, Python, libraries, extras, commands and links are those of settings.ini."
    needs = [one.replace(" ", "") for one in metadata.get_all("Requires-Dist")]
    extras = {key.removesuffix("_requirements") for key in card if key.endswith("_requirements")}
    for what, found, expected in [
            ("version", metadata["Version"], card["version"]),
            ("Requires-Python", metadata["Requires-Python"], f">={card['min_python']}"),
            ("licence", metadata["License-Expression"] or metadata["License"], "Apache-2.0"),
            ("libraries", sorted(one for one in needs if "extra==" not in one),
             sorted(card["requirements"].split())),
            ("extras", set(metadata.get_all("Provides-Extra")), extras)]:
        if found != expected: problems.append(f"{name}: {what} {found}, expected {expected}")
    if card["console_scripts"].replace("=", " = ") not in points:
        problems.append(f"{name}: no command petbook among its entry points")
    for start in ("](nbs/", "](CHANGELOG", "](LICENSE", "](CONTRIBUTING"):
        if start in metadata.get_payload():
            problems.append(f"{name}: its description has the relative link {start}…, which "
                            "leads nowhere on an index of packages")


def install(wheel, place):
    "An empty environment with this one's libraries and the wheel; gives its folder of commands."
    run(sys.executable, "-m", "venv", "--without-pip", place / "env", cwd=place)
    commands = place / "env" / ("Scripts" if os.name == "nt" else "bin")
    python = commands / Path(sys.executable).name
    if not python.exists(): python = commands / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps",
        "--no-index", "--disable-pip-version-check", wheel, cwd=place)
    own = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=place)
    libraries = {sysconfig.get_path(key) for key in ("purelib", "platlib")}
    Path(own.strip(), "libraries.pth").write_text("\n".join(sorted(libraries)), "utf-8")
    return commands, python


def use(commands, python, place, version):
    "Import everything, ask for the help, train on a few drawn pets and classify one of them."
    petbook, home = commands / "petbook", {"PETBOOK_HOME": str(place / "home")}
    (place / "draw.py").write_text(DRAW, encoding="utf-8")
    found = run(python, "draw.py", cwd=place, **home)
    if str(place / "env") not in found: problems.append(f"petbook came from {found.strip()}")
    if version not in run(petbook, "--version", cwd=place):
        problems.append(f"petbook --version does not say {version}")
    if "train" not in run(petbook, "--help", cwd=place):
        problems.append("petbook --help does not name train")
    say("installed, imported, asked for its help")
    run(petbook, "train", "--data", "pets", "--quick", "--size", "64", "--arch", "petnet",
        "--out", "run",
        cwd=place, **home)
    wrong("petbook train", {name for name in TRAINED if not (place / "run" / name).exists()},
          "left no")
    image = next((place / "pets").rglob("*.png"))
    said = run(petbook, "predict", "run/model.safetensors", image, cwd=place, **home)
    if "pug" not in said and "Ragdoll" not in said:
        problems.append(f"petbook predict said {said}")
    say("trained, and classified an image")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=Path, help="leave the sdist and the wheel in this folder")
    parser.add_argument("--tag", help="the tag of a release, which must be v and the version")
    asked, card = parser.parse_args(), settings()
    if asked.tag and asked.tag != f"v{card['version']}":
        sys.exit(f"the tag is {asked.tag}, and settings.ini has version = {card['version']}; "
                 f"expected v{card['version']}")
    with tempfile.TemporaryDirectory(prefix="package-") as folder:
        place = Path(folder)
        package = copy_of_the_clone(place / "clone")
        run(sys.executable, "-m", "build", "--outdir", place / "dist", place / "clone", cwd=place)
        sdist, wheel = *(place / "dist").glob("*.tar.gz"), *(place / "dist").glob("*.whl")
        say(f"built {sdist.name} ({sdist.stat().st_size // 1000} KB) and {wheel.name} "
            f"({wheel.stat().st_size // 1000} KB)")
        look_into(sdist, wheel, package, card)
        run(Path(sysconfig.get_path("scripts"), "vermin"), "--quiet", "--no-tips", "--violations",
            f"-t={card['min_python']}-", place / "clone" / "petbook", cwd=place)
        run(sys.executable, "-m", "twine", "check", "--strict", sdist, wheel, cwd=place)
        say(f"looked into: {len(package)} files of the package in each")
        use(*install(wheel, place), place, card["version"])
        if asked.keep and not problems:
            asked.keep.mkdir(parents=True, exist_ok=True)
            for file in (sdist, wheel): shutil.copy(file, asked.keep)
    print("\n".join(problems) or "the package holds what it should, installs and works")
    sys.exit(bool(problems))


if __name__ == "__main__": main()
