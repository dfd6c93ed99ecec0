"""`python -m xenblk` is the command `xenblk`."""

from xenblk.cli import main

if __name__ == "__main__":
    main()
