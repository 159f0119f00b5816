// SPDX-License-Identifier: GPL-2.0
/*
 * What a careless filesystem makes the kernel complain of, one complaint for each `about=`. Most of
 * them leave the kernel running, so that one boot shows many; init then refuses with -ENODEV.
 */
#include <linux/blkdev.h>
#include <linux/buffer_head.h>
#include <linux/debugfs.h>
#include <linux/delay.h>
#include <linux/init.h>
#include <linux/interrupt.h>
#include <linux/kobject.h>
#include <linux/list.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>
#include <linux/sysctl.h>
#include <linux/version.h>
#include <linux/vmalloc.h>
#include <linux/workqueue.h>

static char *about = "";
module_param(about, charp, 0444);
static int number;
module_param(number, int, 0444);

static noinline void complaints_kobject_twice(void)
{
	static struct kobj_type type = { .sysfs_ops = &kobj_sysfs_ops };
	static struct kobject twice;

	kobject_init(&twice, &type);
	kobject_init(&twice, &type);
}

static noinline void complaints_kobject_typeless(void)
{
	static struct kobject typeless;

	kobject_init(&typeless, NULL);
}

static noinline void complaints_kobject_never(void)
{
	static struct kobject never;

	kobject_put(&never);
}

static noinline void complaints_proc_twice(void)
{
	proc_mkdir("complaints_twice", NULL);
	proc_mkdir("complaints_twice", NULL);
	remove_proc_entry("complaints_twice", NULL);
}

static noinline void complaints_proc_busy(void)
{
	proc_mkdir("complaints_below", proc_mkdir("complaints_busy", NULL));
	remove_proc_entry("complaints_busy", NULL);
}

static noinline void complaints_debugfs_twice(void)
{
	struct dentry *directory = debugfs_create_dir("complaints", NULL);
	static u32 value;

	debugfs_create_dir("complaints", NULL);
	debugfs_create_u32("twice", 0444, directory, &value);
	debugfs_create_u32("twice", 0444, directory, &value);
	debugfs_remove_recursive(directory);
}

static noinline void complaints_sysctl_twice(void)
{
	static struct ctl_table table[] = {
		{ .procname = "twice", .data = &number, .maxlen = sizeof(int), .mode = 0444,
		  .proc_handler = proc_dointvec },
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 11, 0)
		{ }
#endif
	};
	struct ctl_table_header *first = register_sysctl("fs/complaints", table);

	register_sysctl("fs/complaints", table);
	if (first)
		unregister_sysctl_table(first);
}

static noinline void complaints_pages(void)
{
	static unsigned long held[2048];
	int count = 0;

	while (count < 2048 && (held[count] = __get_free_pages(GFP_NOWAIT & ~__GFP_NOWARN, 9)))
		count++;
	while (count--)
		free_pages(held[count], 9);
}

static noinline void complaints_vmalloc(void)
{
	volatile unsigned long size = 1UL << 42;

	vfree(vmalloc(size));
}

static noinline void complaints_kfree(void)
{
	kfree((void *)__get_free_page(GFP_KERNEL));
}

static noinline void complaints_brelse(void)
{
	static struct buffer_head head;

	__brelse(&head);
}

#define COMPLAINTS_DISK "/dev/disk/by-id/virtio-vexrun-scratch0"

static noinline void complaints_getblk(void)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 9, 0)
	struct file *file = bdev_file_open_by_path(COMPLAINTS_DISK, BLK_OPEN_READ, NULL, NULL);

	if (IS_ERR(file))
		return;
	__getblk(file_bdev(file), 0, 300);
	fput(file);
#else
	struct block_device *device = blkdev_get_by_path(COMPLAINTS_DISK, FMODE_READ, NULL);

	if (IS_ERR(device))
		return;
	__getblk(device, 0, 300);
	blkdev_put(device, FMODE_READ);
#endif
}

static noinline void complaints_rcu_sleep(void)
{
	rcu_read_lock();
	msleep(20);
	rcu_read_unlock();
}

static void complaints_leaks_preemption(struct tasklet_struct *unused)
{
	preempt_disable();
}
static DECLARE_TASKLET(complaints_tasklet, complaints_leaks_preemption);

static noinline void complaints_tasklet_leak(void)
{
	tasklet_schedule(&complaints_tasklet);
	msleep(100);
}

static struct { char field[16]; char next[48]; } complaints_record;
static char complaints_bytes[64];
static volatile size_t complaints_size = 32;

static noinline void complaints_field(void)
{
	memcpy(complaints_record.field, complaints_bytes, complaints_size);
}

static noinline void complaints_fortify(void)
{
	static char small[16];

	memset(complaints_bytes, 'x', 40);
	strcpy(small, complaints_bytes);
}

static noinline void complaints_list_del(void)
{
	static LIST_HEAD(head);
	static struct list_head entry;

	list_add(&entry, &head);
	list_del(&entry);
	list_del(&entry);
}

static noinline void complaints_list_twice(void)
{
	static LIST_HEAD(head);
	static struct list_head entry;

	list_add(&entry, &head);
	list_add(&entry, &head);
}

static void complaints_works_atomic(struct work_struct *unused)
{
	preempt_disable();
}
static DECLARE_WORK(complaints_work, complaints_works_atomic);

static noinline void complaints_work_leak(void)
{
	schedule_work(&complaints_work);
	msleep(200);
}

static noinline void complaints_stack(void)
{
	volatile char small[16];
	int i;

	for (i = 0; i < 64; i++)
		*(small + *(volatile int *)&i) = 'x';
}

static const struct {
	const char *name;
	void (*complain)(void);
} complaints[] = {
	{ "kobject_twice", complaints_kobject_twice },
	{ "kobject_never", complaints_kobject_never },
	{ "proc_twice", complaints_proc_twice },
	{ "proc_busy", complaints_proc_busy },
	{ "debugfs_twice", complaints_debugfs_twice },
	{ "sysctl_twice", complaints_sysctl_twice },
	{ "pages", complaints_pages },
	{ "vmalloc", complaints_vmalloc },
	{ "kfree", complaints_kfree },
	{ "brelse", complaints_brelse },
	{ "getblk", complaints_getblk },
	{ "kobject_typeless", complaints_kobject_typeless },
	{ "rcu_sleep", complaints_rcu_sleep },
	{ "tasklet_leak", complaints_tasklet_leak },
	{ "field", complaints_field },
	{ "fortify", complaints_fortify },
	{ "list_del", complaints_list_del },
	{ "list_twice", complaints_list_twice },
	{ "work_leak", complaints_work_leak },
	{ "stack", complaints_stack },
};

static int __init complaints_init(void)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(complaints); i++)
		if (!strcmp(about, complaints[i].name))
			complaints[i].complain();
	return -ENODEV;
}
module_init(complaints_init);

MODULE_DESCRIPTION("vexrun canary: complaints of the kernel, one for each about=");
MODULE_LICENSE("GPL");
