// SPDX-License-Identifier: GPL-2.0
/*
 * vexfs-ref: names. Each operation finds out whether it can succeed before it changes anything.
 */
#include <linux/blkdev.h>
#include <linux/fs.h>

#include "vexfs_ref.h"

/* Mounted with "sync" or "dirsync", a change of names is on the medium when the call returns. */
static int vexfs_ref_commit(struct inode *dir, struct inode *inode)
{
	int error, other;

	if (!IS_DIRSYNC(dir))
		return 0;
	error = inode ? sync_inode_metadata(inode, 1) : 0;
	other = sync_inode_metadata(dir, 1);
	error = error ? error : other;
	other = sync_blockdev(dir->i_sb->s_bdev);
	return error ? error : other;
}

/* A link count of the medium may be too small for what its directory says. */
static bool vexfs_ref_has_links(struct inode *inode, unsigned int least)
{
	if (inode->i_nlink >= least)
		return true;
	vexfs_ref_damaged(inode->i_sb, "inode %lu has %u links, it needs %u",
			  (unsigned long)inode->i_ino, inode->i_nlink, least);
	return false;
}

/* The record of a dentry that has an inode. The two must agree. */
static struct vexfs_ref_dirent *vexfs_ref_find_dentry(struct inode *dir, struct dentry *dentry,
						      struct buffer_head **bhp)
{
	struct vexfs_ref_dirent *entry = vexfs_ref_find_entry(dir, &dentry->d_name, bhp);

	if (!IS_ERR(entry) && le32_to_cpu(entry->d_ino) != d_inode(dentry)->i_ino) {
		brelse(*bhp);
		vexfs_ref_damaged(dir->i_sb, "directory %lu names another inode than it did",
				  (unsigned long)dir->i_ino);
		return ERR_PTR(-EIO);
	}
	return entry;
}

static struct dentry *vexfs_ref_lookup(struct inode *dir, struct dentry *dentry,
				       unsigned int flags)
{
	struct vexfs_ref_dirent *entry;
	struct inode *inode = NULL;
	struct buffer_head *bh;

	if (dentry->d_name.len > VEXFS_REF_NAME_MAX)
		return ERR_PTR(-ENAMETOOLONG);
	entry = vexfs_ref_find_entry(dir, &dentry->d_name, &bh);
	if (!IS_ERR(entry)) {
		u32 ino = le32_to_cpu(entry->d_ino);

		brelse(bh);
		inode = vexfs_ref_iget(dir->i_sb, ino);
	} else if (PTR_ERR(entry) != -ENOENT) {
		return ERR_CAST(entry);
	}
	return d_splice_alias(inode, dentry);	/* passes an error on */
}

/* A new inode did not get its name: it goes, and gives back what it took. */
static int vexfs_ref_discard(struct inode *inode, int error)
{
	clear_nlink(inode);
	discard_new_inode(inode);
	return error;
}

static int vexfs_ref_name_new_inode(struct inode *dir, struct dentry *dentry, struct inode *inode)
{
	int error = vexfs_ref_add_entry(dir, &dentry->d_name, inode);

	if (error)
		return vexfs_ref_discard(inode, error);
	d_instantiate_new(dentry, inode);
	return vexfs_ref_commit(dir, inode);
}

static int vexfs_ref_mknod(struct vexfs_ref_idmap *idmap, struct inode *dir, struct dentry *dentry,
			   umode_t mode, dev_t rdev)
{
	struct inode *inode = vexfs_ref_new_inode(idmap, dir, mode, rdev);

	if (IS_ERR(inode))
		return PTR_ERR(inode);
	return vexfs_ref_name_new_inode(dir, dentry, inode);
}

static int vexfs_ref_create(struct vexfs_ref_idmap *idmap, struct inode *dir,
			    struct dentry *dentry, umode_t mode, bool exclusive)
{
	return vexfs_ref_mknod(idmap, dir, dentry, mode, 0);
}

static int vexfs_ref_symlink(struct vexfs_ref_idmap *idmap, struct inode *dir,
			     struct dentry *dentry, const char *target)
{
	size_t length = strlen(target);
	struct inode *inode;
	int error;

	if (length > VEXFS_REF_SYMLINK_MAX)
		return -ENAMETOOLONG;
	inode = vexfs_ref_new_inode(idmap, dir, S_IFLNK | 0777, 0);
	if (IS_ERR(inode))
		return PTR_ERR(inode);
	vexfs_ref_set_symlink_operations(inode, length);
	if (inode->i_link) {
		memcpy(inode->i_link, target, length + 1);
		inode->i_size = length;
		mark_inode_dirty(inode);
	} else {
		error = page_symlink(inode, target, length + 1);
		/* As for a file's data, "sync" means that it is on the medium. */
		if (!error && IS_DIRSYNC(dir))
			error = filemap_write_and_wait(inode->i_mapping);
		if (error)
			return vexfs_ref_discard(inode, error);
	}
	return vexfs_ref_name_new_inode(dir, dentry, inode);
}

static int vexfs_ref_link(struct dentry *old, struct inode *dir, struct dentry *dentry)
{
	struct inode *inode = d_inode(old);
	int error = vexfs_ref_add_entry(dir, &dentry->d_name, inode);

	if (error)
		return error;
	vexfs_ref_touch_ctime(inode);
	inode_inc_link_count(inode);
	ihold(inode);
	d_instantiate(dentry, inode);
	return vexfs_ref_commit(dir, inode);
}

static VEXFS_REF_MKDIR_RESULT vexfs_ref_mkdir(struct vexfs_ref_idmap *idmap, struct inode *dir,
					      struct dentry *dentry, umode_t mode)
{
	struct inode *inode = vexfs_ref_new_inode(idmap, dir, S_IFDIR | mode, 0);
	int error;

	if (IS_ERR(inode))
		return vexfs_ref_mkdir_result(PTR_ERR(inode));
	set_nlink(inode, 2);
	error = vexfs_ref_make_empty(inode, dir->i_ino);
	if (!error)
		error = vexfs_ref_add_entry(dir, &dentry->d_name, inode);
	if (error)
		return vexfs_ref_mkdir_result(vexfs_ref_discard(inode, error));
	inode_inc_link_count(dir);
	d_instantiate_new(dentry, inode);
	return vexfs_ref_mkdir_result(vexfs_ref_commit(dir, inode));
}

static int vexfs_ref_unlink(struct inode *dir, struct dentry *dentry)
{
	struct inode *inode = d_inode(dentry);
	struct vexfs_ref_dirent *entry;
	struct buffer_head *bh;

	if (!vexfs_ref_has_links(inode, 1))
		return -EIO;
	entry = vexfs_ref_find_dentry(dir, dentry, &bh);
	if (IS_ERR(entry))
		return PTR_ERR(entry);
	vexfs_ref_delete_entry(dir, entry, bh);
	brelse(bh);
	vexfs_ref_set_ctime(inode, vexfs_ref_ctime(dir));
	inode_dec_link_count(inode);
	return vexfs_ref_commit(dir, inode);
}

/* May `victim`, a directory named in `parent`, be removed? */
static int vexfs_ref_may_remove_dir(struct inode *parent, struct inode *victim)
{
	int empty = vexfs_ref_dir_is_empty(victim);

	if (empty <= 0)
		return empty ? empty : -ENOTEMPTY;
	/* The parent has at least its own two links and that of the victim's "..". */
	return vexfs_ref_has_links(victim, 2) && vexfs_ref_has_links(parent, 3) ? 0 : -EIO;
}

static int vexfs_ref_rmdir(struct inode *dir, struct dentry *dentry)
{
	struct inode *inode = d_inode(dentry);
	struct vexfs_ref_dirent *entry;
	struct buffer_head *bh;
	int error = vexfs_ref_may_remove_dir(dir, inode);

	if (error)
		return error;
	entry = vexfs_ref_find_dentry(dir, dentry, &bh);
	if (IS_ERR(entry))
		return PTR_ERR(entry);
	vexfs_ref_delete_entry(dir, entry, bh);
	brelse(bh);
	vexfs_ref_set_ctime(inode, vexfs_ref_ctime(dir));
	clear_nlink(inode);
	mark_inode_dirty(inode);
	inode_dec_link_count(dir);
	return vexfs_ref_commit(dir, inode);
}

/*
 * The four records a rename may touch. Everything is read and checked first; after that only
 * adding a name to a full directory can fail, and it comes before all other changes.
 */
static int vexfs_ref_rename(struct vexfs_ref_idmap *idmap, struct inode *old_dir,
			    struct dentry *old_dentry, struct inode *new_dir,
			    struct dentry *new_dentry, unsigned int flags)
{
	static const struct qstr dot_dot = QSTR_INIT("..", 2);
	struct inode *inode = d_inode(old_dentry), *victim = d_inode(new_dentry);
	struct buffer_head *old_bh = NULL, *new_bh = NULL, *up_bh = NULL;
	struct vexfs_ref_dirent *old, *new, *up = NULL;
	const bool is_dir = S_ISDIR(inode->i_mode);
	const bool moves_up = is_dir && old_dir != new_dir;
	int error = 0;

	/* The VFS has seen to RENAME_NOREPLACE: there is no victim then. */
	if (flags & ~RENAME_NOREPLACE)
		return -EINVAL;

	old = vexfs_ref_find_dentry(old_dir, old_dentry, &old_bh);
	if (IS_ERR(old))
		return PTR_ERR(old);
	if (moves_up) {
		up = vexfs_ref_find_entry(inode, &dot_dot, &up_bh);
		if (IS_ERR(up)) {
			error = PTR_ERR(up) == -ENOENT ? -EIO : PTR_ERR(up);
			goto out;
		}
		if (!vexfs_ref_has_links(old_dir, 3)) {
			error = -EIO;
			goto out;
		}
	}
	if (victim) {
		if (is_dir)
			error = vexfs_ref_may_remove_dir(new_dir, victim);
		else if (!vexfs_ref_has_links(victim, 1))
			error = -EIO;
		if (error)
			goto out;
		new = vexfs_ref_find_dentry(new_dir, new_dentry, &new_bh);
		if (IS_ERR(new)) {
			error = PTR_ERR(new);
			goto out;
		}
		vexfs_ref_set_entry(new, new_bh, inode);
		vexfs_ref_touch(new_dir);
		mark_inode_dirty(new_dir);
		vexfs_ref_set_ctime(victim, vexfs_ref_ctime(new_dir));
		if (is_dir) {
			clear_nlink(victim);
			mark_inode_dirty(victim);
			inode_dec_link_count(new_dir);
		} else {
			inode_dec_link_count(victim);
		}
	} else {
		error = vexfs_ref_add_entry(new_dir, &new_dentry->d_name, inode);
		if (error)
			goto out;
	}
	/* In the same directory the new name may have gone into the room of the old record. */
	vexfs_ref_delete_entry(old_dir, old, old_bh);
	if (moves_up) {
		vexfs_ref_set_entry(up, up_bh, new_dir);
		inode_dec_link_count(old_dir);
		inode_inc_link_count(new_dir);
	}
	vexfs_ref_touch_ctime(inode);
	mark_inode_dirty(inode);
	error = vexfs_ref_commit(old_dir, inode);
	if (!error && old_dir != new_dir)
		error = vexfs_ref_commit(new_dir, victim);
out:
	brelse(up_bh);
	brelse(new_bh);
	brelse(old_bh);
	return error;
}

const struct inode_operations vexfs_ref_dir_inode_operations = {
	.lookup = vexfs_ref_lookup,
	.create = vexfs_ref_create,
	.link = vexfs_ref_link,
	.unlink = vexfs_ref_unlink,
	.symlink = vexfs_ref_symlink,
	.mkdir = vexfs_ref_mkdir,
	.rmdir = vexfs_ref_rmdir,
	.mknod = vexfs_ref_mknod,
	.rename = vexfs_ref_rename,
	.setattr = vexfs_ref_setattr,
};

const struct inode_operations vexfs_ref_special_inode_operations = {
	.setattr = vexfs_ref_setattr,
};
