// SPDX-License-Identifier: GPL-2.0-only
/* Requests a firmware file when it starts; /sys/module/lab_firmware/parameters/{length,text} tell what it got. */
#include <linux/device.h>
#include <linux/firmware.h>
#include <linux/init.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/platform_device.h>
#include <linux/string.h>

static char *name = "lab-firmware.bin";
module_param(name, charp, 0444);
MODULE_PARM_DESC(name, "the firmware file's name");

static unsigned int length;
module_param(length, uint, 0444);
MODULE_PARM_DESC(length, "how many bytes the file has (read only)");

static char text[64];
module_param_string(text, text, sizeof(text), 0444);
MODULE_PARM_DESC(text, "the file's first bytes (read only)");

static struct platform_device *device;

static int __init firmware_init(void)
{
	const struct firmware *firmware;
	int error;

	device = platform_device_register_simple("lab-firmware", PLATFORM_DEVID_NONE, NULL, 0);
	if (IS_ERR(device))
		return PTR_ERR(device);
	error = request_firmware_direct(&firmware, name, &device->dev);
	if (error) {
		pr_err("lab-firmware: no firmware %s (%d)\n", name, error);
		platform_device_unregister(device);
		return error;
	}
	length = firmware->size;
	memcpy(text, firmware->data, min_t(size_t, firmware->size, sizeof(text) - 1));
	pr_info("lab-firmware %s: %s has %u bytes\n", DRIVER_VERSION, name, length);
	release_firmware(firmware);
	return 0;
}

static void __exit firmware_exit(void)
{
	platform_device_unregister(device);
}

module_init(firmware_init);
module_exit(firmware_exit);
MODULE_DESCRIPTION("Needs a firmware file");
MODULE_AUTHOR("The Tenon authors");
MODULE_FIRMWARE("lab-firmware.bin");
MODULE_VERSION(DRIVER_VERSION);
MODULE_LICENSE("GPL");
