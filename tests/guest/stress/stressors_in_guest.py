"""What lies beside stress-ng's own files. Runs in the guest."""

from tree_in_guest import Tree, free_space

#: Directory that stress-ng works in; it must be empty again afterwards.
PLACE = "place"


def space(mount):
    return free_space(mount)


def bystanders(root):
    """Files that stress-ng does not touch, and an empty directory for it."""
    tree = Tree(root)
    tree.mkdir(PLACE)
    tree.mkdir("beside")
    for number in range(6):
        tree.create(f"beside/f{number}", 3000 * number + 7)
    return tree.settle()
