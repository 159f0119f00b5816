/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the VFS of Linux 6.1 and of newer ones call differently. Nothing here decides anything.
 */
#ifndef VEXFS_REF_COMPAT_H
#define VEXFS_REF_COMPAT_H

#include <linux/fs.h>
#include <linux/version.h>

/* 6.3: inode operations get the idmap of the mount, no longer its user namespace. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 3, 0)
#define vexfs_ref_idmap mnt_idmap
#else
#define vexfs_ref_idmap user_namespace
#endif

/* 6.12: write_begin and write_end speak of folios. 6.17: and of the kiocb, not of the file. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 12, 0)
#define vexfs_ref_write_unit folio
#else
#define vexfs_ref_write_unit page
#endif
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 17, 0)
#define VEXFS_REF_WRITER const struct kiocb
#else
#define VEXFS_REF_WRITER struct file
#endif

/* 6.3: mpage_writepages() no longer falls back to ->writepage, which went away in 6.16. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 3, 0)
#define VEXFS_REF_NEEDS_WRITEPAGE
#endif

/* 6.5: the generic splice_read reads through the page cache by another name. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 5, 0)
#define vexfs_ref_splice_read filemap_splice_read
#else
#define vexfs_ref_splice_read generic_file_splice_read
#endif

/* 6.15: ->mkdir returns the dentry to use, or NULL for the one it was given. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 15, 0)
#define VEXFS_REF_MKDIR_RESULT struct dentry *
#define vexfs_ref_mkdir_result(error) ERR_PTR(error)
#else
#define VEXFS_REF_MKDIR_RESULT int
#define vexfs_ref_mkdir_result(error) (error)
#endif

/* 6.19: inode->i_state is read through an accessor. */
static inline bool vexfs_ref_inode_is_new(struct inode *inode)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 19, 0)
	return inode_state_read_once(inode) & I_NEW;
#else
	return inode->i_state & I_NEW;
#endif
}

/* 6.6 hid i_ctime, 6.7 the other two. Debian's 6.1 has some of the accessors, not all. */
static inline void vexfs_ref_set_ctime(struct inode *inode, struct timespec64 time)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 6, 0)
	inode_set_ctime_to_ts(inode, time);
#else
	inode->i_ctime = time;
#endif
}

static inline struct timespec64 vexfs_ref_ctime(const struct inode *inode)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 6, 0)
	return inode_get_ctime(inode);
#else
	return inode->i_ctime;
#endif
}

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 7, 0)
#define vexfs_ref_atime(inode)			inode_get_atime(inode)
#define vexfs_ref_mtime(inode)			inode_get_mtime(inode)
#define vexfs_ref_set_atime(inode, time)	inode_set_atime_to_ts(inode, time)
#define vexfs_ref_set_mtime(inode, time)	inode_set_mtime_to_ts(inode, time)
#else
#define vexfs_ref_atime(inode)			((inode)->i_atime)
#define vexfs_ref_mtime(inode)			((inode)->i_mtime)
#define vexfs_ref_set_atime(inode, time)	((inode)->i_atime = (time))
#define vexfs_ref_set_mtime(inode, time)	((inode)->i_mtime = (time))
#endif

static inline void vexfs_ref_touch_ctime(struct inode *inode)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 6, 0)
	inode_set_ctime_current(inode);
#else
	inode->i_ctime = current_time(inode);
#endif
}

/* The content changed: modification and change time are now, and the same. */
static inline void vexfs_ref_touch(struct inode *inode)
{
	vexfs_ref_touch_ctime(inode);
	vexfs_ref_set_mtime(inode, vexfs_ref_ctime(inode));
}

#endif
