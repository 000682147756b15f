"""Draw the figures of `docs/gallery.md` by running the code on the page.

Run from the root of the repository: `make gallery`, or `python docs/make_gallery.py`. The blocks of
code are run in order, in one namespace and in the output folder; the first one sets the seed. It
takes less than a minute, twice as long if nothing has been compiled yet.
"""

import argparse
import contextlib
import re
from pathlib import Path

import torch

import flossing

PAGE = Path(__file__).parent / "gallery.md"
FIGURES = Path(__file__).parent / "figures" / "gallery"


def code_of(page: str) -> str:
    """Return the Python blocks of a page in Markdown as one program."""
    blocks: list[str] = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    return "\n".join(blocks)


def make_figures(code: str, folder: Path) -> None:
    """Run code in a folder, which is created if it does not exist."""
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(folder):
        exec(compile(code, str(PAGE), "exec"), {"__name__": "gallery"})


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--output", type=Path, default=FIGURES, help="folder (default: %(default)s)"
    )
    # The order of sums, and so the last digits, depends on the number of threads.
    torch.set_num_threads(1)
    for dtype in (torch.float32, torch.float64):
        flossing.compile_ahead(dtype=dtype)
    make_figures(code_of(PAGE.read_text(encoding="utf-8")), parser.parse_args().output)


if __name__ == "__main__":
    main()
