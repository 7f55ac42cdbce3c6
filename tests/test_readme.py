"""The README: its example, and its tree of folders and files."""

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
