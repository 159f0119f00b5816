// SPDX-License-Identifier: GPL-2.0
const struct inode_operations vexfs_dir_inode_operations = {
	.lookup = vexfs_lookup, .create = vexfs_create, .link = vexfs_link, .unlink = vexfs_unlink,
	.symlink = vexfs_symlink, .mkdir = vexfs_mkdir, .rename = vexfs_rename, .mknod = vexfs_mknod,
};
