"""Programs in C for guests, which have no libraries."""

import io
import subprocess
import tempfile
from pathlib import Path

from lab.cpio import Archive


def program_archive(source: Path) -> bytes:
    """An archive with one program in it, /bin/ and the name of its source: add it to a guest's `files`."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / source.stem
        words = ["cc", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O2", "-static", "-o", str(program), str(source)]
        subprocess.run(words, check=True)
        file = io.BytesIO()
        archive = Archive(file)
        archive.file(f"bin/{source.stem}", program.read_bytes(), 0o755)
        archive.close()
        return file.getvalue()
