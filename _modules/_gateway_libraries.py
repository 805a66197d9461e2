"""Whether a library is another one than the one that was imported, as after an upgrade."""

import os
import sys

PREFIX = "_gateway_"


def _written() -> dict[str, int]:
    with os.scandir(os.path.dirname(__file__)) as files:
        return {
            file.name: file.stat().st_mtime_ns for file in files if file.name.startswith(PREFIX)
        }


_imported = _written()


def forget_changed() -> None:
    """Make the next import read all libraries again if a file is not the one that was imported.

    A process that runs on after an upgrade, a minion or a master, would go on with the old ones. To
    import them takes 15 ms, and Salt 3008 loads a module twice in one apply.
    """
    written = _written()
    if written == _imported:
        return
    _imported.clear()
    _imported.update(written)
    for name in [name for name in sys.modules if name.startswith(PREFIX) and name != __name__]:
        del sys.modules[name]
