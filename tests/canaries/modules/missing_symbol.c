// SPDX-License-Identifier: GPL-2.0
/*
 * Uses a symbol that no kernel exports (built with KBUILD_MODPOST_WARN=1).
 */
#include <linux/init.h>
#include <linux/module.h>

extern int vexrun_symbol_that_nobody_exports(void);

static int __init missing_symbol_init(void)
{
	return vexrun_symbol_that_nobody_exports();
}
module_init(missing_symbol_init);

static void __exit missing_symbol_exit(void)
{
}
module_exit(missing_symbol_exit);

MODULE_DESCRIPTION("vexrun canary: uses a symbol that no kernel exports (built with kbuild_modp");
MODULE_LICENSE("GPL");
