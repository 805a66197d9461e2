"""salt-call in which one state fails: failing_state.py ID ARGUMENT...

The state with this id does nothing and fails; whatever else happens is what Salt makes of that. It
is run by the Python of the Salt that it is for.
"""

from __future__ import annotations

import sys
from typing import Any

import salt.scripts
import salt.state


def main() -> None:
    wanted = sys.argv.pop(1)
    call = salt.state.State.call

    def failing(self: Any, low: dict[str, Any], *arguments: Any, **keywords: Any) -> Any:
        if low["__id__"] == wanted:
            kept = {key: value for key, value in low.items() if key.startswith("__")}
            low = kept | {
                "state": "test",
                "fun": "fail_without_changes",
                "name": low["name"],
                "order": low["order"],
            }
        return call(self, low, *arguments, **keywords)

    salt.state.State.call = failing
    salt.scripts.salt_call()


main()
