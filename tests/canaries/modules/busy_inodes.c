// SPDX-License-Identifier: GPL-2.0
/*
 * A filesystem that keeps an inode reference past unmount.
 */
#include <linux/fs.h>
#include <linux/fs_context.h>
#include <linux/init.h>
#include <linux/module.h>

static struct inode *lost;

static const struct super_operations busy_inodes_sops = {
	.statfs = simple_statfs,
};

static struct inode *busy_inodes_make(struct super_block *sb, umode_t mode)
{
	struct inode *inode = new_inode(sb);

	if (!inode)
		return NULL;
	inode->i_ino = get_next_ino();
	inode->i_mode = mode;
	inode->i_op = &simple_dir_inode_operations;
	inode->i_fop = &simple_dir_operations;
	return inode;
}

static int busy_inodes_fill(struct super_block *sb, struct fs_context *fc)
{
	struct inode *root;

	sb->s_magic = 0x76786331;
	sb->s_op = &busy_inodes_sops;
	root = busy_inodes_make(sb, S_IFDIR | 0755);
	if (!root)
		return -ENOMEM;
	sb->s_root = d_make_root(root);
	if (!sb->s_root)
		return -ENOMEM;
	lost = busy_inodes_make(sb, S_IFREG | 0600);
	return 0;
}

static int busy_inodes_get_tree(struct fs_context *fc)
{
	return get_tree_nodev(fc, busy_inodes_fill);
}

static const struct fs_context_operations busy_inodes_context = {
	.get_tree = busy_inodes_get_tree,
};

static int busy_inodes_init_context(struct fs_context *fc)
{
	fc->ops = &busy_inodes_context;
	return 0;
}

static struct file_system_type busy_inodes_type = {
	.owner = THIS_MODULE,
	.name = "busy_inodes",
	.init_fs_context = busy_inodes_init_context,
	.kill_sb = kill_anon_super,
};

static int __init busy_inodes_init(void)
{
	return register_filesystem(&busy_inodes_type);
}
module_init(busy_inodes_init);

static void __exit busy_inodes_exit(void)
{
	unregister_filesystem(&busy_inodes_type);
}
module_exit(busy_inodes_exit);

MODULE_DESCRIPTION("vexrun canary: a filesystem that keeps an inode reference past unmount");
MODULE_LICENSE("GPL");
