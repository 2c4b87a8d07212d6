"""The house is where its plan says, and nobody walks through a wall."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = {
    "protos": ("vitral",),
    "server": ("vitral_engine", "vitral_server"),
    "export": ("vitral_export",),
    "clients": ("vitral_client", "vitral_doctor", "vitral_extract", "vitral_view"),
}
CODE = (*ROOMS, "tests", "benchmarks", "examples", "tools")
MOST_LINES = 300
FORBIDDEN = {"utils", "util", "helpers", "helper", "common", "misc"}
READMES = (ROOT / "README.md", ROOT / "README.ko.md")
TARGETS = ("setup", "demo", "export", "serve", "test", "lint", "proto", "proto-check", "bench", "clean")


def python_files() -> Iterator[Path]:
    for folder in CODE:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if not path.stem.endswith(("_pb2", "_pb2_grpc")):
                yield path


def headings(text: str) -> list[int]:
    """Depth of every heading, in order; fenced blocks may hold lines that look like one."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return [len(marks) for marks in re.findall(r"^(#+) ", prose, flags=re.MULTILINE)]


def blocks(text: str) -> list[str]:
    """Every fenced block, with the marker in front of it where it has one."""
    found = re.findall(r"((?:<!-- test: [a-z-]+ -->\n)?^```.*?^```)", text, flags=re.MULTILINE | re.DOTALL)
    return [str(block) for block in found]


@pytest.mark.parametrize("folder", ROOMS)
def test_every_room_has_its_packages_and_no_others(folder: str) -> None:
    packages = sorted(path.parent.name for path in (ROOT / folder).glob("*/__init__.py"))

    assert packages == sorted(ROOMS[folder])
    for package in packages:
        assert (ROOT / folder / package / "py.typed").exists()


@pytest.mark.parametrize(
    "path",
    [
        "Makefile",
        "pyproject.toml",
        "constraints.txt",
        "LICENSE",
        "CHANGELOG.md",
        "README.md",
        "README.ko.md",
        "docs/architecture.md",
        "docs/performance.md",
        "docs/preprocessing.md",
        "docs/verification.md",
        ".ci/run",
        "examples/demo.py",
        "protos/vitral/v1/embedding_service.proto",
    ],
)
def test_the_plan_names_no_file_that_is_missing(path: str) -> None:
    assert (ROOT / path).is_file()


def test_no_file_is_longer_than_three_hundred_lines() -> None:
    lengths = {
        path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for path in python_files()
    }

    assert {name: length for name, length in lengths.items() if length > MOST_LINES} == {}


def test_no_file_is_named_for_a_drawer() -> None:
    drawers = [path for path in python_files() if FORBIDDEN & {path.stem, *path.parent.parts}]

    assert drawers == []


def test_the_import_rule_holds() -> None:
    command = [Path(sys.executable).parent / "lint-imports", "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


def test_the_two_readmes_have_the_same_structure() -> None:
    english, korean = (path.read_text(encoding="utf-8") for path in READMES)

    assert headings(english) == headings(korean)
    assert english.count("\n- ") == korean.count("\n- ")
    assert english.count("\n| ") == korean.count("\n| ")


def test_the_two_readmes_have_the_same_blocks() -> None:
    english, korean = (blocks(path.read_text(encoding="utf-8")) for path in READMES)

    assert english == korean
    assert len(english) > 8


def test_the_first_line_of_each_readme_leads_to_the_other() -> None:
    for path, other in zip(READMES, reversed(READMES), strict=True):
        assert f"]({other.name})" in path.read_text(encoding="utf-8").splitlines()[0]


@pytest.mark.parametrize(
    "path",
    [
        "README.md",
        "README.ko.md",
        "docs/architecture.md",
        "docs/image-sizes.md",
        "docs/kserve.md",
        "docs/performance.md",
        "docs/sources.md",
        "docs/verification.md",
    ],
)
def test_links_and_named_files_exist(path: str) -> None:
    page = ROOT / path
    text = page.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    named = re.findall(r"`((?:protos|server|export|clients|tests|docs|tools|examples)/[\w/.-]+\.\w+)`", text)

    assert [link for link in links if not (page.parent / link).exists()] == []
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_both_readmes_lead_to_every_page() -> None:
    pages = sorted(page.relative_to(ROOT).as_posix() for page in (ROOT / "docs").glob("*.md"))

    for path in READMES:
        text = path.read_text(encoding="utf-8")
        assert [page for page in pages if f"]({page})" not in text] == []
        assert "`Prepared`" in text
        assert "`report.html`" in text


def test_a_request_is_followed_through_at_most_eight_files() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    path = text.split("## The path of a request")[1].split("\n## ")[0]
    files = re.findall(r"^\d+\. `([\w/.]+)`", path, flags=re.MULTILINE)

    assert 1 < len(files) <= 8
    assert files[0].endswith("service.py")
    assert files[-1].endswith("reply.py")


def test_help_lists_every_target() -> None:
    done = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    listed = re.findall(r"^  ([a-z-]+) +\S", done.stdout, flags=re.MULTILINE)
    defined = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)

    assert sorted(listed) == sorted(defined)
    assert set(TARGETS) <= set(listed)


def test_every_pin_is_exact() -> None:
    peers = "benchmarks/serving/peers/constraints.txt"
    roles = ("", "-proto", "-tensorflow", "-timm", "-torchvision")
    for name in (*(f"constraints{role}.txt" for role in roles), peers):
        lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
        pins = [line for line in lines if not line.startswith("#")]

        assert [line for line in pins if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line)] == []


def test_continuous_integration_runs_what_the_readme_says() -> None:
    script = ROOT / ".ci" / "run"

    assert script.stat().st_mode & 0o111
    assert "make test" in script.read_text(encoding="utf-8").splitlines()
    assert "\nmake test " in READMES[0].read_text(encoding="utf-8")
