"""The figures of `docs/gallery.md`, made by the code that stands on the page.

Run from the repository's root: `make gallery`, or `python docs/make_gallery.py`. Every block of
code on the page is run in turn, in one namespace, in the folder that the figures go to; the first
one sets the seed. It takes less than a minute, and as
long again where nothing is compiled.
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
    """Return the blocks of code of a page in Markdown as one program.

    Args:
        page: The text of the page.
    """
    blocks: list[str] = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    return "\n".join(blocks)


def make_figures(code: str, folder: Path) -> None:
    """Run code within a folder.

    Args:
        code: What saves figures under names without a folder.
        folder: Where they go; made if it does not exist.
    """
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
