/* SPDX-License-Identifier: GPL-2.0 */
#define VEXFS_NAME "vex" "fs"
#define VEXFS_IOC_MAGIC 'V'

struct vexfs_search {
	__u32 dimension;
	__u8 metric;
	__u64 query;
	__u16 hits[3];
};

#define VEXFS_IOC_STATUS _IO(VEXFS_IOC_MAGIC, 1)
#define VEXFS_IOC_SEARCH _IOWR(VEXFS_IOC_MAGIC, 0x02, struct vexfs_search)
#define VEXFS_IOC_SHUTDOWN _IOR(VEXFS_IOC_MAGIC, 3, __u32)
#define VEXFS_IOC_UNUSED _IO(VEXFS_IOC_MAGIC, 4)
#define VEXFS_IOC_OPAQUE _IOW(VEXFS_IOC_MAGIC, 5, struct somewhere_else)
