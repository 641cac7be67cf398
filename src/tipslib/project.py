"""Where does the project keep its files?"""

import os
from pathlib import Path


def root() -> Path:
    """Folder that holds `data/`, `notebooks/` and `build/`.

    `TIPSLIB_HOME` if it is set; else the checkout this package was installed from (editable); else the current folder.
    """
    if home := os.environ.get("TIPSLIB_HOME"):
        return Path(home).resolve()
    checkout = Path(__file__).resolve().parents[2]
    return checkout if (checkout / "pyproject.toml").is_file() else Path.cwd()
