// SPDX-License-Identifier: GPL-2.0
/*
 * Integer division by zero.
 */
#include <linux/init.h>
#include <linux/module.h>

static volatile int zero;

static noinline int divide_by_zero(void)
{
	return 42 / zero;
}

static int __init divide_init(void)
{
	return divide_by_zero() ? -EIO : 0;
}
module_init(divide_init);

static void __exit divide_exit(void)
{
}
module_exit(divide_exit);

MODULE_DESCRIPTION("vexrun canary: integer division by zero");
MODULE_LICENSE("GPL");
