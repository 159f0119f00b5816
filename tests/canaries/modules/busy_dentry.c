// SPDX-License-Identifier: GPL-2.0
/*
 * A filesystem that keeps a dentry reference past unmount.
 */
#include <linux/fs.h>
#include <linux/fs_context.h>
#include <linux/init.h>
#include <linux/module.h>

static const struct super_operations busy_dentry_sops = {
	.statfs = simple_statfs,
};

static struct inode *busy_dentry_make(struct super_block *sb, umode_t mode)
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

static int busy_dentry_fill(struct super_block *sb, struct fs_context *fc)
{
	struct inode *root;

	sb->s_magic = 0x76786331;
	sb->s_op = &busy_dentry_sops;
	root = busy_dentry_make(sb, S_IFDIR | 0755);
	if (!root)
		return -ENOMEM;
	sb->s_root = d_make_root(root);
	if (!sb->s_root)
		return -ENOMEM;
	dget(sb->s_root);
	return 0;
}

static int busy_dentry_get_tree(struct fs_context *fc)
{
	return get_tree_nodev(fc, busy_dentry_fill);
}

static const struct fs_context_operations busy_dentry_context = {
	.get_tree = busy_dentry_get_tree,
};

static int busy_dentry_init_context(struct fs_context *fc)
{
	fc->ops = &busy_dentry_context;
	return 0;
}

static struct file_system_type busy_dentry_type = {
	.owner = THIS_MODULE,
	.name = "busy_dentry",
	.init_fs_context = busy_dentry_init_context,
	.kill_sb = kill_anon_super,
};

static int __init busy_dentry_init(void)
{
	return register_filesystem(&busy_dentry_type);
}
module_init(busy_dentry_init);

static void __exit busy_dentry_exit(void)
{
	unregister_filesystem(&busy_dentry_type);
}
module_exit(busy_dentry_exit);

MODULE_DESCRIPTION("vexrun canary: a filesystem that keeps a dentry reference past unmount");
MODULE_LICENSE("GPL");
