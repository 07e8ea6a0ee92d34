"""Mutate images and model files by their structure, and list whatever petbook does not refuse as it should.

    python nbs/scripts/fuzz.py                                   10,000 of each, results in results/fuzz_*.json
    python nbs/scripts/fuzz.py images --count 300 --no-results   one half, a short run

Everything behind the first word goes to fuzz_images.py or fuzz_models.py, which say what they do.
"""
import subprocess
import sys
from pathlib import Path


def main():
    words = sys.argv[1:]
    halves = [words.pop(0)] if words and words[0] in ("images", "models") else ["images", "models"]
    if words and words[0] in ("-h", "--help"): return print(__doc__)
    raise SystemExit(max(subprocess.run([sys.executable, Path(__file__).with_name(f"fuzz_{half}.py"), *words]).returncode
                         for half in halves))


if __name__ == "__main__": main()
