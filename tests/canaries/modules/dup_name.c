// SPDX-License-Identifier: GPL-2.0
/*
 * Register one sysfs name twice.
 */
#include <linux/init.h>
#include <linux/kobject.h>
#include <linux/module.h>
#include <linux/sysfs.h>

static struct kobject *first, *second;

static int __init dup_name_init(void)
{
	first = kobject_create_and_add("dup_name_canary", kernel_kobj);
	if (!first)
		return -ENOMEM;
	second = kobject_create_and_add("dup_name_canary", kernel_kobj);
	return 0;
}
module_init(dup_name_init);

static void __exit dup_name_exit(void)
{
	kobject_put(second);
	kobject_put(first);
}
module_exit(dup_name_exit);

MODULE_DESCRIPTION("vexrun canary: register one sysfs name twice");
MODULE_LICENSE("GPL");
