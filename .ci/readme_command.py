"""Print one of the two commands of README.md: `main` (the first shell block) or `tests` (the second)."""
import re
import sys
from pathlib import Path

blocks = re.findall(r"^```sh\n(.*?)^```", Path("README.md").read_text(encoding="utf-8"), flags=re.M | re.S)
if len(blocks) != 2: sys.exit(f"README.md must hold exactly two shell commands, but it holds {len(blocks)}")
print(blocks[["main", "tests"].index(sys.argv[1])].strip())
