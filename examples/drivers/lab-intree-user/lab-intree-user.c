// SPDX-License-Identifier: GPL-2.0-only
/* Needs crc7, which the kernel has as a module of its own; /sys/module/lab_intree_user/parameters/checksum shows its work. */
#include <linux/crc7.h>
#include <linux/init.h>
#include <linux/module.h>
#include <linux/moduleparam.h>

static unsigned int checksum;
module_param(checksum, uint, 0444);
MODULE_PARM_DESC(checksum, "the checksum of the word tenon (read only)");

static int __init user_init(void)
{
	static const u8 word[] = { 't', 'e', 'n', 'o', 'n' };

	checksum = crc7_be(0, word, sizeof(word));
	return 0;
}

static void __exit user_exit(void)
{
}

module_init(user_init);
module_exit(user_exit);
MODULE_DESCRIPTION("Needs a module of the kernel's own");
MODULE_AUTHOR("The Tenon authors");
MODULE_VERSION(DRIVER_VERSION);
MODULE_LICENSE("GPL");
