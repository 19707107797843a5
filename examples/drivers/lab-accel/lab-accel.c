// SPDX-License-Identifier: GPL-2.0-only
/*
 * /dev/lab-accel answers with what its firmware says, as an accelerator's driver would ask its firmware for it. Without
 * the file, or with one that does not begin with the right letters, there is no device.
 */
#include <linux/firmware.h>
#include <linux/fs.h>
#include <linux/init.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/platform_device.h>
#include <linux/slab.h>
#include <linux/string.h>

#define UCODE "lab-accel/ucode.bin"
static const char magic[] = "accel:";

static struct platform_device *board;
static char *answer;

static ssize_t accel_read(struct file *file, char __user *to, size_t count, loff_t *offset)
{
	return simple_read_from_buffer(to, count, offset, answer, strlen(answer));
}

static const struct file_operations operations = {
	.owner = THIS_MODULE,
	.read = accel_read,
};

static struct miscdevice accel = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "lab-accel",
	.fops = &operations,
	.mode = 0444,
};

static int take_firmware(void)
{
	const size_t skipped = sizeof(magic) - 1;
	const struct firmware *firmware;
	int error;

	error = request_firmware_direct(&firmware, UCODE, &board->dev);
	if (error) {
		dev_err(&board->dev, "no firmware %s (%d)\n", UCODE, error);
		return error;
	}
	if (firmware->size <= skipped || memcmp(firmware->data, magic, skipped)) {
		dev_err(&board->dev, "%s is no firmware for this device\n", UCODE);
		error = -EINVAL;
	} else {
		answer = kmemdup_nul(firmware->data + skipped, firmware->size - skipped, GFP_KERNEL);
		error = answer ? 0 : -ENOMEM;
	}
	release_firmware(firmware);
	return error;
}

static int __init accel_init(void)
{
	int error;

	board = platform_device_register_simple("lab-accel", PLATFORM_DEVID_NONE, NULL, 0);
	if (IS_ERR(board))
		return PTR_ERR(board);
	error = take_firmware();
	if (!error)
		error = misc_register(&accel);
	if (error) {
		kfree(answer);
		platform_device_unregister(board);
	}
	return error;
}

static void __exit accel_exit(void)
{
	misc_deregister(&accel);
	kfree(answer);
	platform_device_unregister(board);
}

module_init(accel_init);
module_exit(accel_exit);
MODULE_DESCRIPTION("Answers with what its firmware says");
MODULE_AUTHOR("The Tenon authors");
MODULE_FIRMWARE(UCODE);
MODULE_VERSION(DRIVER_VERSION);
MODULE_LICENSE("GPL");
