/* The floor of `scripts/bench control cni-add`: makes in each of the network namespaces named by its arguments the device that weft makes
   for a pod, one after the other and with nothing around it, and says how many microseconds that took. They go when it ends.

   The kernel gives each the queueing discipline that it gives any such device, which is most of what they cost. With -n as the first
   argument they have none, as weft's. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <net/if_arp.h>
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

static void make(const char *netns, int number, int unbuffered)
{
    struct ifreq ifr = {0};
    struct sockaddr_in *address = (struct sockaddr_in *)&ifr.ifr_addr;
    int space = open(netns, O_RDONLY | O_CLOEXEC), header = 12, tap, control;
    must(space, netns);
    must(setns(space, CLONE_NEWNET), "setns");
    must(tap = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC), "/dev/net/tun");
    strcpy(ifr.ifr_name, "eth0");
    ifr.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE | IFF_TUN_EXCL;
    must(ioctl(tap, TUNSETIFF, &ifr), "TUNSETIFF");
    must(ioctl(tap, TUNSETVNETHDRSZ, &header), "TUNSETVNETHDRSZ");
    must(ioctl(tap, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN), "TUNSETOFFLOAD");
    must(control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), "socket");
    memset(&ifr.ifr_ifru, 0, sizeof ifr.ifr_ifru);
    ifr.ifr_hwaddr.sa_family = ARPHRD_ETHER;
    memcpy(ifr.ifr_hwaddr.sa_data, (char[]){2, 0, 0, 9, number >> 8, number}, 6);
    must(ioctl(control, SIOCSIFHWADDR, &ifr), "SIOCSIFHWADDR");
    ifr.ifr_mtu = 1450;
    must(ioctl(control, SIOCSIFMTU, &ifr), "SIOCSIFMTU");
    memset(&ifr.ifr_ifru, 0, sizeof ifr.ifr_ifru);
    address->sin_family = AF_INET;
    address->sin_addr.s_addr = htonl(0x0a090002 + number);
    must(ioctl(control, SIOCSIFADDR, &ifr), "SIOCSIFADDR");
    if (unbuffered) {
        must(ioctl(control, SIOCGIFINDEX, &ifr), "SIOCGIFINDEX");
        noqueue(ifr.ifr_ifindex);
    }
    ifr.ifr_flags = IFF_UP;
    must(ioctl(control, SIOCSIFFLAGS, &ifr), "SIOCSIFFLAGS");
    close(control);
    close(space);
}

int main(int argc, char **argv)
{
    struct timespec begin, end;
    int unbuffered = argc > 1 && !strcmp(argv[1], "-n");
    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (int number = 1 + unbuffered; number < argc; number++)
        make(argv[number], number, unbuffered);
    clock_gettime(CLOCK_MONOTONIC, &end);
    printf("%.0f\n", (end.tv_sec - begin.tv_sec) * 1e6 + (end.tv_nsec - begin.tv_nsec) / 1e3);
    return 0;
}
