"""The version, in this one place: pyproject.toml reads it here. (Asking the installed metadata costs 30 ms.)"""

__version__ = "0.1.0"
