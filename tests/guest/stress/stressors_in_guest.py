"""What lies beside stress-ng's own files. Runs in the guest."""

from tree_in_guest import Tree, name_limit

#: Directory that stress-ng works in; it must be empty again afterwards.
PLACE = "place"


def longest_name(mount, lacks):
    return name_limit(mount, lacks)


def bystanders(root):
    """Files that stress-ng does not touch, and an empty directory for it."""
    tree = Tree(root)
    tree.mkdir(PLACE)
    tree.mkdir("beside")
    for number in range(6):
        tree.create(f"beside/f{number}", 3000 * number + 7)
    return tree.settle()
