// SPDX-License-Identifier: GPL-2.0-only
/* Exports one function for lab-client. */
#include <linux/init.h>
#include <linux/module.h>

int lab_core_answer(void);

int lab_core_answer(void)
{
	return 42;
}
EXPORT_SYMBOL_GPL(lab_core_answer);

static int __init core_init(void)
{
	return 0;
}

static void __exit core_exit(void)
{
}

module_init(core_init);
module_exit(core_exit);
MODULE_DESCRIPTION("Exports what lab-client needs");
MODULE_AUTHOR("The Tenon authors");
MODULE_VERSION(DRIVER_VERSION);
MODULE_LICENSE("GPL");
