// SPDX-License-Identifier: GPL-2.0
static struct file_system_type vexfs_fs_type = {
	.owner		= THIS_MODULE,
	.name		= "vexfs_fixed",
	.kill_sb	= kill_block_super,
	.fs_flags	= FS_REQUIRES_DEV,
};

static int __init vexfs_init(void)
{
	int error = register_filesystem(&vexfs_fs_type);

	return error;
}
MODULE_LICENSE("GPL");
