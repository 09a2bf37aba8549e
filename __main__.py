"""`python -m unlearnrec COMMAND ...`: the same commands where scripts are not on the PATH, as inside a Ray job."""

from .cluster.cli.app import main

if __name__ == "__main__":
    main()
