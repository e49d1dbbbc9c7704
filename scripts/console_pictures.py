"""Pictures of a run's console for the documents: what a terminal of 100 columns shows, running and finished.

In: a command. Out: docs/images/console_running.png and console_finished.png. The command runs in a real
pseudo-terminal; its output is interpreted by a terminal emulator (pyte), drawn by rich and photographed by chromium, so
the pictures show what was printed and nothing else.

    python scripts/console_pictures.py titan-speech train train_configs/demo.toml --training.target_tokens 49_152
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import struct
import subprocess
import sys
import tempfile
import termios
from pathlib import Path

import pyte
from rich.console import Console
from rich.text import Text

COLUMNS, LINES = 100, 400
RUNNING_ROWS = 6
"""Lines below the header, the bar among them, in the picture of a run that goes on."""
PIXELS_PER_COLUMN, PIXELS_PER_LINE = 12.2, 24.4
"""Of rich's picture, and what its frame adds."""
FRAME = (30, 52)


def record(command: list[str]) -> list[str]:
    """The output of the command in a terminal, in pieces as they came."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe(command[0], command, {**os.environ, "TERM": "xterm-256color"})
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    pieces = []
    while True:
        try:
            pieces.append(os.read(terminal, 65536).decode("utf-8", "replace"))
        except OSError:  # how a pseudo-terminal says that its process ended
            break
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        sys.exit(f"{' '.join(command)} ended with {code}:\n{''.join(pieces)[-3000:]}")
    return pieces


def screen(pieces: list[str]) -> list[Text]:
    """What is on the screen after these pieces, with colors."""
    emulator = pyte.Screen(COLUMNS, LINES)
    stream = pyte.Stream(emulator)
    for piece in pieces:
        stream.feed(piece)
    lines = []
    for number in range(emulator.cursor.y + 1):
        row, line = emulator.buffer[number], Text()
        for column in range(COLUMNS):
            cell = row[column]
            color = "" if cell.fg == "default" else f"#{cell.fg}" if len(cell.fg) == 6 else cell.fg
            line.append(cell.data, f"{'bold ' if cell.bold else ''}{color}".strip())
        line.rstrip()
        lines.append(line)
    while lines and not lines[-1].plain:
        lines.pop()
    return lines


def draw(lines: list[Text], title: str, path: Path) -> None:
    """Write the lines as a picture of a terminal."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), color_system="truecolor", force_terminal=True)
    for line in lines:
        console.print(line, no_wrap=True, crop=False)
    size = (int(COLUMNS * PIXELS_PER_COLUMN + FRAME[0]), int(len(lines) * PIXELS_PER_LINE + FRAME[1]))
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        svg, page = Path(folder, "console.svg"), Path(folder, "console.html")
        console.save_svg(str(svg), title=title)
        page.write_text(f'<body style="margin:0"><img src="{svg.name}" width="{size[0]}"></body>')
        subprocess.run(
            [
                *("chromium", "--headless", "--no-sandbox", "--hide-scrollbars", f"--window-size={size[0]},{size[1]}"),
                *("--force-device-scale-factor=1", f"--screenshot={path.absolute()}", page.as_uri()),
            ],
            check=True,
            capture_output=True,
        )


def main() -> None:
    pieces = record(sys.argv[1:])
    images = Path(__file__).resolve().parents[1] / "docs" / "images"
    title = " ".join(sys.argv[1:])
    for end in range(len(pieces)):
        lines = screen(pieces[:end])
        header = next((n for n, line in enumerate(lines) if "tokens/s/GPU" in line.plain), None)
        has_bar = bool(lines) and "━" in lines[-1].plain
        if header is not None and has_bar and len(lines) - header > RUNNING_ROWS:
            draw(lines, title, images / "console_running.png")
            break
    lines = screen(pieces)
    last = max((n for n, line in enumerate(lines) if "loss by group" in line.plain), default=0)
    draw(lines[max(last - 8, 0) :], title, images / "console_finished.png")


if __name__ == "__main__":
    main()
