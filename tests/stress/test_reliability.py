"""The stress program runs, and writes a table."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent / "reliability.py"
PAGE = PROGRAM.parent.parent.parent / "docs" / "reliability.md"


@pytest.mark.slow
def test_a_small_share_of_the_stress_program_succeeds():
    """The exit code and the table count what was found."""
    command = [sys.executable, PROGRAM, "--scale", "0.005", "--only", "replies", "kills-sqlite"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "| random replies | 50 replies" in found.stdout
    assert "0 of those stored lost" in found.stdout


@pytest.mark.skipif(not PAGE.exists(), reason="needs the source tree")
def test_the_page_has_a_place_for_the_table():
    page = PAGE.read_text(encoding="utf-8")
    start, end = "<!-- table of tests/stress/reliability.py -->", "<!-- end of the table -->"
    assert page.index(start) < page.index(end)
