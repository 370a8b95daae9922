"""Make the embedded model ahead: ``python -m inspector.model.embedded``.

Its folder is printed as JSON. Exit codes: 0 it is there; 2 when it cannot be made.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from inspector.command import finished, tell
from inspector.model.embedded import NAME, ensure


def main(arguments: Sequence[str] | None = None) -> int:
    """Make it where it is not there yet, and print where it is."""
    parser = argparse.ArgumentParser(
        prog="python -m inspector.model.embedded",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args(arguments)
    return finished(lambda: tell({"model": NAME, "folder": str(ensure())}))


if __name__ == "__main__":
    sys.exit(main())
