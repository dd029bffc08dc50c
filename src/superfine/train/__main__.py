"""`python -m superfine.train recipes/NAME.toml --data FOLDER`: a run from a recipe, resumed where it stopped."""

import argparse
import sys
from pathlib import Path

from superfine.errors import SuperfineError
from superfine.train.config import read_recipe
from superfine.train.loop import train

parser = argparse.ArgumentParser(prog="python -m superfine.train", description=__doc__)
parser.add_argument("recipe", type=Path)
parser.add_argument("--data", type=Path, required=True, help="the folder that holds the recipe's folders of pictures")
parser.add_argument("--run", type=Path, help="where the state is kept; default: runs/NAME")
given = parser.parse_args()


def say(line: str) -> None:
    """One line of progress, at once."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


try:
    train(read_recipe(given.recipe), given.data, given.run or Path("runs") / given.recipe.stem, say=say)
except SuperfineError as error:
    parser.exit(1, f"{error}\n")
