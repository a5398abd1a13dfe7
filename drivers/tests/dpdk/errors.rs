//! What goes wrong is said in one line, with the cause and the cure.

use std::io::{Error, ErrorKind};

use demi_drivers::dpdk::Dpdk;

use super::common::{drop_privileges, in_namespace, run};
use super::support::{SMALL, case, close, config, open};

fn fails(arguments: &str) -> Error {
    let error = Dpdk::open(&config(arguments)).unwrap_err();
    let text = error.to_string();
    println!("{text}");
    assert!(text.starts_with("dpdk:") && !text.contains('\n'), "{text}");
    error
}

#[track_caller]
fn says(error: &Error, kind: ErrorKind, words: &[&str]) {
    let text = error.to_string();
    assert_eq!(error.kind(), kind, "{text}");
    for word in words {
        assert!(text.contains(word), "no `{word}` in: {text}");
    }
}

#[test]
fn an_argument_that_dpdk_does_not_know_is_named() {
    case("errors::an_argument_that_dpdk_does_not_know_is_named", || {
        let error = fails(&format!("{SMALL} --nonsense"));
        says(&error, ErrorKind::InvalidInput, &["--nonsense", "no such EAL argument"]);
        // DPDK does not start a second time in a process, whatever it is asked.
        let again = fails(&format!("{SMALL} --vdev=net_ring0"));
        says(&again, ErrorKind::Other, &["once a process", "--nonsense"]);
    });
}

#[test]
fn a_machine_without_huge_pages_is_told_how_to_get_some() {
    case("errors::a_machine_without_huge_pages_is_told_how_to_get_some", || {
        let free = std::fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
        if free.is_ok_and(|free| free.trim() != "0") {
            // This machine has some: then nothing is wrong.
            return close([open("--vdev=net_ring0")]);
        }
        let error = fails("--vdev=net_ring0");
        says(&error, ErrorKind::OutOfMemory, &["vm.nr_hugepages", "--no-huge"]);
    });
}

#[test]
fn too_little_memory_is_told_what_to_take_less_of() {
    case("errors::too_little_memory_is_told_what_to_take_less_of", || {
        let mut config = config("--no-huge -m 16 --vdev=net_ring0");
        config.pool.slots = 100_000;
        let error = Dpdk::open(&config).unwrap_err();
        says(&error, ErrorKind::OutOfMemory, &["no memory", "pool_slots"]);
        // Half-way up is closed again, and can be had with less.
        config.pool = demi_drivers::PoolConfig::small(256);
        close([Dpdk::open(&config).unwrap()]);
    });
}

#[test]
fn ports_that_are_not_there_or_taken_are_told_apart() {
    case("errors::ports_that_are_not_there_or_taken_are_told_apart", || {
        let arguments = format!("{SMALL} --vdev=net_ring0 --vdev=net_ring1");
        let first = open(&arguments);
        let second = open(&arguments);
        assert_ne!(demi_drivers::Device::name(&first), demi_drivers::Device::name(&second));
        says(&fails(&arguments), ErrorKind::NotFound, &["DPDK has 2, 2 in use", "port="]);
        says(&fails("port=7"), ErrorKind::NotFound, &["no port 7"]);
        says(&fails("port=net_tap9"), ErrorKind::NotFound, &["no port net_tap9"]);
        says(&fails("port=net_ring0"), ErrorKind::AddrInUse, &["open already"]);
        says(&fails("--vdev=net_ring2"), ErrorKind::InvalidInput, &["runs in this process already"]);
        says(&fails("queues=x"), ErrorKind::InvalidInput, &["queues=x"]);
        drop(second);
        says(&fails("port=net_ring1 queues=500"), ErrorKind::InvalidInput, &["queues=500", "net_ring"]);
        close([first]);
    });
}

#[test]
fn a_driver_that_is_none_is_named() {
    case("errors::a_driver_that_is_none_is_named", || {
        let error = fails(&format!("{SMALL} --vdev=net_nonsense0"));
        assert!(
            error.to_string().contains("net_nonsense0") || error.to_string().contains("no port"),
            "{error}"
        );
    });
}

#[test]
fn without_privilege_a_kernel_interface_names_the_capability() {
    case("errors::without_privilege_a_kernel_interface_names_the_capability", || {
        in_namespace("unprivileged", || {
            run("ip link add dours type veth peer name dpeer");
            run("ip link set dours up");
            drop_privileges();
            let error = fails(&format!("{SMALL} --vdev=net_af_packet0,iface=dours"));
            says(&error, ErrorKind::PermissionDenied, &["AF_PACKET", "CAP_NET_RAW"]);
        });
    });
}
