"""Install petbook from the one place that describes it, `settings.ini`."""
import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup


def readme() -> str:
    "README.md with links that also lead somewhere on an index of packages."
    text, site = Path("README.md").read_text(encoding="utf-8"), card["git_url"]
    text = re.sub(r"!\[([^]]*)\]\((?!https?:)", rf"![\1]({site}/raw/{card['branch']}/", text)
    return re.sub(r"(?<=\]\()(?!https?:|#|mailto:)", f"{site}/blob/{card['branch']}/", text)


config = ConfigParser(delimiters=["="])
config.read("settings.ini", encoding="utf-8")
card = config["DEFAULT"]
extras = {"dev": "dev_requirements", "timm": "timm_requirements", "metrics": "metrics_requirements",
          "onnx": "onnx_requirements", "tensorboard": "tensorboard_requirements",
          "app": "app_requirements"}

setup(
    name=card["lib_name"],
    version=card["version"],
    description=card["description"],
    long_description=readme(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    author=card["author"],
    author_email=card["author_email"],
    url=card["git_url"],
    keywords=card["keywords"].split(),
    packages=find_packages(include=["petbook", "petbook.*"]),
    package_data={"petbook": ["py.typed", "weights/*.safetensors"]},
    python_requires=f">={card['min_python']}",
    install_requires=card["requirements"].split(),
    extras_require={name: card[key].split() for name, key in extras.items() if key in card},
    entry_points={"console_scripts": card["console_scripts"].split(), "nbdev": ["petbook=petbook._modidx:d"]},
    classifiers=["Development Status :: 3 - Alpha", "Intended Audience :: Developers", "Intended Audience :: Education",
                 "Natural Language :: English", "Programming Language :: Python :: 3",
                 *(f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 14)),
                 "Topic :: Scientific/Engineering :: Artificial Intelligence", "Typing :: Typed"],
    project_urls={"Source": card["git_url"], "Documentation": card["doc_host"] + card["doc_baseurl"]},
    zip_safe=False,
)
