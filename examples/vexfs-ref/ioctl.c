// SPDX-License-Identifier: GPL-2.0
/*
 * vexfs-ref: the ioctls, on files and directories the caller has opened.
 */
#include <linux/fs.h>
#include <linux/uaccess.h>

#include "vexfs_ref.h"

static long vexfs_ref_status(struct super_block *sb, void __user *argument)
{
	const struct vexfs_ref_sb_info *sbi = vexfs_ref_sb(sb);
	struct vexfs_ref_status status = {
		.version = VEXFS_REF_VERSION,
		.block_size = VEXFS_REF_BLOCK_SIZE,
		.blocks = sbi->s_blocks - sbi->s_layout.data,
		.inodes = sbi->s_inodes,
		.max_dimension = VEXFS_REF_MAX_DIMENSION,
#ifdef VEXFS_REF_VECTORS
		.flags = VEXFS_REF_HAS_VECTORS,
#endif
	};
	u32 free_blocks, free_inodes;

	vexfs_ref_free_counts(sb, &free_blocks, &free_inodes);
	status.free_blocks = free_blocks;
	status.free_inodes = free_inodes;
	return copy_to_user(argument, &status, sizeof(status)) ? -EFAULT : 0;
}

long vexfs_ref_ioctl(struct file *file, unsigned int command, unsigned long argument)
{
	struct inode *inode = file_inode(file);
	void __user *pointer = (void __user *)argument;

	if (command == VEXFS_REF_IOC_STATUS)
		return vexfs_ref_status(inode->i_sb, pointer);
#ifdef VEXFS_REF_VECTORS
	if (S_ISREG(inode->i_mode)) {
		if (command == VEXFS_REF_IOC_ADD_VECTORS)
			return vexfs_ref_add_vectors(file, pointer);
		if (command == VEXFS_REF_IOC_SEARCH)
			return vexfs_ref_search(file, pointer);
	}
#endif
	return -ENOTTY;
}
