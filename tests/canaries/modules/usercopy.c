// SPDX-License-Identifier: GPL-2.0
/*
 * Copy more out of a slab object than it holds.
 */
#include <linux/init.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

static noinline unsigned long usercopy_leak(void)
{
	unsigned long where = vm_mmap(NULL, 0, PAGE_SIZE, PROT_READ | PROT_WRITE,
					  MAP_ANONYMOUS | MAP_PRIVATE, 0);
	volatile unsigned long size = 256;
	char *object = kzalloc(64, GFP_KERNEL);
	unsigned long left;

	if (IS_ERR_VALUE(where) || !object)
		return 1;
	/* The compiler knows how large the object is and would warn before usercopy does. */
	OPTIMIZER_HIDE_VAR(object);
	left = copy_to_user((void __user *)where, object, size);
	kfree(object);
	return left;
}

static int __init usercopy_init(void)
{
	return usercopy_leak() ? -EFAULT : 0;
}
module_init(usercopy_init);

static void __exit usercopy_exit(void)
{
}
module_exit(usercopy_exit);

MODULE_DESCRIPTION("vexrun canary: copy more out of a slab object than it holds");
MODULE_LICENSE("GPL");
