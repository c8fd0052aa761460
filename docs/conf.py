"""The documentation as a site: `sphinx-build docs SITE`; pages open from a disk."""

import tomllib
from pathlib import Path

project = "coopmpi"
author = "coopmpi developers"
version = release = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
extensions = ["myst_parser"]
exclude_patterns = ["README.md"]
html_theme = "furo"
html_title = f"coopmpi {version}"
html_show_sourcelink = False
html_copy_source = False
myst_heading_anchors = 3
suppress_warnings = ["myst.xref_missing"]  # links to folders of the repository, which tests follow
