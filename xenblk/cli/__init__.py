"""The one command, `xenblk`."""


def main() -> None:
    """Run the command line."""
