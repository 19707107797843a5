// SPDX-License-Identifier: GPL-2.0-only
/*
 * A network driver under the name of one of the kernel's own (dummy), as a vendor's newer build of an in-tree driver has
 * it. Its link labnet0 leads to a network in which every address is there: what is sent comes back from whom it was sent
 * to, so that a ping is answered.
 */
#include <linux/etherdevice.h>
#include <linux/init.h>
#include <linux/ip.h>
#include <linux/module.h>
#include <linux/netdevice.h>
#include <linux/skbuff.h>
#include <net/dst.h>

static struct net_device *device;

static void turn_around(struct sk_buff *packet, struct net_device *link)
{
	struct ethhdr *frame = (struct ethhdr *)packet->data;
	struct iphdr *header = (struct iphdr *)(packet->data + ETH_HLEN);

	swap(header->saddr, header->daddr);
	ether_addr_copy(frame->h_source, frame->h_dest);
	ether_addr_copy(frame->h_dest, link->dev_addr);
	packet->protocol = eth_type_trans(packet, link);
	link->stats.rx_packets++;
	netif_rx(packet);
}

static netdev_tx_t link_transmit(struct sk_buff *sent, struct net_device *link)
{
	struct sk_buff *packet = NULL;

	link->stats.tx_packets++;
	link->stats.tx_bytes += sent->len;
	if (sent->protocol == htons(ETH_P_IP) && sent->len >= ETH_HLEN + sizeof(struct iphdr))
		packet = skb_copy(sent, GFP_ATOMIC);
	if (packet) {
		/* It comes by wire: nothing of how it was sent counts. */
		skb_dst_drop(packet);
		nf_reset_ct(packet);
		turn_around(packet, link);
	}
	dev_kfree_skb(sent);
	return NETDEV_TX_OK;
}

static const struct net_device_ops operations = {
	.ndo_start_xmit = link_transmit,
	.ndo_validate_addr = eth_validate_addr,
};

static void link_setup(struct net_device *link)
{
	ether_setup(link);
	link->netdev_ops = &operations;
	link->flags |= IFF_NOARP;
	eth_hw_addr_random(link);
}

static int __init link_init(void)
{
	int error;

	device = alloc_netdev(0, "labnet%d", NET_NAME_ENUM, link_setup);
	if (!device)
		return -ENOMEM;
	error = register_netdev(device);
	if (error)
		free_netdev(device);
	return error;
}

static void __exit link_exit(void)
{
	unregister_netdev(device);
	free_netdev(device);
}

module_init(link_init);
module_exit(link_exit);
MODULE_DESCRIPTION("A link to everybody, in the place of the kernel's own dummy");
MODULE_AUTHOR("The Tenon authors");
MODULE_VERSION(DRIVER_VERSION);
MODULE_LICENSE("GPL");
