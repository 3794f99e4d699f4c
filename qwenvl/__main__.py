"""`python -m qwenvl` is the command line."""

from qwenvl.cli import main

if __name__ == "__main__":
    main()
