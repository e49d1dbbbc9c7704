"""Print a command of the README, so that CI and tests run what readers run.

In: the name in a comment `<!-- command: NAME -->`. Out: the code block that follows it, on standard output.
Example: bash -euo pipefail -c "$(python3 scripts/readme_command.py demo)"
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

README = Path(__file__).resolve().parent.parent / "README.md"


def readme_command(name: str) -> str:
    """The shell commands of the block named `name`."""
    blocks = dict(re.findall(r"<!-- command: (\S+) -->\n+```bash\n(.*?)```", README.read_text("utf-8"), re.DOTALL))
    if name not in blocks:
        raise SystemExit(f"{README.name} has no command {name!r}; it has: {', '.join(sorted(blocks))}")
    return blocks[name]


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] in ("-h", "--help"):
        raise SystemExit(__doc__)
    print(readme_command(sys.argv[1]), end="")
