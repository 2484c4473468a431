"""Which files a walk finds, in what order, and what it says of the others."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from inlay.documents import Source, walk
from inlay.errors import BadInput


def plant(root: Path, *names: str, text: str = "x\n") -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def names(root: Path, **options) -> list[str]:
    return [source.name for source in walk(root, **options)]


def test_sorted_by_whole_name_and_complete(tmp_path):
    planted = ["b.txt", "a/z.txt", "a.txt", "a/b/c.md", "a-b.txt", "README", "Z.py", "a/b.txt"]
    plant(tmp_path, *planted)
    assert names(tmp_path) == sorted(planted)


def test_a_source_tells_where_and_how_large(tmp_path):
    plant(tmp_path, "notes/a.txt", text="hello")
    (source,) = walk(tmp_path)
    path = tmp_path / "notes" / "a.txt"
    assert source == Source(path, "notes/a.txt", 5, path.stat().st_mtime_ns)
    assert source.path.is_absolute()


def test_a_relative_root_gives_absolute_paths(tmp_path, monkeypatch):
    plant(tmp_path, "d/a.txt")
    monkeypatch.chdir(tmp_path)
    (source,) = walk("d")
    assert source.path == tmp_path / "d" / "a.txt"
    assert source.name == "a.txt"


def test_one_file_is_taken_whatever_its_name(tmp_path):
    plant(tmp_path, ".odd.xyz")
    assert names(tmp_path / ".odd.xyz") == [".odd.xyz"]


def test_nothing_there_raises_at_once(tmp_path):
    with pytest.raises(BadInput, match="no such file"):
        walk(tmp_path / "absent")


def test_places_never_entered(tmp_path):
    plant(tmp_path, "a.txt", ".git/a.txt", ".hg/a.txt", "x/.svn/a.txt", "node_modules/p/a.js", "x/__pycache__/a.txt")
    plant(tmp_path, "env/pyvenv.cfg", "env/lib/a.py", "notes.inlay/a.txt", ".venv/a.txt")
    assert names(tmp_path, hidden=True) == ["a.txt"]


def test_a_file_may_end_like_a_collection_and_a_root_may_be_an_environment(tmp_path):
    plant(tmp_path, "pyvenv.cfg", "a.txt")
    assert names(tmp_path) == ["a.txt", "pyvenv.cfg"]


def test_hidden_names_on_request(tmp_path):
    plant(tmp_path, "a.txt", ".b.txt", ".c/d.txt")
    assert names(tmp_path) == ["a.txt"]
    assert names(tmp_path, hidden=True) == [".b.txt", ".c/d.txt", "a.txt"]


def test_unsupported_and_oversize_files_are_reported(tmp_path):
    plant(tmp_path, "a.txt", "b.png", "c.so")
    plant(tmp_path, "big.txt", text="y" * 100)
    skipped: dict[str, str] = {}
    assert names(tmp_path, max_bytes=50, on_skip=skipped.__setitem__) == ["a.txt"]
    assert set(skipped) == {"b.png", "c.so", "big.txt"}
    assert "no reader for .png" in skipped["b.png"]
    assert "100 bytes" in skipped["big.txt"]
    assert "big.txt" in names(tmp_path, max_bytes=None)


def test_include_and_exclude(tmp_path):
    plant(tmp_path, "a.txt", "src/b.py", "src/c.txt", "src/gen/d.py", "e.odd")
    assert names(tmp_path, include=["*.py"]) == ["src/b.py", "src/gen/d.py"]
    assert names(tmp_path, include=["*.odd"]) == ["e.odd"]
    assert names(tmp_path, exclude=["src/gen/", "*.txt"]) == ["src/b.py"]
    with pytest.raises(BadInput, match="list"):
        walk(tmp_path, include="*.py")


IGNORES = {
    ".gitignore": "*.log\n/anchored.txt\nbuild/\n!keep.log\ndocs/*.txt\n**/deep/*.md\n# comment\n\\#odd.txt\ntrail \n",
    "sub/.gitignore": "!special.log\nlocal.txt\n/only.txt\n",
    "sub/inner/.gitignore": "*\n!here.txt\n",
    "build/.gitignore": "!a.txt\n",
}
PLANTED = [
    "a.log",
    "keep.log",
    "anchored.txt",
    "sub/anchored.txt",
    "build/a.txt",
    "sub/build/a.txt",
    "sub/build.txt",
    "docs/a.txt",
    "docs/x/a.txt",
    "x/deep/a.md",
    "x/a.md",
    "#odd.txt",
    "sub/special.log",
    "sub/other.log",
    "local.txt",
    "sub/local.txt",
    "sub/only.txt",
    "sub/x/only.txt",
    "sub/inner/here.txt",
    "sub/inner/gone.txt",
    "sub/inner/x/here.txt",
]


@pytest.mark.skipif(shutil.which("git") is None, reason="git is the reference")
def test_ignore_files_mean_what_git_says_they_mean(tmp_path):
    plant(tmp_path, *PLANTED)
    for name, text in IGNORES.items():
        plant(tmp_path, name, text=text)
    git = ["git", "-c", "core.excludesFile=/dev/null", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "-q"], check=True)
    listed = subprocess.run(
        [*git, "ls-files", "-z", "--others", "--exclude-standard"], check=True, capture_output=True, text=True
    ).stdout
    expected = sorted(name for name in listed.split("\0") if name and not name.endswith(".gitignore"))
    assert names(tmp_path) == expected
    assert 5 < len(expected) < len(PLANTED)


def test_our_own_ignore_file_overrules_gits(tmp_path):
    plant(tmp_path, "a.txt", "b.txt", "c.txt")
    plant(tmp_path, ".gitignore", text="a.txt\n")
    plant(tmp_path, ".inlayignore", text="!a.txt\nb.txt\n")
    assert names(tmp_path) == ["a.txt", "c.txt"]


def test_ignore_files_above_the_root_hold_within_a_repository(tmp_path):
    plant(tmp_path, "repo/.git/HEAD", "repo/sub/a.txt", "repo/sub/b.txt", "repo/out/c.txt")
    plant(tmp_path, ".gitignore", text="*\n")  # outside the repository: nothing to do with it
    plant(tmp_path, "repo/.gitignore", text="sub/b.txt\nout/\n")
    assert names(tmp_path / "repo" / "sub") == ["a.txt"]
    assert names(tmp_path / "repo" / "out") == ["c.txt"], "an ignored folder that is named is wanted"


def test_a_malformed_ignore_line_does_not_lose_the_others(tmp_path):
    plant(tmp_path, "a.txt", "b.txt")
    plant(tmp_path, ".gitignore", text="!\n[\na.txt\n")
    assert names(tmp_path) == ["b.txt"]


def test_links_are_followed_inside_only_and_each_file_once(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    plant(root, "m.txt", ".hidden/h.txt", "d/n.txt")
    plant(outside, "o.txt")
    (root / "a.txt").symlink_to(root / "m.txt")  # sorts before what it leads to
    (root / "b.txt").symlink_to(root / ".hidden" / "h.txt")
    (root / "c.txt").symlink_to(outside / "o.txt")
    (root / "e.txt").symlink_to(root / "absent.txt")
    (root / "loop").symlink_to(root)
    (root / "d" / "up").symlink_to(root / "d")
    (root / "away").symlink_to(outside)
    (root / "ring1.txt").symlink_to(root / "ring2.txt")
    (root / "ring2.txt").symlink_to(root / "ring1.txt")
    skipped: dict[str, str] = {}
    assert names(root, on_skip=skipped.__setitem__) == ["d/n.txt", "m.txt", "b.txt"]
    assert set(skipped) == {"c.txt", "e.txt", "away", "ring1.txt", "ring2.txt"}
    assert "outside" in skipped["c.txt"]


def test_a_root_that_is_a_link(tmp_path):
    plant(tmp_path, "real/a.txt")
    (tmp_path / "real" / "b.txt").symlink_to(tmp_path / "real" / "a.txt")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert names(tmp_path / "link") == ["a.txt"]


def test_weird_names(tmp_path):
    weird = ["a b.txt", "new\nline.txt", "ünï.txt", "日本.md", "-dash.txt", "!bang.txt", "back\\slash.txt"]
    plant(tmp_path, *weird)
    plant(tmp_path, ".gitignore", text="unrelated\n")
    assert names(tmp_path) == sorted(weird)


def test_a_name_that_is_not_utf8_is_escaped_and_still_opens(tmp_path):
    path = os.path.join(os.fsencode(tmp_path), b"caf\xe9.txt")
    try:
        with open(path, "wb") as file:
            file.write(b"x")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    (source,) = walk(tmp_path)
    assert source.name == "caf\\xe9.txt"
    assert source.path.read_bytes() == b"x"


def test_pipes_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    skipped: dict[str, str] = {}
    assert names(tmp_path, on_skip=skipped.__setitem__) == []
    assert skipped == {"pipe.txt": "not a regular file"}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may read everything")
def test_an_unreadable_folder_is_reported(tmp_path):
    plant(tmp_path, "a.txt", "locked/b.txt")
    (tmp_path / "locked").chmod(0)
    skipped: dict[str, str] = {}
    try:
        assert names(tmp_path, on_skip=skipped.__setitem__) == ["a.txt"]
    finally:
        (tmp_path / "locked").chmod(0o755)
    assert "permission denied" in skipped["locked/"]


def test_an_empty_folder(tmp_path):
    assert names(tmp_path) == []
