//! Shared memory between two processes of ours.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs};

use demi_drivers::dpdk::{Dpdk, DpdkConfig};
use demi_drivers::park::Parker;
use demi_drivers::{Device, Instant as Clock};

use super::support::{LIMIT, SMALL, case, close, config, frame, receive, send_one};

/// Where the child finds the socket.
const SOCKET: &str = "DEMI_DPDK_SOCKET";

#[test]
fn two_processes_play_ping_pong_through_shared_memory() {
    case("memif::two_processes_play_ping_pong_through_shared_memory", || {
        let memif = |role: &str, socket: &str| {
            let device = format!("--vdev=net_memif0,role={role},socket={socket},socket-abstract=no");
            let config = DpdkConfig { link_wait: Duration::ZERO, ..config(&format!("{SMALL} {device}")) };
            Dpdk::open(&config).unwrap()
        };
        // The link is up once both ends have met.
        let meet = |memif: &Dpdk| {
            let start = Instant::now();
            while !memif.link().is_some_and(|link| link.up) {
                assert!(start.elapsed() < LIMIT, "the other process is not there");
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        if let Ok(socket) = env::var(SOCKET) {
            let mut memif = memif("client", &socket);
            meet(&memif);
            let mut parker = Parker::new();
            for number in 0..1000 {
                let mut got = Vec::new();
                while memif.rx_burst(Clock::ZERO, &mut got, 32).unwrap() == 0 {
                    // Between processes there is nothing to wait on but time.
                    parker.park(memif.wait_fd(), memif.max_wait()).unwrap();
                }
                assert_eq!(&got[0].buf[..], frame(number, 1400));
                for got in got {
                    send_one(&mut memif, got.buf);
                }
            }
            assert_eq!(&receive(&mut memif, 1)[0].buf[..], frame(9999, 64), "the end");
            close([memif]);
            return;
        }
        let socket = env::temp_dir().join(format!("demi-memif-{}.sock", std::process::id()));
        // First, so that the other one finds it: it is refused by a port that is only being set up.
        let mut memif = memif("server", &socket.display().to_string());
        let child = Command::new(env::current_exe().unwrap())
            .args(env::args().skip(1))
            .env(SOCKET, &socket)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        meet(&memif);
        for number in 0..1000 {
            let buf = memif.pool().copy_from_slice(&frame(number, 1400)).unwrap();
            send_one(&mut memif, buf);
            assert_eq!(&receive(&mut memif, 1)[0].buf[..], frame(number, 1400));
        }
        let end = memif.pool().copy_from_slice(&frame(9999, 64)).unwrap();
        send_one(&mut memif, end);
        let child = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&child.stderr);
        assert!(child.status.success(), "{}\n{said}", String::from_utf8_lossy(&child.stdout));
        close([memif]);
        let _ = fs::remove_file(socket);
    });
}
