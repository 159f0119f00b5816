// SPDX-License-Identifier: GPL-2.0
/*
 * Execute data: the NX bit must stop it.
 */
#include <linux/init.h>
#include <linux/module.h>

static u8 code[] = { 0xc3 };	/* ret */

static noinline void exec_data_jump(void)
{
	void (*volatile jump)(void) = (void (*)(void))code;

	jump();
	barrier();
}

static int __init exec_data_init(void)
{
	exec_data_jump();
	return 0;
}
module_init(exec_data_init);

static void __exit exec_data_exit(void)
{
}
module_exit(exec_data_exit);

MODULE_DESCRIPTION("vexrun canary: execute data");
MODULE_LICENSE("GPL");
