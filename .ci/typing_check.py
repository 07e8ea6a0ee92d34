"""What editors see: mypy and pyright accept a user's script and find each planted mistake in it."""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = {"mypy": ["-m", "mypy", "--no-error-summary", "--follow-imports=silent"],
            "pyright": ["-m", "pyright"]}


def marked_lines(name, folder):
    "The lines of the script in which a checker finds an error, and all that it said."
    said = subprocess.run([sys.executable, *COMMANDS[name], "user_script.py"], cwd=folder,
                          env={**os.environ, "MYPYPATH": str(ROOT)}, capture_output=True, text=True)
    found = re.findall(r"user_script\.py:(\d+)(?::\d+)?:? (?:- )?error", said.stdout)
    return set(map(int, found)), said.stdout + said.stderr


def main():
    "Run both checkers and compare the lines that they mark with the planted ones."
    script, bad = ROOT / ".ci" / "user_script.py", False
    planted = {number for number, line in enumerate(script.read_text().splitlines(), 1)
               if "# planted" in line}
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(script, folder)
        config = {"extraPaths": [str(ROOT)], "include": ["user_script.py"]}
        Path(folder, "pyrightconfig.json").write_text(json.dumps(config))
        for name in COMMANDS:
            found, said = marked_lines(name, folder)
            right = len(planted & found)
            print(f"{name}: {right} of {len(planted)} planted mistakes found, "
                  f"{len(found - planted)} right lines refused")
            if found != planted: print(said)
            bad |= found != planted
    sys.exit(bad)


if __name__ == "__main__": main()
