// SPDX-License-Identifier: GPL-2.0
static int vexfs_core_get_tree(struct fs_context *context)
{
	return get_tree_nodev(context, vexfs_core_fill_super);
}

static struct file_system_type vexfs_core_type = {
	.name = "vexfs_core",
	.init_fs_context = vexfs_core_init_context,
	.kill_sb = kill_litter_super,
};

static int __init vexfs_core_init(void)
{
	return register_filesystem(&vexfs_core_type);
}
MODULE_LICENSE("GPL v2");
