"""A tree like a small project, and its changes. Runs in the guest."""

from tree_in_guest import Tree, known


def whole_tree(root, lacks):
    """A tree like a small project: three levels, many sizes, links where there are links."""
    tree = Tree(root)
    where = [""]
    if "mkdir" not in lacks:
        for name in ("src", "src/lib", "src/lib/deep", "doc", "empty"):
            tree.mkdir(name)
        where += ["src/", "src/lib/", "src/lib/deep/", "doc/"]
    for number, prefix in enumerate(where):
        for index, size in enumerate((0, 13, 4096, 9000, 33_000)):
            tree.create(f"{prefix}f{index}", size + number)
        if "symlink" not in lacks:
            tree.symlink("f1", f"{prefix}sl")
        if "hardlink" not in lacks:
            tree.link(f"{prefix}f3", f"{prefix}hl")
    if "mkdir" not in lacks and "hardlink" not in lacks:
        tree.link("src/lib/deep/f4", "doc/far")
    return tree.settle()


def changed_tree(root, note, lacks):
    """Change a tree after a remount: everything once more, on what came from disk."""
    tree = known(root, note)
    prefix = "src/lib/" if "mkdir" not in lacks else ""
    if "unlink" not in lacks:
        tree.unlink(f"{prefix}f0")
        tree.unlink(f"{prefix}f4")
    if "append" not in lacks:
        tree.append(f"{prefix}f1", 7000)
    if "truncate" not in lacks:
        tree.truncate(f"{prefix}f2", 100)
    tree.write(f"{prefix}f3", 4000, 3000)
    if "rename" not in lacks:
        tree.rename(f"{prefix}f3", f"{prefix}moved")
        if "mkdir" not in lacks:
            tree.rename("doc", "src/lib/deep/doc")
    tree.create(f"{prefix}fresh", 12_345)
    return tree.settle()
