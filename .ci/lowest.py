"""Prints the lowest version that pyproject.toml lets in of each thing the package and its tests need, for pip."""

import re
import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
wanted = project["dependencies"] + project["optional-dependencies"]["test"]
left_out = sys.argv[1:]
lowest = [re.match(r"([\w-]+)>=([\d.]+)", requirement) for requirement in wanted]
print(*(f"{name}=={version}" for name, version in map(re.Match.groups, lowest) if name not in left_out))
