// SPDX-License-Identifier: GPL-2.0
/*
 * Write after kfree(); seen with slab_debug on the kernel command line.
 */
#include <linux/init.h>
#include <linux/module.h>
#include <linux/slab.h>

static noinline void use_after_free_write(void)
{
	u32 *volatile object = kmalloc(4000, GFP_KERNEL);
	int i;

	if (!object)
		return;
	kfree(object);
	object[7] = 0x12345678;
	/* The allocator looks at poison only when it hands the object out again. */
	for (i = 0; i < 64; i++)
		if (!kmalloc(4000, GFP_KERNEL))
			break;
}

static int __init use_after_free_init(void)
{
	use_after_free_write();
	return 0;
}
module_init(use_after_free_init);

static void __exit use_after_free_exit(void)
{
}
module_exit(use_after_free_exit);

MODULE_DESCRIPTION("vexrun canary: write after kfree(); seen with slab_debug on the kernel comm");
MODULE_LICENSE("GPL");
