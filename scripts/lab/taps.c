/* The floor of `scripts/bench control cni-add`: makes in each of the network namespaces named by its arguments the device that weft makes
   for a pod, with the same settings, address, route and neighbour and no queueing in front of it, one after the other and with nothing
   around it, and says how many microseconds that took. They go when it ends. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <net/route.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static void must(int result, const char *what)
{
    if (result < 0) {
        perror(what);
        exit(1);
    }
}

/* One character each; the folder is looked for once, which takes the longer the more namespaces there are. */
static void set(const char *folder, const char *const settings[][2])
{
    int at, file;
    must(at = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC), folder);
    for (; *(*settings)[0]; settings++) {
        must(file = openat(at, (*settings)[0], O_WRONLY | O_CLOEXEC), (*settings)[0]);
        must(write(file, (*settings)[1], 1), (*settings)[0]);
        close(file);
    }
    close(at);
}

/* Nothing is queued in front of the driver. */
static void noqueue(int index)
{
    struct {
        struct nlmsghdr header;
        struct tcmsg tc;
        struct rtattr kind;
        char name[8];
    } request = {
        .header = {sizeof request, RTM_NEWQDISC, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, 0, 0},
        .tc = {.tcm_ifindex = index, .tcm_parent = TC_H_ROOT},
        .kind = {RTA_LENGTH(sizeof request.name), TCA_KIND},
        .name = "noqueue",
    };
    struct {
        struct nlmsghdr header;
        struct nlmsgerr error;
        char rest[256];
    } answer;
    int netlink;
    must(netlink = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE), "netlink");
    must(send(netlink, &request, sizeof request, 0), "send");
    must(recv(netlink, &answer, sizeof answer, 0), "recv");
    must(answer.error.error, "noqueue");
    close(netlink);
}

static void address(struct sockaddr *to, unsigned host)
{
    struct sockaddr_in *in = (struct sockaddr_in *)to;
    in->sin_family = AF_INET;
    in->sin_addr.s_addr = htonl(host);
}

static void up(int control, const char *name)
{
    struct ifreq ifr = {0};
    strcpy(ifr.ifr_name, name);
    ifr.ifr_flags = IFF_UP;
    must(ioctl(control, SIOCSIFFLAGS, &ifr), "SIOCSIFFLAGS");
}

static int make(const char *netns, int number)
{
    static const char *const v4[][2] = {{"arp_notify", "1"}, {""}};
    static const char *const v6[][2] = {
        {"accept_ra", "0"}, {"autoconf", "0"}, {"accept_dad", "0"}, {"dad_transmits", "0"}, {"ndisc_notify", "1"}, {""},
    };
    const unsigned gateway = 0x0a090001;
    struct ifreq ifr = {0};
    struct rtentry route = {.rt_flags = RTF_UP | RTF_GATEWAY, .rt_dev = "eth0"};
    struct arpreq neighbour = {.arp_flags = ATF_COM, .arp_dev = "eth0"};
    int space = open(netns, O_RDONLY | O_CLOEXEC), header = 12, tap, control;
    must(space, netns);
    must(setns(space, CLONE_NEWNET), "setns");
    must(tap = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC), "/dev/net/tun");
    strcpy(ifr.ifr_name, "eth0");
    ifr.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE | IFF_TUN_EXCL;
    must(ioctl(tap, TUNSETIFF, &ifr), "TUNSETIFF");
    must(ioctl(tap, TUNSETVNETHDRSZ, &header), "TUNSETVNETHDRSZ");
    must(ioctl(tap, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN), "TUNSETOFFLOAD");
    must(ioctl(tap, TUNSETPERSIST, 1), "TUNSETPERSIST");
    must(control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), "socket");
    memset(&ifr.ifr_ifru, 0, sizeof ifr.ifr_ifru);
    ifr.ifr_hwaddr.sa_family = ARPHRD_ETHER;
    memcpy(ifr.ifr_hwaddr.sa_data, (char[]){2, 0, 0, 9, number >> 8, number}, 6);
    must(ioctl(control, SIOCSIFHWADDR, &ifr), "SIOCSIFHWADDR");
    set("/proc/sys/net/ipv4/conf/eth0", v4);
    set("/proc/sys/net/ipv6/conf/eth0", v6);
    must(ioctl(control, SIOCGIFINDEX, &ifr), "SIOCGIFINDEX");
    noqueue(ifr.ifr_ifindex);
    ifr.ifr_mtu = 1450;
    must(ioctl(control, SIOCSIFMTU, &ifr), "SIOCSIFMTU");
    memset(&ifr.ifr_ifru, 0, sizeof ifr.ifr_ifru);
    address(&ifr.ifr_addr, gateway + number);
    must(ioctl(control, SIOCSIFADDR, &ifr), "SIOCSIFADDR");
    up(control, "lo");
    up(control, "eth0");
    address(&route.rt_dst, 0);
    address(&route.rt_genmask, 0);
    address(&route.rt_gateway, gateway);
    must(ioctl(control, SIOCADDRT, &route), "SIOCADDRT");
    address(&neighbour.arp_pa, gateway);
    neighbour.arp_ha.sa_family = ARPHRD_ETHER;
    memcpy(neighbour.arp_ha.sa_data, (char[]){2, 0, 0, 9, 9, 9}, 6);
    must(ioctl(control, SIOCSARP, &neighbour), "SIOCSARP");
    close(control);
    close(space);
    return tap;
}

int main(int argc, char **argv)
{
    struct timespec begin, end;
    int *taps = calloc(argc, sizeof *taps);
    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (int number = 1; number < argc; number++)
        taps[number] = make(argv[number], number);
    clock_gettime(CLOCK_MONOTONIC, &end);
    printf("%.0f\n", (end.tv_sec - begin.tv_sec) * 1e6 + (end.tv_nsec - begin.tv_nsec) / 1e3);
    for (int number = 1; number < argc; number++)
        must(ioctl(taps[number], TUNSETPERSIST, 0), "TUNSETPERSIST");
    return 0;
}
