// SPDX-License-Identifier: GPL-2.0
/*
 * vexfs-ref: vectors in files, added to and searched by ioctl.
 *
 * The kernel does no floating point: elements are 16-bit integers, distances are squared and
 * fit 64 bits by far (4096 * 65535^2 < 2^45).
 */
#include <linux/fs.h>
#include <linux/fsnotify.h>
#include <linux/highmem.h>
#include <linux/mm.h>
#include <linux/mount.h>
#include <linux/pagemap.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/sort.h>
#include <linux/uaccess.h>
#include <linux/uio.h>

#include "vexfs_ref.h"

#define VEXFS_REF_CHUNK (64U << 10)	/* bytes handled between two looks at signals */

static size_t vexfs_ref_row_size(u32 dimension)
{
	return dimension * sizeof(__le16);
}

static int vexfs_ref_check_dimension(u32 dimension)
{
	if (!dimension)
		return -EINVAL;
	return dimension > VEXFS_REF_MAX_DIMENSION ? -E2BIG : 0;
}

/*
 * How many whole rows of `dimension` the file has. Through the page cache, not kernel_read():
 * whoever adds rows need not have opened the file for reading.
 */
static int vexfs_ref_count_rows(struct inode *inode, u32 dimension, u64 *rows)
{
	const loff_t size = i_size_read(inode);
	struct vexfs_ref_vector_header header;
	struct folio *folio;
	const void *address;

	if (size < sizeof(header))
		return -EINVAL;
	folio = read_mapping_folio(inode->i_mapping, 0, NULL);
	if (IS_ERR(folio))
		return PTR_ERR(folio);
	address = kmap_local_folio(folio, 0);
	memcpy(&header, address, sizeof(header));
	kunmap_local(address);
	folio_put(folio);
	if (le32_to_cpu(header.v_magic) != VEXFS_REF_VECTOR_MAGIC ||
	    le32_to_cpu(header.v_element) != VEXFS_REF_ELEMENT_S16 ||
	    le32_to_cpu(header.v_dimension) != dimension ||
	    memchr_inv(header.v_reserved, 0, sizeof(header.v_reserved)))
		return -EINVAL;
	*rows = div_u64(size - sizeof(header), vexfs_ref_row_size(dimension));
	return 0;
}

static int vexfs_ref_write_all(struct file *file, void *data, size_t length, loff_t *pos)
{
	struct kvec vector = { .iov_base = data, .iov_len = length };
	struct iov_iter from;
	struct kiocb kiocb;

	init_sync_kiocb(&kiocb, file);
	iov_iter_kvec(&from, ITER_SOURCE, &vector, 1, length);
	while (iov_iter_count(&from)) {
		ssize_t written;

		kiocb.ki_pos = *pos;
		written = generic_perform_write(&kiocb, &from);
		if (written <= 0)
			return written ? written : -EIO;
		*pos += written;
	}
	return 0;
}

static int vexfs_ref_write_header(struct file *file, u32 dimension, loff_t *pos)
{
	struct vexfs_ref_vector_header header = {
		.v_magic = cpu_to_le32(VEXFS_REF_VECTOR_MAGIC),
		.v_dimension = cpu_to_le32(dimension),
		.v_element = cpu_to_le32(VEXFS_REF_ELEMENT_S16),
	};

	return vexfs_ref_write_all(file, &header, sizeof(header), pos);
}

static int vexfs_ref_write_rows(struct file *file, const void __user *from, size_t length,
				loff_t *pos)
{
	void *buffer = kvmalloc(min_t(size_t, length, VEXFS_REF_CHUNK), GFP_KERNEL);
	int error = 0;

	if (!buffer)
		return -ENOMEM;
	while (!error && length) {
		size_t here = min_t(size_t, length, VEXFS_REF_CHUNK);

		if (fatal_signal_pending(current))
			error = -EINTR;
		else if (copy_from_user(buffer, from, here))
			error = -EFAULT;
		else
			error = vexfs_ref_write_all(file, buffer, here, pos);
		from += here;
		length -= here;
	}
	kvfree(buffer);
	return error;
}

/* With i_rwsem held: append the rows, or leave the file as it was. */
static int vexfs_ref_append_rows(struct file *file, struct vexfs_ref_add_vectors *request,
				 size_t length, void __user *argument)
{
	struct vexfs_ref_add_vectors __user *out = argument;
	struct inode *inode = file_inode(file);
	const loff_t before = inode->i_size;
	const size_t row = vexfs_ref_row_size(request->dimension);
	u64 rows = 0;
	loff_t pos;
	int error, undone;

	if (before) {
		error = vexfs_ref_count_rows(inode, request->dimension, &rows);
		if (error)
			return error;
	}
	/* A part of a row at the end is not one that anybody has added here: it is written over. */
	pos = sizeof(struct vexfs_ref_vector_header) + rows * row;
	error = inode_newsize_ok(inode, pos + length);
	if (error)
		return error;
	/* Say where they go before they do: an address that is bad changes nothing. */
	if (put_user(rows, &out->first_row))
		return -EFAULT;
	error = file_remove_privs(file);
	if (!error)
		error = file_update_time(file);
	if (error)
		return error;

	if (!before) {
		pos = 0;
		error = vexfs_ref_write_header(file, request->dimension, &pos);
	}
	if (!error)
		error = vexfs_ref_write_rows(file, u64_to_user_ptr(request->vectors), length, &pos);
	if (error && inode->i_size != before) {
		undone = vexfs_ref_set_size(inode, before);
		if (undone)
			vexfs_ref_damaged(inode->i_sb, "inode %lu could not be cut back: %d",
					  (unsigned long)inode->i_ino, undone);
	}
	return error;
}

long vexfs_ref_add_vectors(struct file *file, void __user *argument)
{
	struct inode *inode = file_inode(file);
	struct vexfs_ref_add_vectors request;
	struct kiocb kiocb;
	ssize_t synced;
	u64 length;
	int error;

	if (!(file->f_mode & FMODE_WRITE))
		return -EBADF;
	if (copy_from_user(&request, argument, sizeof(request)))
		return -EFAULT;
	if (request.flags || request.reserved || !request.count)
		return -EINVAL;
	error = vexfs_ref_check_dimension(request.dimension);
	if (error)
		return error;
	length = (u64)request.count * vexfs_ref_row_size(request.dimension);
	if (length > VEXFS_REF_MAX_ADD_BYTES)
		return -E2BIG;

	error = mnt_want_write_file(file);
	if (error)
		return error;
	inode_lock(inode);
	error = vexfs_ref_append_rows(file, &request, length, argument);
	inode_unlock(inode);
	mnt_drop_write_file(file);
	if (error)
		return error;
	fsnotify_modify(file);

	/* For O_SYNC. The range is what generic_write_sync() finds before ki_pos: all of it. */
	init_sync_kiocb(&kiocb, file);
	kiocb.ki_pos = i_size_read(inode);
	synced = generic_write_sync(&kiocb, kiocb.ki_pos);
	return synced < 0 ? synced : 0;
}

/* Nearer first; of equally near ones the earlier row. A total order, so results are definite. */
static int vexfs_ref_compare_hits(const void *left, const void *right)
{
	const struct vexfs_ref_hit *a = left, *b = right;

	if (a->distance != b->distance)
		return a->distance < b->distance ? -1 : 1;
	if (a->row != b->row)
		return a->row < b->row ? -1 : 1;
	return 0;
}

/* The k best so far, as a heap with the worst of them at the top. */
struct vexfs_ref_best {
	struct vexfs_ref_hit *hits;
	u32 count;
	u32 k;
};

static void vexfs_ref_sift_down(struct vexfs_ref_best *best, u32 at)
{
	for (;;) {
		u32 child = 2 * at + 1;

		if (child >= best->count)
			return;
		if (child + 1 < best->count &&
		    vexfs_ref_compare_hits(&best->hits[child], &best->hits[child + 1]) < 0)
			child++;
		if (vexfs_ref_compare_hits(&best->hits[at], &best->hits[child]) >= 0)
			return;
		swap(best->hits[at], best->hits[child]);
		at = child;
	}
}

static void vexfs_ref_consider(struct vexfs_ref_best *best, u64 row, u64 distance)
{
	struct vexfs_ref_hit hit = { .row = row, .distance = distance };
	u32 at;

	if (best->count < best->k) {
		best->hits[best->count++] = hit;
		if (best->count == best->k)
			for (at = best->k / 2; at-- > 0;)
				vexfs_ref_sift_down(best, at);
	} else if (vexfs_ref_compare_hits(&hit, &best->hits[0]) < 0) {
		best->hits[0] = hit;
		vexfs_ref_sift_down(best, 0);
	}
}

static u64 vexfs_ref_distance(const __le16 *a, const __le16 *b, u32 dimension)
{
	u64 sum = 0;
	u32 i;

	for (i = 0; i < dimension; i++) {
		s64 difference = (s16)le16_to_cpu(a[i]) - (s16)le16_to_cpu(b[i]);

		sum += difference * difference;
	}
	return sum;
}

/*
 * Compare `rows` rows with the query. The file may be changed meanwhile, as under any read():
 * rows that are no longer there when their turn comes are not looked at.
 */
static int vexfs_ref_scan(struct file *file, const __le16 *query, u32 dimension, u64 *rows,
			  struct vexfs_ref_best *best)
{
	const size_t row_size = vexfs_ref_row_size(dimension);
	const u32 per_chunk = VEXFS_REF_CHUNK / row_size;
	loff_t pos = sizeof(struct vexfs_ref_vector_header);
	char *buffer = kvmalloc(per_chunk * row_size, GFP_KERNEL);
	int error = 0;
	u64 row = 0;

	if (!buffer)
		return -ENOMEM;
	while (row < *rows) {
		size_t wanted = min_t(u64, *rows - row, per_chunk) * row_size;
		ssize_t got = kernel_read(file, buffer, wanted, &pos);
		size_t offset;

		if (got < 0) {
			error = got;
			break;
		}
		for (offset = 0; offset + row_size <= got; offset += row_size)
			vexfs_ref_consider(best, row++,
					   vexfs_ref_distance((const __le16 *)(buffer + offset),
							      query, dimension));
		if (got < wanted)
			break;
		if (fatal_signal_pending(current)) {
			error = -EINTR;
			break;
		}
		cond_resched();
	}
	*rows = row;
	kvfree(buffer);
	return error;
}

long vexfs_ref_search(struct file *file, void __user *argument)
{
	struct vexfs_ref_search request;
	struct vexfs_ref_best best = { };
	__le16 *query;
	u64 rows;
	int error;

	if (!(file->f_mode & FMODE_READ))
		return -EBADF;
	if (copy_from_user(&request, argument, sizeof(request)))
		return -EFAULT;
	if (request.flags || !request.k)
		return -EINVAL;
	error = vexfs_ref_check_dimension(request.dimension);
	if (error)
		return error;
	if (request.k > VEXFS_REF_MAX_K)
		return -E2BIG;
	error = vexfs_ref_count_rows(file_inode(file), request.dimension, &rows);
	if (error)
		return error;

	query = memdup_user(u64_to_user_ptr(request.query), vexfs_ref_row_size(request.dimension));
	if (IS_ERR(query))
		return PTR_ERR(query);
	best.k = request.k;
	best.hits = kvmalloc_array(best.k, sizeof(*best.hits), GFP_KERNEL);
	error = best.hits ? 0 : -ENOMEM;
	if (!error)
		error = vexfs_ref_scan(file, query, request.dimension, &rows, &best);
	if (!error) {
		sort(best.hits, best.count, sizeof(*best.hits), vexfs_ref_compare_hits, NULL);
		request.found = best.count;
		request.rows = rows;
		if (copy_to_user(u64_to_user_ptr(request.hits), best.hits,
				 best.count * sizeof(*best.hits)) ||
		    copy_to_user(argument, &request, sizeof(request)))
			error = -EFAULT;
	}
	kvfree(best.hits);
	kfree(query);
	return error;
}
