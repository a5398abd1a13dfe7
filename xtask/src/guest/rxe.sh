# Two RDMA devices of the kernel's own, rxe0 and rxe1, at the ends of a cable: 10.77.0.1 and fd77::1, 10.77.0.2 and fd77::2.
# They are in one namespace, which is the only place for them, so what goes from one to the other is sent the long way, by rules.
modprobe -a rdma_rxe rdma_ucm veth sch_netem || exit 1
ip link add cable0 type veth peer name cable1
sysctl -q net.ipv4.conf.all.accept_local=1 net.ipv4.conf.all.rp_filter=0
for end in 0 1; do
  own=$((end + 1)) other=$((2 - end))
  sysctl -q net.ipv4.conf.cable$end.rp_filter=0
  # What two processors send would overtake itself, and rxe of Linux 6.1 does not recover from that when windows are being bound.
  echo 1 > /sys/class/net/cable$end/queues/rx-0/rps_cpus
  ip addr add 10.77.0.$own/24 dev cable$end
  ip addr add fd77::$own/64 dev cable$end nodad
  ip link set cable$end up
  ip rule add pref 1$end from 10.77.0.$own to 10.77.0.$other iif lo lookup 10$end
  ip -6 rule add pref 1$end from fd77::$own to fd77::$other iif lo lookup 10$end
  # The connection manager asks which way an address of IPv6 is without saying that it is this machine that asks.
  ip -6 rule add pref 2$end to fd77::$other oif cable$end lookup 10$end
  ip route add 10.77.0.$other dev cable$end src 10.77.0.$own table 10$end
done
for end in 0 1; do
  own=$((end + 1)) other=$((2 - end))
  ip -6 route add fd77::$other dev cable$end src fd77::$own table 10$end
done
for family in -4 -6; do
  ip $family rule add pref 100 lookup local
  ip $family rule del pref 0
done
for end in 0 1; do rdma link add rxe$end type rxe netdev cable$end || exit 1; done
for end in 0 1; do
  for try in $(seq 100); do
    grep -qi ":0a4d:000$((end + 1))" /sys/class/infiniband/rxe$end/ports/1/gids/* && break
    sleep 0.1
  done
done
