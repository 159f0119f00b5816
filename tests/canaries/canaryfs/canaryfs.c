// SPDX-License-Identifier: GPL-2.0
/*
 * canaryfs: a small memory filesystem with at most one planted bug.
 *
 * Built plain it is sound and must pass. Built with -DCANARY_<NAME> it does one thing wrong, and
 * vexrun must say which (tests/canaries/test_canaries.py). Kernels 6.1 and newer.
 */
#include <linux/fs.h>
#include <linux/fs_context.h>
#include <linux/init.h>
#include <linux/module.h>
#include <linux/pagemap.h>
#include <linux/proc_fs.h>
#include <linux/slab.h>
#include <linux/statfs.h>
#include <linux/uio.h>
#include <linux/version.h>

#include "bugs.h"

#define CANARYFS_MAGIC 0x63616e61
#define FOUR_KIB 4096

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 3, 0)
#define IDMAP struct mnt_idmap
#define NO_IDMAP (&nop_mnt_idmap)
#else
#define IDMAP struct user_namespace
#define NO_IDMAP (&init_user_ns)
#endif

#ifdef CANARY_DOES_NOT_COMPILE
int canaryfs_broken(void) { return undeclared_identifier; }
#endif

#ifdef CANARY_MISSING_SYMBOL
extern void canaryfs_symbol_nobody_exports(void);
#endif

#ifdef CANARY_WRONG_VERMAGIC
/* Linked before the one modpost adds, so it is the one the kernel reads. */
MODULE_INFO(vermagic, "6.0.0-elsewhere UP ");
#endif

static const struct inode_operations canaryfs_dir_inode_operations;
static const struct file_operations canaryfs_file_operations;

static void canaryfs_init_times(struct inode *inode)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 7, 0)
	simple_inode_init_ts(inode);
#else
	inode->i_atime = inode->i_mtime = inode->i_ctime = current_time(inode);
#endif
}

static struct inode *canaryfs_new_inode(struct super_block *sb, const struct inode *dir,
					umode_t mode)
{
	struct inode *inode = new_inode(sb);

	if (!inode)
		return NULL;
	inode->i_ino = get_next_ino();
#ifdef CANARY_SAME_INODE_NUMBERS
	if (S_ISREG(mode))
		inode->i_ino = 4242;
#endif
	inode_init_owner(NO_IDMAP, inode, dir, mode);
	inode->i_mapping->a_ops = &ram_aops;
	mapping_set_gfp_mask(inode->i_mapping, GFP_HIGHUSER);
	mapping_set_unevictable(inode->i_mapping);
	canaryfs_init_times(inode);
	return inode;
}

static const struct inode_operations canaryfs_file_inode_operations = {
	.setattr = simple_setattr,
	.getattr = simple_getattr,
};

static int canaryfs_add(struct inode *dir, struct dentry *dentry, umode_t mode, dev_t dev)
{
	struct inode *inode = canaryfs_new_inode(dir->i_sb, dir, mode);

	if (!inode)
		return -ENOSPC;
	switch (mode & S_IFMT) {
	case S_IFREG:
		inode->i_op = &canaryfs_file_inode_operations;
		inode->i_fop = &canaryfs_file_operations;
		break;
	case S_IFDIR:
		inode->i_op = &canaryfs_dir_inode_operations;
		inode->i_fop = &simple_dir_operations;
		inc_nlink(inode);
		break;
	default:
		init_special_inode(inode, mode, dev);
		break;
	}
	d_instantiate(dentry, inode);
	dget(dentry); /* the tree lives in the dentry cache */
	return 0;
}

static int canaryfs_mknod(IDMAP *idmap, struct inode *dir, struct dentry *dentry, umode_t mode,
			  dev_t dev)
{
	return canaryfs_add(dir, dentry, mode, dev);
}

static int canaryfs_create(IDMAP *idmap, struct inode *dir, struct dentry *dentry, umode_t mode,
			   bool excl)
{
#ifdef CANARY_OOPS_AT_CREATE
	*canary_nowhere = 1;
#endif
#ifdef CANARY_WARN_AT_CREATE
	WARN_ON_ONCE(1);
#endif
	return canaryfs_add(dir, dentry, mode | S_IFREG, 0);
}

static int canaryfs_make_directory(struct inode *dir, struct dentry *dentry, umode_t mode)
{
	int err = canaryfs_add(dir, dentry, mode | S_IFDIR, 0);

	if (!err)
		inc_nlink(dir);
	return err;
}

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 15, 0)
static struct dentry *canaryfs_mkdir(IDMAP *idmap, struct inode *dir, struct dentry *dentry,
				     umode_t mode)
{
	return ERR_PTR(canaryfs_make_directory(dir, dentry, mode));
}
#else
static int canaryfs_mkdir(IDMAP *idmap, struct inode *dir, struct dentry *dentry, umode_t mode)
{
	return canaryfs_make_directory(dir, dentry, mode);
}
#endif

static int canaryfs_symlink(IDMAP *idmap, struct inode *dir, struct dentry *dentry,
			    const char *target)
{
	struct inode *inode = canaryfs_new_inode(dir->i_sb, dir, S_IFLNK | 0777);
	int err;

	if (!inode)
		return -ENOSPC;
	inode->i_op = &page_symlink_inode_operations;
	inode_nohighmem(inode);
	err = page_symlink(inode, target, strlen(target) + 1);
	if (err) {
		iput(inode);
		return err;
	}
	d_instantiate(dentry, inode);
	dget(dentry);
	return 0;
}

static const struct inode_operations canaryfs_dir_inode_operations = {
	.lookup = simple_lookup,
	.create = canaryfs_create,
	.link = simple_link,
	.unlink = simple_unlink,
	.symlink = canaryfs_symlink,
	.mkdir = canaryfs_mkdir,
	.rmdir = simple_rmdir,
	.mknod = canaryfs_mknod,
	.rename = simple_rename,
};

static ssize_t canaryfs_read_iter(struct kiocb *iocb, struct iov_iter *to)
{
#ifdef CANARY_LOSES_DATA
	/* A clean log and wrong bytes: everything past 4 KiB reads as zeros. */
	loff_t size = i_size_read(file_inode(iocb->ki_filp));

	if (iocb->ki_pos >= FOUR_KIB && iocb->ki_pos < size) {
		size_t wanted = min_t(size_t, iov_iter_count(to), size - iocb->ki_pos);
		size_t done = iov_iter_zero(wanted, to);

		iocb->ki_pos += done;
		return done;
	}
	if (iocb->ki_pos + iov_iter_count(to) > FOUR_KIB)
		iov_iter_truncate(to, FOUR_KIB - iocb->ki_pos);
#endif
	return generic_file_read_iter(iocb, to);
}

static long canaryfs_ioctl(struct file *file, unsigned int request, unsigned long argument)
{
	return canary_at_ioctl(request, argument);
}

static const struct file_operations canaryfs_file_operations = {
	.unlocked_ioctl = canaryfs_ioctl,
	.read_iter = canaryfs_read_iter,
	.write_iter = generic_file_write_iter,
	.mmap = generic_file_mmap,
	.fsync = noop_fsync,
	.llseek = generic_file_llseek,
};

static const struct super_operations canaryfs_super_operations = {
	.statfs = simple_statfs,
	.drop_inode = generic_delete_inode,
};

static int canaryfs_fill_super(struct super_block *sb, struct fs_context *fc)
{
	struct inode *root;

	canary_at_mount();
#ifdef CANARY_MOUNT_REFUSED
	return -EINVAL;
#endif
	sb->s_maxbytes = MAX_LFS_FILESIZE;
	sb->s_blocksize = PAGE_SIZE;
	sb->s_blocksize_bits = PAGE_SHIFT;
	sb->s_magic = CANARYFS_MAGIC;
	sb->s_op = &canaryfs_super_operations;
	sb->s_time_gran = 1;
	root = canaryfs_new_inode(sb, NULL, S_IFDIR | 0755);
	if (!root)
		return -ENOMEM;
	root->i_op = &canaryfs_dir_inode_operations;
	root->i_fop = &simple_dir_operations;
	inc_nlink(root);
	sb->s_root = d_make_root(root);
#ifdef CANARY_BUSY_INODES
	ihold(root);
#endif
	return sb->s_root ? 0 : -ENOMEM;
}

static int canaryfs_get_tree(struct fs_context *fc)
{
	return get_tree_nodev(fc, canaryfs_fill_super);
}

static const struct fs_context_operations canaryfs_context_operations = {
	.get_tree = canaryfs_get_tree,
};

static int canaryfs_init_fs_context(struct fs_context *fc)
{
	fc->ops = &canaryfs_context_operations;
	return 0;
}

static void canaryfs_kill_sb(struct super_block *sb)
{
	canary_at_umount();
	kill_litter_super(sb);
}

static struct file_system_type canaryfs_type = {
#ifndef CANARY_NO_OWNER
	.owner = THIS_MODULE,
#endif
	.name = "canaryfs",
	.init_fs_context = canaryfs_init_fs_context,
	.kill_sb = canaryfs_kill_sb,
	.fs_flags = FS_USERNS_MOUNT,
};

static int __init canaryfs_init(void)
{
#ifdef CANARY_INIT_FAILS
	return -EIO;
#endif
#ifdef CANARY_MISSING_SYMBOL
	canaryfs_symbol_nobody_exports();
#endif
	canary_at_load();
#ifdef CANARY_POSITIVE_INIT
	return register_filesystem(&canaryfs_type) ?: 1;
#endif
	return register_filesystem(&canaryfs_type);
}

static void __exit canaryfs_exit(void)
{
	unregister_filesystem(&canaryfs_type);
	canary_at_unload();
}

module_init(canaryfs_init);
module_exit(canaryfs_exit);
MODULE_DESCRIPTION("A memory filesystem with at most one planted bug");
MODULE_LICENSE("GPL");
