// SPDX-License-Identifier: GPL-2.0
#include <linux/fs.h>
#include "vexfs.h"

static long vexfs_ioctl(struct file *file, unsigned int request, unsigned long argument)
{
	switch (request) {
	case VEXFS_IOC_STATUS:
		return 0;
	case VEXFS_IOC_SEARCH:
	case VEXFS_IOC_OPAQUE:
		return vexfs_search(file, (void __user *)argument);
	case VEXFS_IOC_SHUTDOWN:
		return vexfs_shutdown(file);
	}
	return -ENOTTY;
}

const struct inode_operations vexfs_dir_inode_operations = {
	.lookup = vexfs_lookup,
	.create = vexfs_create,
	.unlink = vexfs_unlink,
	.mkdir = vexfs_mkdir,
	.rmdir = vexfs_rmdir,
	.rename = simple_rename,
};

const struct file_operations vexfs_file_operations = {
	.read_iter = generic_file_read_iter,
	.write_iter = generic_file_write_iter,
	.mmap = generic_file_mmap,
#ifdef CONFIG_FSYNC
	.fsync = generic_file_fsync,
#endif
	.unlocked_ioctl = vexfs_ioctl,
};
