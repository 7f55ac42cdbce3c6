"""The README: its example, and its tree of folders and files."""

import re

import pages
import pytest
from project import PRINTED, README, ROOT, example


def test_the_example_finds_tickets_in_a_network_and_a_loop_of_the_users_own(capsys):
    namespace: dict[str, object] = {}
    exec(example(), namespace)
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed] == PRINTED
    mask, trained = namespace["mask"], namespace["trained"]
    assert all((trained[name][~mask[name]] == 0).all() for name in mask)
    assert all((trained[name][mask[name]] != 0).any() for name in mask)


def test_every_folder_and_file_it_names_is_there():
    tree = README.split("## What is where")[1].split("```")[1]
    folder = ROOT
    for line in tree.strip().splitlines():
        name = line.split()[0]
        path = (folder if line.startswith(" ") else ROOT) / name
        folder = folder if line.startswith(" ") else path
        assert path.is_dir() if name.endswith("/") else path.is_file(), path


def test_its_results_are_those_of_the_records(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LTH_RESULTS", str(ROOT / "results"))
    monkeypatch.setenv("LTH_STORE", str(ROOT / "no-runs"))
    table = README.split("<!-- results -->\n")[1].split("<!-- end of results -->")[0]
    assert table == pages.readme_results(), "make notebooks writes it anew"
    pictures = re.findall(r'(?:src|srcset)="(\S+)"', README)
    assert len(pictures) == 2
    assert all((ROOT / picture).is_file() for picture in pictures)
