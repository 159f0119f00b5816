// SPDX-License-Identifier: GPL-2.0
static int vexfs_search_get_tree(struct fs_context *context)
{
	return get_tree_nodev(context, vexfs_search_fill_super);
}

static struct file_system_type vexfs_search_type = {
	.name = "vexfs_search",
	.init_fs_context = vexfs_search_init_context,
	.kill_sb = kill_litter_super,
};

static int __init vexfs_search_init(void)
{
	return register_filesystem(&vexfs_search_type);
}
MODULE_LICENSE("GPL v2");
