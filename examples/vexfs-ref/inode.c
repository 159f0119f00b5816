// SPDX-License-Identifier: GPL-2.0
/*
 * vexfs-ref: inodes, from the medium and back.
 */
#include <linux/crc32.h>
#include <linux/namei.h>
#include <linux/sched.h>
#include <linux/writeback.h>

#include "vexfs_ref.h"

static u32 vexfs_ref_inode_checksum(u32 ino, const struct vexfs_ref_inode *raw)
{
	const size_t skipped = sizeof(raw->i_checksum);
	__le32 number = cpu_to_le32(ino);
	u32 crc = crc32_le(~0, (const u8 *)&number, sizeof(number));

	return ~crc32_le(crc, (const u8 *)raw + skipped, sizeof(*raw) - skipped);
}

/* The buffer with an inode, and where in it. */
static struct buffer_head *vexfs_ref_read_raw(struct super_block *sb, u32 ino,
					      struct vexfs_ref_inode **raw)
{
	u32 index = ino - 1;
	u32 block = vexfs_ref_sb(sb)->s_layout.inode_table + index / VEXFS_REF_INODES_PER_BLOCK;
	struct buffer_head *bh = sb_bread(sb, block);

	if (bh)
		*raw = (struct vexfs_ref_inode *)bh->b_data + index % VEXFS_REF_INODES_PER_BLOCK;
	return bh;
}

static bool vexfs_ref_symlink_is_inline(loff_t length)
{
	return length < VEXFS_REF_INLINE_SIZE;
}

/* Why an inode of the medium cannot be right, or NULL. A right checksum proves nothing. */
static const char *vexfs_ref_inode_fault(struct super_block *sb, u32 ino,
					 const struct vexfs_ref_inode *raw)
{
	const struct vexfs_ref_sb_info *sbi = vexfs_ref_sb(sb);
	u32 mode = le32_to_cpu(raw->i_mode), nlink = le32_to_cpu(raw->i_nlink);
	u64 size = le64_to_cpu(raw->i_size);
	u32 blocks = le32_to_cpu(raw->i_blocks);
	bool without_blocks;
	int i;

	if (le32_to_cpu(raw->i_checksum) != vexfs_ref_inode_checksum(ino, raw))
		return "checksum";
	if (mode & ~(u32)(S_IFMT | S_IALLUGO))
		return "mode";
	if (raw->i_flags || raw->i_reserved)
		return "flags";
	if (!nlink || nlink > VEXFS_REF_LINK_MAX || (S_ISDIR(mode) && nlink < 2))
		return "link count";
	if (le32_to_cpu(raw->i_atime_nsec) >= NSEC_PER_SEC ||
	    le32_to_cpu(raw->i_mtime_nsec) >= NSEC_PER_SEC ||
	    le32_to_cpu(raw->i_ctime_nsec) >= NSEC_PER_SEC)
		return "time";
	if (blocks > sbi->s_blocks)
		return "block count";

	switch (mode & S_IFMT) {
	case S_IFREG:
		if (size > sb->s_maxbytes)
			return "size";
		without_blocks = false;
		break;
	case S_IFDIR:
		if (!size || size % VEXFS_REF_BLOCK_SIZE ||
		    size > (u64)sbi->s_blocks << VEXFS_REF_BLOCK_SHIFT)
			return "size";
		without_blocks = false;
		break;
	case S_IFLNK:
		if (!size || size > VEXFS_REF_SYMLINK_MAX)
			return "size";
		without_blocks = vexfs_ref_symlink_is_inline(size);
		if (without_blocks &&
		    strnlen((const char *)raw->i_inline, sizeof(raw->i_inline)) != size)
			return "link target";
		break;
	case S_IFCHR:
	case S_IFBLK:
	case S_IFIFO:
	case S_IFSOCK:
		if (size)
			return "size";
		without_blocks = true;
		break;
	default:
		return "type";
	}
	if (without_blocks && blocks)
		return "block count";
	for (i = 0; i < VEXFS_REF_N_BLOCKS; i++) {
		u32 block = le32_to_cpu(raw->i_block[i]);

		if (block && (without_blocks || !vexfs_ref_is_data_block(sbi, block)))
			return "block map";
	}
	return NULL;
}

void vexfs_ref_set_symlink_operations(struct inode *inode, loff_t length)
{
	static const struct inode_operations in_the_inode = {
		.get_link = simple_get_link,
		.setattr = vexfs_ref_setattr,
	};
	static const struct inode_operations in_a_block = {
		.get_link = page_get_link,
		.setattr = vexfs_ref_setattr,
	};

	if (vexfs_ref_symlink_is_inline(length)) {
		inode->i_op = &in_the_inode;
		inode->i_link = vexfs_ref_i(inode)->i_inline;
	} else {
		inode->i_op = &in_a_block;
		inode->i_link = NULL;
		inode_nohighmem(inode);
		inode->i_mapping->a_ops = &vexfs_ref_aops;
	}
}

static void vexfs_ref_set_operations(struct inode *inode, dev_t rdev)
{
	if (S_ISREG(inode->i_mode)) {
		inode->i_op = &vexfs_ref_file_inode_operations;
		inode->i_fop = &vexfs_ref_file_operations;
		inode->i_mapping->a_ops = &vexfs_ref_aops;
	} else if (S_ISDIR(inode->i_mode)) {
		inode->i_op = &vexfs_ref_dir_inode_operations;
		inode->i_fop = &vexfs_ref_dir_operations;
	} else if (S_ISLNK(inode->i_mode)) {
		vexfs_ref_set_symlink_operations(inode, inode->i_size);
	} else {
		inode->i_op = &vexfs_ref_special_inode_operations;
		init_special_inode(inode, inode->i_mode, rdev);
	}
}

static void vexfs_ref_from_raw(struct inode *inode, const struct vexfs_ref_inode *raw)
{
	struct vexfs_ref_inode_info *info = vexfs_ref_i(inode);
	int i;

	inode->i_mode = le32_to_cpu(raw->i_mode);
	set_nlink(inode, le32_to_cpu(raw->i_nlink));
	i_uid_write(inode, le32_to_cpu(raw->i_uid));
	i_gid_write(inode, le32_to_cpu(raw->i_gid));
	inode->i_size = le64_to_cpu(raw->i_size);
	inode_set_bytes(inode, (loff_t)le32_to_cpu(raw->i_blocks) << VEXFS_REF_BLOCK_SHIFT);
	vexfs_ref_set_atime(inode, ((struct timespec64){
		.tv_sec = le64_to_cpu(raw->i_atime), .tv_nsec = le32_to_cpu(raw->i_atime_nsec) }));
	vexfs_ref_set_mtime(inode, ((struct timespec64){
		.tv_sec = le64_to_cpu(raw->i_mtime), .tv_nsec = le32_to_cpu(raw->i_mtime_nsec) }));
	vexfs_ref_set_ctime(inode, ((struct timespec64){
		.tv_sec = le64_to_cpu(raw->i_ctime), .tv_nsec = le32_to_cpu(raw->i_ctime_nsec) }));
	for (i = 0; i < VEXFS_REF_N_BLOCKS; i++)
		info->i_block[i] = le32_to_cpu(raw->i_block[i]);
	memcpy(info->i_inline, raw->i_inline, sizeof(info->i_inline));
	vexfs_ref_set_operations(inode, new_decode_dev(le32_to_cpu(raw->i_rdev)));
}

static void vexfs_ref_to_raw(struct inode *inode, struct vexfs_ref_inode *raw)
{
	const struct vexfs_ref_inode_info *info = vexfs_ref_i(inode);
	struct timespec64 atime = vexfs_ref_atime(inode), mtime = vexfs_ref_mtime(inode);
	struct timespec64 ctime = vexfs_ref_ctime(inode);
	int i;

	memset(raw, 0, sizeof(*raw));
	raw->i_mode = cpu_to_le32(inode->i_mode);
	raw->i_nlink = cpu_to_le32(inode->i_nlink);
	raw->i_uid = cpu_to_le32(i_uid_read(inode));
	raw->i_gid = cpu_to_le32(i_gid_read(inode));
	if (S_ISCHR(inode->i_mode) || S_ISBLK(inode->i_mode))
		raw->i_rdev = cpu_to_le32(new_encode_dev(inode->i_rdev));
	raw->i_size = cpu_to_le64(i_size_read(inode));
	raw->i_blocks = cpu_to_le32(inode_get_bytes(inode) >> VEXFS_REF_BLOCK_SHIFT);
	raw->i_atime = cpu_to_le64(atime.tv_sec);
	raw->i_atime_nsec = cpu_to_le32(atime.tv_nsec);
	raw->i_mtime = cpu_to_le64(mtime.tv_sec);
	raw->i_mtime_nsec = cpu_to_le32(mtime.tv_nsec);
	raw->i_ctime = cpu_to_le64(ctime.tv_sec);
	raw->i_ctime_nsec = cpu_to_le32(ctime.tv_nsec);
	for (i = 0; i < VEXFS_REF_N_BLOCKS; i++)
		raw->i_block[i] = cpu_to_le32(info->i_block[i]);
	memcpy(raw->i_inline, info->i_inline, sizeof(raw->i_inline));
	raw->i_checksum = cpu_to_le32(vexfs_ref_inode_checksum(inode->i_ino, raw));
}

/* The inode with that number. What is on the medium may be anything: -EIO when it is no inode. */
struct inode *vexfs_ref_iget(struct super_block *sb, u32 ino)
{
	struct vexfs_ref_inode *raw;
	struct buffer_head *bh;
	struct inode *inode;
	const char *fault;

	if (!ino || ino > vexfs_ref_sb(sb)->s_inodes) {
		vexfs_ref_damaged(sb, "there is no inode %u", ino);
		return ERR_PTR(-EIO);
	}
	inode = iget_locked(sb, ino);
	if (!inode)
		return ERR_PTR(-ENOMEM);
	if (!vexfs_ref_inode_is_new(inode)) {
		/* A name of an inode that is being removed: two names shared a link count of one. */
		if (!inode->i_nlink) {
			vexfs_ref_damaged(sb, "inode %u has more names than links", ino);
			iput(inode);
			return ERR_PTR(-EIO);
		}
		return inode;
	}

	bh = vexfs_ref_read_raw(sb, ino, &raw);
	if (!bh)
		goto fail;
	fault = vexfs_ref_inode_fault(sb, ino, raw);
	if (!fault && !vexfs_ref_ino_in_use(sb, ino))
		fault = "bit in the bitmap";
	if (fault) {
		vexfs_ref_damaged(sb, "inode %u has a wrong %s", ino, fault);
		brelse(bh);
		goto fail;
	}
	vexfs_ref_from_raw(inode, raw);
	brelse(bh);
	unlock_new_inode(inode);
	return inode;
fail:
	iget_failed(inode);
	return ERR_PTR(-EIO);
}

/* A new inode without a name; locked until unlock_new_inode() or discard_new_inode(). */
struct inode *vexfs_ref_new_inode(struct vexfs_ref_idmap *idmap, struct inode *dir, umode_t mode,
				  dev_t rdev)
{
	struct super_block *sb = dir->i_sb;
	struct inode *inode = new_inode(sb);
	u32 ino;
	int error;

	if (!inode)
		return ERR_PTR(-ENOMEM);
	error = vexfs_ref_alloc_ino(sb, &ino);
	if (error)
		goto fail;
	inode->i_ino = ino;
	inode_init_owner(idmap, inode, dir, mode);
	vexfs_ref_touch(inode);
	vexfs_ref_set_atime(inode, vexfs_ref_ctime(inode));
	vexfs_ref_set_operations(inode, rdev);
	if (insert_inode_locked(inode) < 0) {
		/* It stays marked as used, because it is. */
		vexfs_ref_damaged(sb, "inode %u is in use and was marked free", ino);
		error = -EIO;
		goto fail;
	}
	mark_inode_dirty(inode);
	return inode;
fail:
	make_bad_inode(inode);
	iput(inode);
	return ERR_PTR(error);
}

int vexfs_ref_write_inode(struct inode *inode, struct writeback_control *wbc)
{
	struct vexfs_ref_inode_info *info = vexfs_ref_i(inode);
	struct vexfs_ref_inode *raw;
	struct buffer_head *bh = vexfs_ref_read_raw(inode->i_sb, inode->i_ino, &raw);
	int error = 0;

	if (!bh)
		return -EIO;
	down_read(&info->i_map_lock);
	vexfs_ref_begin_change(bh);
	vexfs_ref_to_raw(inode, raw);
	vexfs_ref_end_change(bh);
	up_read(&info->i_map_lock);
	if (wbc->sync_mode == WB_SYNC_ALL)
		error = sync_dirty_buffer(bh);
	brelse(bh);
	return error;
}

/* The last reference is gone; so is the file, if it has no name. */
void vexfs_ref_evict_inode(struct inode *inode)
{
	struct super_block *sb = inode->i_sb;
	bool delete = !inode->i_nlink && !is_bad_inode(inode);

	truncate_inode_pages_final(&inode->i_data);
	if (delete) {
		struct vexfs_ref_inode *raw;
		struct buffer_head *bh;

		sb_start_intwrite(sb);
		i_size_write(inode, 0);
		if (vexfs_ref_free_blocks_from(inode, 0))
			vexfs_ref_damaged(sb, "blocks of inode %lu could not be freed",
					  (unsigned long)inode->i_ino);
		/* A free inode is zeros, before its number can be given away again. */
		bh = vexfs_ref_read_raw(sb, inode->i_ino, &raw);
		if (bh) {
			vexfs_ref_begin_change(bh);
			memset(raw, 0, sizeof(*raw));
			vexfs_ref_end_change(bh);
			brelse(bh);
		} else {
			vexfs_ref_damaged(sb, "inode %lu could not be cleared",
					  (unsigned long)inode->i_ino);
		}
	}
	clear_inode(inode);
	if (delete) {
		vexfs_ref_free_ino(sb, inode->i_ino);
		sb_end_intwrite(sb);
	}
}
