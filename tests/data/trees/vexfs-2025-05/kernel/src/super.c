// SPDX-License-Identifier: GPL-2.0
#include <linux/fs.h>
#include "vexfs.h"

static bool paranoid;
module_param(paranoid, bool, 0444);

/* register_filesystem(&commented_out) */
static const struct super_operations vexfs_super_operations = {
	.statfs = simple_statfs,
};

static struct dentry *vexfs_mount(struct file_system_type *type, int flags, const char *name,
				  void *data)
{
	return mount_bdev(type, flags, name, data, vexfs_fill_super);
}

static struct file_system_type vexfs_type = {
	.owner = THIS_MODULE,
	.name = VEXFS_NAME,
	.mount = vexfs_mount,
	.kill_sb = kill_block_super,
	.fs_flags = FS_REQUIRES_DEV,
};

static int __init vexfs_init(void)
{
	return register_filesystem(&vexfs_type);
}
module_init(vexfs_init);
MODULE_LICENSE("GPL");
