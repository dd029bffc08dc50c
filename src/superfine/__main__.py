"""`python -m superfine` is the command `superfine`."""

from superfine.cli import main

main()
