"""A run from a recipe, resumed where it stopped; then its export.

python -m superfine.train recipes/NAME.toml --data FOLDER
python -m superfine.train recipes/NAME.toml --export NAME.onnx --test Set5=FOLDER Set14=FOLDER
"""

import argparse
import sys
from pathlib import Path

from superfine.errors import SuperfineError
from superfine.train.config import read_recipe
from superfine.train.export import export_run
from superfine.train.loop import train

parser = argparse.ArgumentParser(
    prog="python -m superfine.train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("recipe", type=Path)
parser.add_argument("--data", type=Path, help="the folder that holds the recipe's folders of pictures")
parser.add_argument("--run", type=Path, help="where the state is kept; default: runs/NAME")
parser.add_argument("--export", type=Path, help="write this ONNX file from the run's newest state instead of training")
parser.add_argument(
    "--test", nargs="*", default=[], metavar="NAME=FOLDER", help="pairs *HR*, *LR* to measure the exported file on"
)
given = parser.parse_args()


def say(line: str) -> None:
    """One line of progress, at once."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def main() -> None:
    """Train, or export what was trained."""
    config = read_recipe(given.recipe)
    run = given.run or Path("runs") / given.recipe.stem
    if given.export is not None:
        tests = {name: Path(folder) for name, _, folder in (test.partition("=") for test in given.test)}
        card = export_run(config, run, given.export, tests, f"recipes/{given.recipe.name}")
        say(f"{given.export}: {card.parameters:,} parameters, {card.psnr}")
    elif given.data is None:
        parser.error("--data is missing: the folder that holds the recipe's folders of pictures")
    else:
        train(config, given.data, run, say=say)


try:
    main()
except SuperfineError as error:
    parser.exit(1, f"{error}\n")
