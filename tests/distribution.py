"""Fail unless the built archives are complete, small, and of one version.

``python tests/distribution.py dist`` checks the wheel and the sdist that ``python -m build`` made,
which builds the wheel from the sdist; ``--tag v1.2.3`` also that a tag names this version.
"""

import argparse
import re
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = {"optuna_agenttts": ROOT, "optuna_agenttts_integrations": ROOT / "integrations"}
LARGEST = 3e6
"""Size that the wheel must stay below, in bytes. Chosen by hand."""
RELATIVE = re.compile(r"\]\((?![a-z]+:|#)[^)]*\)")


def sources():
    """Return the paths that the wheel must have."""
    return {
        str(path.relative_to(folder))
        for name, folder in PACKAGES.items()
        for path in (folder / name).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tag")
    options = parser.parse_args()
    (wheel,) = options.folder.glob("*.whl")
    (sdist,) = options.folder.glob("*.tar.gz")

    assert wheel.stat().st_size < LARGEST, f"{wheel} has {wheel.stat().st_size:,} bytes"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (path,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        facts = message_from_bytes(archive.read(path))
    found = {name for name in names if ".dist-info/" not in name}
    assert found == sources(), f"wheel and source tree differ: {found ^ sources()}"

    with tarfile.open(sdist) as archive:
        shipped = {name.partition("/")[2] for name in archive.getnames()}
    for name in ("README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "pyproject.toml"):
        assert name in shipped, f"{sdist} lacks {name}"
    for name in ("docs", "examples", "tests", "integrations/optunahub"):
        assert any(path.startswith(f"{name}/") for path in shipped), f"{sdist} lacks {name}"

    for field in ("Author", "Summary", "License-Expression", "License-File", "Requires-Python"):
        assert facts[field], f"metadata lack {field}"
    for field in ("Classifier", "Project-URL", "Provides-Extra", "Requires-Dist"):
        assert facts.get_all(field), f"metadata lack {field}"
    links = RELATIVE.findall(facts.get_payload())
    assert not links, f"links that lead nowhere on the index: {links}"

    version = facts["Version"]
    assert wheel.name.split("-")[1] == version == sdist.name.split("-")[1].removesuffix(".tar.gz")
    if options.tag:
        assert options.tag == f"v{version}", f"the tag is {options.tag}, the version {version}"
        changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
        dated = re.search(rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$", changes, re.M)
        assert dated, f"CHANGELOG.md has no dated section for {version}"
    print(f"{wheel.name}: {wheel.stat().st_size:,} bytes, {len(found)} files; {sdist.name}")


if __name__ == "__main__":
    main()
