// SPDX-License-Identifier: GPL-2.0-only
/* Calls lab-core, so that lab-core must be loaded first and unloaded last. */
#include <linux/init.h>
#include <linux/kernel.h>
#include <linux/module.h>

int LAB_SYMBOL(void);

static int __init client_init(void)
{
	pr_info("lab-client %s: the answer is %d\n", DRIVER_VERSION, LAB_SYMBOL());
	return 0;
}

static void __exit client_exit(void)
{
}

module_init(client_init);
module_exit(client_exit);
MODULE_DESCRIPTION("Needs lab-core");
MODULE_AUTHOR("The Tenon authors");
MODULE_VERSION(DRIVER_VERSION);
MODULE_LICENSE("GPL");
