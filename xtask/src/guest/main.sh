# The first process of the guest, once the machine's files are mounted.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb LANG=C.UTF-8 XTASK_GUEST=1
stty -opost 2>/dev/null
mkdir -p /lib/modules
mount --bind @MODULES@/lib/modules /lib/modules
hostname guest
ip link set lo up
ulimit -l unlimited
ulimit -n 65536
@VARIABLES@
before() {
:
@BEFORE@
}
(before) && cd @HERE@ && @COMMAND@
code=$?
echo $code > /mnt/shared/code
sync
echo o > /proc/sysrq-trigger
sleep 10
