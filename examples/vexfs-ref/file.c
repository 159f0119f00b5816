// SPDX-License-Identifier: GPL-2.0
/*
 * vexfs-ref: the content of files, through the page cache.
 */
#include <linux/blkdev.h>
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/mpage.h>
#include <linux/pagemap.h>
#include <linux/writeback.h>

#include "vexfs_ref.h"

static int vexfs_ref_read_folio(struct file *file, struct folio *folio)
{
	return mpage_read_folio(folio, vexfs_ref_get_block);
}

static void vexfs_ref_readahead(struct readahead_control *control)
{
	mpage_readahead(control, vexfs_ref_get_block);
}

static int vexfs_ref_writepages(struct address_space *mapping, struct writeback_control *wbc)
{
	return mpage_writepages(mapping, wbc, vexfs_ref_get_block);
}

#ifdef VEXFS_REF_NEEDS_WRITEPAGE
static int vexfs_ref_writepage(struct page *page, struct writeback_control *wbc)
{
	return block_write_full_page(page, vexfs_ref_get_block, wbc);
}
#endif

/* A write that came to less than was prepared: what it allocated behind the end goes again. */
static void vexfs_ref_write_failed(struct inode *inode, loff_t end)
{
	if (end <= inode->i_size)
		return;
	truncate_pagecache(inode, inode->i_size);
	vexfs_ref_free_blocks_from(inode, inode->i_size);
}

static int vexfs_ref_write_begin(VEXFS_REF_WRITER *writer, struct address_space *mapping,
				 loff_t pos, unsigned int length,
				 struct vexfs_ref_write_unit **unit, void **private)
{
	struct inode *inode = mapping->host;
	int error = 0;

	/*
	 * A store through a mapping may have left bytes behind the end of the last block's data.
	 * They must not become content when a write makes the file longer.
	 */
	if (pos > inode->i_size)
		error = block_truncate_page(mapping, inode->i_size, vexfs_ref_get_block);
	if (!error)
		error = block_write_begin(mapping, pos, length, unit, vexfs_ref_get_block);
	if (error)
		vexfs_ref_write_failed(inode, pos + length);
	return error;
}

static int vexfs_ref_write_end(VEXFS_REF_WRITER *writer, struct address_space *mapping,
			       loff_t pos, unsigned int length, unsigned int copied,
			       struct vexfs_ref_write_unit *unit, void *private)
{
	int written = generic_write_end(writer, mapping, pos, length, copied, unit, private);

	if (written < (int)length)
		vexfs_ref_write_failed(mapping->host, pos + length);
	return written;
}

const struct address_space_operations vexfs_ref_aops = {
	.read_folio = vexfs_ref_read_folio,
	.readahead = vexfs_ref_readahead,
#ifdef VEXFS_REF_NEEDS_WRITEPAGE
	.writepage = vexfs_ref_writepage,
#endif
	.writepages = vexfs_ref_writepages,
	.write_begin = vexfs_ref_write_begin,
	.write_end = vexfs_ref_write_end,
	.dirty_folio = block_dirty_folio,
	.invalidate_folio = block_invalidate_folio,
	.migrate_folio = buffer_migrate_folio,
	.is_partially_uptodate = block_is_partially_uptodate,
};

/*
 * The first store to a page of a shared mapping. Blocks are taken now, so that a full volume is
 * a SIGBUS for the one who stores, and not data lost by the writeback later.
 */
static vm_fault_t vexfs_ref_page_mkwrite(struct vm_fault *fault)
{
	struct file *file = fault->vma->vm_file;
	struct inode *inode = file_inode(file);
	int error;

	sb_start_pagefault(inode->i_sb);
	file_update_time(file);
	filemap_invalidate_lock_shared(inode->i_mapping);
	error = block_page_mkwrite(fault->vma, fault, vexfs_ref_get_block);
	filemap_invalidate_unlock_shared(inode->i_mapping);
	sb_end_pagefault(inode->i_sb);

	switch (error) {
	case 0:
		return VM_FAULT_LOCKED;
	case -EFAULT:	/* the page was truncated away: look again */
	case -EAGAIN:
		return VM_FAULT_NOPAGE;
	case -ENOMEM:
		return VM_FAULT_OOM;
	default:
		return VM_FAULT_SIGBUS;
	}
}

static const struct vm_operations_struct vexfs_ref_vm_operations = {
	.fault = filemap_fault,
	.map_pages = filemap_map_pages,
	.page_mkwrite = vexfs_ref_page_mkwrite,
};

static int vexfs_ref_mmap(struct file *file, struct vm_area_struct *vma)
{
	file_accessed(file);
	vma->vm_ops = &vexfs_ref_vm_operations;
	return 0;
}

/* The inodes of all directories on the way to a name; their blocks are metadata of the volume. */
static int vexfs_ref_sync_parents(struct dentry *name)
{
	struct dentry *dentry = dget(name);
	int error = 0;

	while (!error && !IS_ROOT(dentry)) {
		struct dentry *parent = dget_parent(dentry);

		dput(dentry);
		dentry = parent;
		error = sync_inode_metadata(d_inode(dentry), 1);
	}
	dput(dentry);
	return error;
}

/*
 * fsync writes the file, and all metadata of the volume: its inode, block map, bitmaps and the
 * directories that lead to it are then on the medium, whatever order they were changed in.
 */
int vexfs_ref_fsync(struct file *file, loff_t start, loff_t end, int datasync)
{
	struct inode *inode = file_inode(file);
	struct block_device *bdev = inode->i_sb->s_bdev;
	int error = file_write_and_wait_range(file, start, end);
	int other = sync_inode_metadata(inode, 1);

	error = error ? error : other;
	other = vexfs_ref_sync_parents(file->f_path.dentry);
	error = error ? error : other;
	other = sync_blockdev(bdev);
	error = error ? error : other;
	if (error)
		return error;
	error = blkdev_issue_flush(bdev);
	return error == -EOPNOTSUPP ? 0 : error;
}

/* Make a file shorter or longer; the caller holds i_rwsem. */
int vexfs_ref_set_size(struct inode *inode, loff_t size)
{
	const loff_t before = inode->i_size;
	int error;

	/* The rest of the last block reads as zeros from now on, whichever end is the new one. */
	error = block_truncate_page(inode->i_mapping, min(size, before), vexfs_ref_get_block);
	if (error)
		return error;
	filemap_invalidate_lock(inode->i_mapping);
	truncate_setsize(inode, size);
	if (size < before)
		error = vexfs_ref_free_blocks_from(inode, size);
	filemap_invalidate_unlock(inode->i_mapping);
	vexfs_ref_touch(inode);
	mark_inode_dirty(inode);
	return error;
}

int vexfs_ref_setattr(struct vexfs_ref_idmap *idmap, struct dentry *dentry, struct iattr *attr)
{
	struct inode *inode = d_inode(dentry);
	int error = setattr_prepare(idmap, dentry, attr);

	if (error)
		return error;
	if (attr->ia_valid & ATTR_SIZE && attr->ia_size != inode->i_size) {
		error = vexfs_ref_set_size(inode, attr->ia_size);
		if (error)
			return error;
	}
	setattr_copy(idmap, inode, attr);
	mark_inode_dirty(inode);
	return 0;
}

const struct inode_operations vexfs_ref_file_inode_operations = {
	.setattr = vexfs_ref_setattr,
};

const struct file_operations vexfs_ref_file_operations = {
	.llseek = generic_file_llseek,
	.read_iter = generic_file_read_iter,
	.write_iter = generic_file_write_iter,
	.mmap = vexfs_ref_mmap,
	.fsync = vexfs_ref_fsync,
	.splice_read = vexfs_ref_splice_read,
	.splice_write = iter_file_splice_write,
	.unlocked_ioctl = vexfs_ref_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};
