"""The README's example: a ticket in a network and a loop of the user's own."""

import re
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_example_finds_tickets_in_a_network_and_a_loop_of_the_users_own(capsys):
    example = re.search(r"<!-- example -->\n```python\n(.*?)```", README, re.DOTALL)
    assert example is not None
    namespace: dict[str, object] = {}
    exec(example[1], namespace)
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed] == ["100%", "80%", "64%", "51%", "41%", "33%"]
    mask, trained = namespace["mask"], namespace["trained"]
    assert all((trained[name][~mask[name]] == 0).all() for name in mask)
    assert all((trained[name][mask[name]] != 0).any() for name in mask)


def test_every_folder_and_file_it_names_is_there():
    tree = README.split("## What is where")[1].split("```")[1]
    root = Path(__file__).parents[1]
    folder = root
    for line in tree.strip().splitlines():
        name = line.split()[0]
        folder = root / name if name.endswith("/") else folder
        assert (folder if name.endswith("/") else folder / name).exists()
