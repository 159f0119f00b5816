// SPDX-License-Identifier: GPL-2.0
/*
 * Read past a KFENCE object; needs kfence.sample_interval=10 on the kernel command line.
 */
#include <linux/delay.h>
#include <linux/init.h>
#include <linux/kfence.h>
#include <linux/module.h>
#include <linux/slab.h>

static noinline void kfence_oob_read(char *volatile object)
{
	/* KFENCE puts an object at either end of its page: one of the two is a guard page. */
	READ_ONCE(object[-1]);
	READ_ONCE(object[PAGE_SIZE / 2]);
}

static int __init kfence_oob_init(void)
{
	int tries;

	for (tries = 0; tries < 2000; tries++) {
		char *object = kmalloc(PAGE_SIZE / 2, GFP_KERNEL);

		if (object && is_kfence_address(object)) {
			kfence_oob_read(object);
			kfree(object);
			return 0;
		}
		kfree(object);
		msleep(5);
	}
	return -ENODEV;
}
module_init(kfence_oob_init);

static void __exit kfence_oob_exit(void)
{
}
module_exit(kfence_oob_exit);

MODULE_DESCRIPTION("vexrun canary: read past a KFENCE object");
MODULE_LICENSE("GPL");
