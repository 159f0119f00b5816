// SPDX-License-Identifier: GPL-2.0
/*
 * Add the same entry twice behind the list's back: list_add corruption.
 */
#include <linux/init.h>
#include <linux/list.h>
#include <linux/module.h>

static LIST_HEAD(head);
static struct list_head first, second;

static noinline void list_corrupt_add(void)
{
	list_add(&first, &head);
	first.prev = &first;
	list_add(&second, &head);
}

static int __init list_corrupt_init(void)
{
	list_corrupt_add();
	return 0;
}
module_init(list_corrupt_init);

static void __exit list_corrupt_exit(void)
{
}
module_exit(list_corrupt_exit);

MODULE_DESCRIPTION("vexrun canary: add the same entry twice behind the list's back");
MODULE_LICENSE("GPL");
