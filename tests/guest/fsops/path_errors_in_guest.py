"""What path errors must look like. Runs in the guest."""

import os

from tree_in_guest import Tree, fails_with


def error_cases(root):
    """What path errors must look like; each entry is (errnos, function, arguments)."""
    file, directory, nothing = f"{root}/file", f"{root}/dir", f"{root}/nothing"
    write, create = os.O_WRONLY, os.O_CREAT | os.O_EXCL | os.O_WRONLY
    return {
        "create-existing": ("EEXIST", os.open, (file, create)),
        "open-missing": ("ENOENT", os.open, (nothing, os.O_RDONLY)),
        "open-below-missing": ("ENOENT", os.open, (f"{nothing}/x", os.O_CREAT | write)),
        "open-below-file": ("ENOTDIR", os.open, (f"{file}/x", os.O_RDONLY)),
        "create-below-file": ("ENOTDIR", os.open, (f"{file}/x", os.O_CREAT | write)),
        "list-file": ("ENOTDIR", os.listdir, (file,)),
        "write-directory": ("EISDIR", os.open, (directory, write)),
        "truncate-directory": ("EISDIR", os.truncate, (directory, 0)),
        "unlink-missing": ("ENOENT", os.unlink, (nothing,)),
        "rename-missing": ("ENOENT", os.rename, (nothing, f"{root}/x")),
        "truncate-negative": ("EINVAL", os.truncate, (file, -1)),
        "read-directory": ("EISDIR", _read_directory, (directory,)),
        "name-of-4000": ("ENAMETOOLONG", os.open, (f"{root}/{'n' * 4000}", os.O_CREAT | write)),
    }


def _read_directory(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        os.read(fd, 10)
    finally:
        os.close(fd)


def error_of(root, case, with_directory):
    """Set the scene, then check one case of `error_cases`."""
    tree = Tree(root)
    tree.create("file", 100)
    if with_directory:
        tree.mkdir("dir")
    names, function, arguments = error_cases(root)[case]
    fails_with(names, case, function, *arguments)
    tree.settle(cleanup=True)
