"""`make pdf`: the whole book as one page, printed by Chromium to `_build/book.pdf`."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PDF = Path("_build/book.pdf")


def main() -> int:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if not chromium:
        print("make pdf needs Chromium (Debian: apt-get install chromium).", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        program = Path(sys.executable).with_name("jupyter-book")
        one_page = [str(program), "build", ".", "--builder", "singlehtml", "-q"]
        subprocess.run([*one_page, "--path-output", folder], check=True)
        # Its links to scripts and styles count from the root of the site.
        site = Path(folder) / "_build" / "singlehtml"
        page = Path(shutil.copy(site / "book" / "intro.html", site))
        _print(chromium, page, folder)
    print(f"Open {PDF.resolve()} ({PDF.stat().st_size / 1e6:.1f} MB)")
    return 0


def _print(chromium: str, page: Path, profile: str) -> None:
    PDF.parent.mkdir(exist_ok=True)
    subprocess.run(
        [
            *(chromium, "--headless=new", "--no-sandbox", "--disable-gpu"),
            f"--user-data-dir={profile}/chromium",
            # Mathematics is set before the page is printed.
            "--virtual-time-budget=60000",
            "--no-pdf-header-footer",
            f"--print-to-pdf={PDF.resolve()}",
            page.as_uri(),
        ],
        check=True,
        stderr=subprocess.DEVNULL,
    )


if __name__ == "__main__":
    raise SystemExit(main())
