// SPDX-License-Identifier: GPL-2.0
/*
 * kfree() twice; seen with slab_debug on the kernel command line.
 */
#include <linux/init.h>
#include <linux/module.h>
#include <linux/slab.h>

static noinline void double_free_it(void)
{
	void *volatile object = kmalloc(64, GFP_KERNEL);

	kfree(object);
	kfree(object);
}

static int __init double_free_init(void)
{
	double_free_it();
	return 0;
}
module_init(double_free_init);

static void __exit double_free_exit(void)
{
}
module_exit(double_free_exit);

MODULE_DESCRIPTION("vexrun canary: kfree() twice; seen with slab_debug on the kernel command li");
MODULE_LICENSE("GPL");
