//! The shell commands of scripts, as far as they set what a stack can be told: sysctls and routes. Nothing is executed.
//!
//! A command that is not known, or that asks for what the stack does not have, is an error that names it: a script whose
//! conditions are not met proves nothing.

use std::time::Duration;

use demi_drivers::transport::{CongestionControl, KeepAlive};
use demi_netstack::StackConfig;
use demi_netstack::tcp::{EcnMode, EcnOption, MtuProbing, SynCookies, TimeWaitReuse};

/// What a script's commands have set.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) stack: StackConfig,
    /// Of sockets that turn keepalive on without more words.
    pub(crate) keepalive: KeepAlive,
}

impl Default for Settings {
    /// Linux's, where they are not the stack's own: Fast Open for clients alone, no probes of the path, TIME-WAIT followed
    /// on over loopback alone.
    fn default() -> Self {
        let mut stack = StackConfig::default();
        stack.tcp.fast_open.server = false;
        stack.tcp.mtu_probing = MtuProbing::Never;
        stack.tcp.mtu_probe_floor_bytes = 48;
        stack.tcp.time_wait_reuse = TimeWaitReuse::Local;
        Settings { stack, keepalive: KeepAlive::default() }
    }
}

/// What the scripts that come with packetdrill and with the kernel call to begin from known values.
const DEFAULTS: [&str; 2] = ["defaults.sh", "common.sh"];

impl Settings {
    /// Takes the commands of one pair of backticks. `running`: the stack is at work already and cannot be told any more.
    pub(crate) fn apply(&mut self, text: &str, running: bool) -> Result<(), String> {
        for words in commands(text) {
            self.command(&words, running).map_err(|why| format!("`{}`: {why}", words.join(" ")))?;
        }
        Ok(())
    }

    fn command(&mut self, words: &[String], running: bool) -> Result<(), String> {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let Some((&program, arguments)) = words.split_first() else { return Ok(()) };
        let late = || match running {
            true => Err("the stack runs already: set this before the first event".to_owned()),
            false => Ok(()),
        };
        let base = program.rsplit('/').next().unwrap_or(program);
        if DEFAULTS.contains(&base) {
            late()?;
            self.stack.tcp.recv_buffer_max_bytes = 15_728_640;
            self.sysctl("tcp_fastopen", "1027")?;
            self.sysctl("tcp_fastopen_key", "a1a1a1a1-b2b2b2b2-c3c3c3c3-d4d4d4d4")?;
            return Ok(());
        }
        match (base, arguments) {
            ("sysctl", arguments) => {
                late()?;
                let pairs = arguments.iter().filter(|word| !word.starts_with('-'));
                pairs.into_iter().try_for_each(|pair| self.pair(pair))
            }
            ("set_sysctls.py", arguments) => {
                late()?;
                arguments.iter().try_for_each(|pair| self.pair(pair))
            }
            ("echo", [value @ .., ">", path]) => {
                late()?;
                self.sysctl(path, &value.join(" "))
            }
            ("ip", ["-6", rest @ ..]) | ("ip", ["-4", rest @ ..]) | ("ip", rest) => match rest {
                ["tcp_metrics", "flush" | "flush_all" | "delete", ..] => Ok(()),
                ["route" | "ro" | "r", "add" | "replace" | "change", rest @ ..] => {
                    late()?;
                    self.route(rest)
                }
                _ => Err("not supported: of ip, 'tcp_metrics flush' and 'route add' are".to_owned()),
            },
            // There is no queue below the stack.
            ("tc", ["qdisc", "add" | "replace" | "change", rest @ ..])
                if rest.iter().any(|word| matches!(*word, "pfifo" | "fq" | "noqueue" | "pfifo_fast")) =>
            {
                Ok(())
            }
            // Whatever puts a machine's settings back.
            (base, _) if base.starts_with("sysctl_restore") => Ok(()),
            ("true" | ":" | "sync", _) => Ok(()),
            ("modprobe", ["tcp_cubic" | "tcp_dctcp" | "tcp_bbr" | "-q" | "tun", ..]) => Ok(()),
            _ => Err("this command is not supported".to_owned()),
        }
    }

    fn pair(&mut self, pair: &str) -> Result<(), String> {
        match pair.split_once('=') {
            Some((name, value)) => self.sysctl(name, value),
            None => Err(format!("'{pair}': expected NAME=VALUE")),
        }
    }

    /// Sets a sysctl, given by its dotted name or its path.
    fn sysctl(&mut self, name: &str, value: &str) -> Result<(), String> {
        let dotted = name.strip_prefix("/proc/sys/").unwrap_or(name).replace('/', ".");
        let value = value.trim().trim_matches('"');
        let numbers: Vec<u64> = value.split_whitespace().map_while(|number| number.parse().ok()).collect();
        let tcp = &mut self.stack.tcp;
        let key = dotted.strip_prefix("net.ipv4.").unwrap_or(&dotted);
        let count = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        let size = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        match (key, numbers.as_slice()) {
            ("tcp_timestamps", &[on @ (0 | 1)]) => tcp.timestamps = on == 1,
            ("tcp_sack", &[on @ (0 | 1)]) => tcp.sack = on == 1,
            ("tcp_recovery", &[bits @ 0..=7]) => {
                tcp.rack = bits & 1 != 0;
                tcp.rack_static_window = bits & 2 != 0;
                tcp.rack_dup_threshold = bits & 4 == 0;
            }
            // Linux has given up the early retransmit of 1 and 2; what is left of the values is the probe.
            ("tcp_early_retrans", &[value @ 0..=4]) => tcp.loss_probes = value >= 3,
            ("tcp_frto", &[value @ 0..=2]) => tcp.frto = value > 0,
            ("tcp_reordering", &[n @ 1..=300]) => tcp.reordering_segments = count(n),
            ("tcp_max_reordering", &[n]) => tcp.max_reordering_segments = count(n),
            ("tcp_dsack", &[on @ (0 | 1)]) => tcp.dsack = on == 1,
            ("tcp_window_scaling", &[on @ (0 | 1)]) => tcp.window_scaling = on == 1,
            ("tcp_congestion_control" | "net.ipv4.tcp_congestion_control", _) => {
                tcp.congestion = congestion(value).ok_or("cubic, reno, dctcp and bbr are supported")?;
            }
            // Half of a receive buffer is Linux's window.
            ("tcp_rmem", &[_, default, max]) => {
                tcp.recv_buffer_bytes = size(default / 2);
                tcp.recv_buffer_max_bytes = size(max);
            }
            ("tcp_moderate_rcvbuf", &[on @ (0 | 1)]) => tcp.moderate_recv_buffer = on == 1,
            ("tcp_wmem", &[_, _, max]) => {
                tcp.send_buffer_bytes = tcp.send_buffer_bytes.min(size(max));
                tcp.send_buffer_max_bytes = size(max);
            }
            ("tcp_syn_retries", &[n]) => tcp.syn_retries = count(n),
            ("tcp_synack_retries", &[n]) => tcp.syn_ack_retries = count(n),
            ("tcp_retries2", &[n]) => tcp.retries = count(n),
            ("tcp_orphan_retries", &[n]) => tcp.orphan_retries = if n == 0 { 8 } else { count(n) },
            ("tcp_syncookies", &[mode @ (0..=2)]) => {
                tcp.syn_cookies = match mode {
                    0 => SynCookies::Never,
                    1 => SynCookies::OnOverflow,
                    _ => SynCookies::Always,
                };
            }
            ("tcp_max_syn_backlog", &[n]) => tcp.max_half_open = size(n),
            ("tcp_abort_on_overflow", &[on @ (0 | 1)]) => tcp.abort_on_overflow = on == 1,
            ("tcp_fastopen", &[bits]) => {
                let on = |bit: u64| bits & bit != 0;
                let fast_open = &mut tcp.fast_open;
                (fast_open.client, fast_open.server) = (on(1), on(2));
                (fast_open.client_without_cookie, fast_open.server_without_cookie) = (on(4), on(0x200));
                fast_open.all_listeners = on(0x400);
            }
            ("tcp_fastopen_key", _) => {
                let mut keys = value.split(',').map(fast_open_key);
                tcp.fast_open.key =
                    Some(keys.next().flatten().ok_or("a key is four words of hexadecimal digits")?);
                tcp.fast_open.backup_key = keys.next().flatten();
            }
            ("tcp_fastopen_blackhole_timeout_sec", &[s]) => {
                tcp.fast_open.blackhole_pause = Duration::from_secs(s);
            }
            ("tcp_mtu_probing", &[mode @ (0..=2)]) => {
                tcp.mtu_probing = match mode {
                    0 => MtuProbing::Never,
                    1 => MtuProbing::OnBlackHole,
                    _ => MtuProbing::Always,
                };
            }
            ("tcp_base_mss", &[n]) => tcp.base_mss_bytes = count(n) as u16,
            ("tcp_mtu_probe_floor", &[n]) => tcp.mtu_probe_floor_bytes = count(n) as u16,
            ("tcp_probe_threshold", &[n]) => tcp.mtu_probe_threshold_bytes = count(n) as u16,
            ("tcp_probe_interval", &[s]) => tcp.mtu_probe_interval = Duration::from_secs(s),
            ("tcp_tw_reuse", &[mode @ (0..=2)]) => {
                tcp.time_wait_reuse = match mode {
                    0 => TimeWaitReuse::Never,
                    1 => TimeWaitReuse::Always,
                    _ => TimeWaitReuse::Local,
                };
            }
            ("tcp_max_orphans", &[n]) => tcp.max_orphans = size(n),
            ("tcp_max_tw_buckets", &[n]) => tcp.max_time_wait = size(n),
            ("tcp_fin_timeout", &[seconds]) => tcp.fin_wait_2 = Duration::from_secs(seconds),
            ("tcp_min_snd_mss", &[n]) => tcp.min_send_mss_bytes = count(n) as u16,
            ("tcp_challenge_ack_limit", &[n]) => tcp.challenge_acks_per_second = count(n),
            ("tcp_invalid_ratelimit", &[ms]) => tcp.challenge_ack_interval = Duration::from_millis(ms),
            ("tcp_rto_min_us", &[us]) => tcp.min_rto = Duration::from_micros(us),
            ("tcp_rto_max_ms", &[ms]) => tcp.max_rto = Duration::from_millis(ms),
            ("tcp_ecn" | "net.inet.tcp.ecn.enable", &[mode @ 0..=2]) => {
                tcp.ecn = [EcnMode::Off, EcnMode::On, EcnMode::Passive][mode as usize];
            }
            ("tcp_ecn", &[mode @ 3..=5]) => {
                let modes = [EcnMode::Accurate, EcnMode::AccurateOn, EcnMode::AccuratePassive];
                tcp.ecn = modes[mode as usize - 3];
            }
            ("tcp_ecn_option", &[mode @ 0..=3]) => {
                let modes = [EcnOption::Never, EcnOption::OnChange, EcnOption::Always, EcnOption::Persistent];
                tcp.ecn_option = modes[mode as usize];
            }
            ("tcp_ecn_option_beacon", &[n]) => tcp.ecn_option_beacon = count(n),
            ("tcp_pacing_ss_ratio", &[percent @ 0..=1000]) => tcp.pacing_slow_start_percent = count(percent),
            ("tcp_pacing_ca_ratio", &[percent @ 0..=1000]) => tcp.pacing_avoidance_percent = count(percent),
            ("tcp_ecn_fallback", &[on @ (0 | 1)]) => tcp.ecn_fallback = on == 1,
            ("tcp_slow_start_after_idle", &[on @ (0 | 1)]) => tcp.slow_start_after_idle = on == 1,
            (".sys.module.tcp_cubic.parameters.hystart", &[on @ (0 | 1)]) => {
                tcp.hystart = on == 1;
            }
            ("ip_local_port_range", &[low, high]) => tcp.ephemeral_ports = (low as u16, high as u16),
            ("tcp_keepalive_time", &[s]) => self.keepalive.idle = Duration::from_secs(s),
            ("tcp_keepalive_intvl", &[s]) => self.keepalive.interval = Duration::from_secs(s),
            ("tcp_keepalive_probes", &[n]) => self.keepalive.probes = count(n),
            // FreeBSD's.
            ("net.inet.tcp.rfc1323", &[on @ (0 | 1)]) => {
                tcp.timestamps = on == 1;
                tcp.window_scaling = on == 1;
            }
            ("net.inet.tcp.sack.enable", &[on @ (0 | 1)]) => tcp.sack = on == 1,
            ("net.inet.tcp.recvspace", &[n]) => tcp.recv_buffer_bytes = size(n),
            ("net.inet.tcp.sendspace", &[n]) => tcp.send_buffer_bytes = size(n),
            ("kern.ipc.maxsockbuf", &[n]) => tcp.recv_buffer_max_bytes = size(n),
            ("net.inet.tcp.rexmit_initial", &[ms]) => tcp.initial_rto = Duration::from_millis(ms),
            ("net.inet.tcp.msl", &[ms]) => tcp.time_wait = Duration::from_millis(2 * ms),
            ("net.inet.tcp.delacktime", &[ms]) => tcp.delayed_ack = Duration::from_millis(ms),
            ("net.inet.tcp.cc.algorithm", _) => {
                tcp.congestion = congestion(value).ok_or("cubic, newreno, dctcp and bbr are supported")?;
            }
            (key, &[n]) if FIXED.iter().any(|(name, values)| *name == key && values.contains(&n)) => {}
            (key, _) if WITHOUT_EFFECT.contains(&key) => {}
            (key, _) => {
                return Err(match FIXED.iter().find(|(name, _)| *name == key) {
                    Some((_, values)) => {
                        format!("{dotted}={value} is not supported: the stack behaves as with {values:?}")
                    }
                    None => format!("the sysctl {dotted}={value} is not supported"),
                });
            }
        }
        Ok(())
    }

    /// The attributes of a route, which the link then has.
    fn route(&mut self, words: &[&str]) -> Result<(), String> {
        let mut words = words.iter();
        while let Some(&word) = words.next() {
            let mut value = || match words.next() {
                Some(&"lock") => words.next().copied().ok_or_else(|| format!("{word} needs a value")),
                Some(&value) => Ok(value),
                None => Err(format!("{word} needs a value")),
            };
            let number =
                |value: &str| value.parse::<u32>().map_err(|_| format!("{word} {value}: expected a number"));
            match word {
                "dev" | "via" | "proto" | "scope" | "src" | "metric" | "table" => drop(value()?),
                "default" => {}
                word if word.contains(['.', ':', '/']) => {}
                "mtu" => self.stack.mtu = Some(number(value()?)? as u16),
                "initcwnd" => self.stack.tcp.initial_window_segments = number(value()?)?,
                "congctl" => {
                    self.stack.tcp.congestion =
                        congestion(value()?).ok_or("cubic, reno, dctcp and bbr are supported")?;
                }
                "rto_min" => {
                    let text = value()?;
                    self.stack.tcp.min_rto =
                        Duration::from_millis(number(text.trim_end_matches("ms"))?.into());
                }
                other => return Err(format!("the route attribute '{other}' is not supported")),
            }
        }
        Ok(())
    }
}

/// A key of Fast Open cookies, as Linux writes it: `a1a1a1a1-b2b2b2b2-c3c3c3c3-d4d4d4d4`.
fn fast_open_key(text: &str) -> Option<[u8; 16]> {
    let words: Option<Vec<u32>> = text.split('-').map(|word| u32::from_str_radix(word, 16).ok()).collect();
    let bytes: Vec<u8> = words?.iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.try_into().ok()
}

fn congestion(name: &str) -> Option<CongestionControl> {
    CongestionControl::from_name(name.trim_matches('"')).filter(|kind| *kind != CongestionControl::None)
}

/// What the stack cannot be told, and the values that say what it does.
const FIXED: &[(&str, &[u64])] =
    &[("tcp_fack", &[0]), ("tcp_rfc1337", &[0]), ("tcp_stdurg", &[0]), ("tcp_shrink_window", &[0])];

/// What only Linux has to decide, or what no packet shows.
const WITHOUT_EFFECT: &[&str] = &[
    "tcp_no_metrics_save",
    "tcp_autocorking",
    "tcp_limit_output_bytes",
    "tcp_min_tso_segs",
    "tcp_tso_win_divisor",
    "tcp_adv_win_scale",
    "tcp_app_win",
    "tcp_low_latency",
    "net.core.rmem_max",
    "net.core.wmem_max",
    "net.core.netdev_max_backlog",
    "net.core.default_qdisc",
    "net.inet.tcp.hostcache.purgenow",
];

/// The commands of a shell text as words: quotes taken off, redirections of output to nowhere left out.
fn commands(text: &str) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    let mut words: Vec<String> = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars().peekable();
    let end_word = |word: &mut Option<String>, words: &mut Vec<String>| words.extend(word.take());
    while let Some(c) = chars.next() {
        match c {
            '"' | '\'' => {
                let quoted: String = chars.by_ref().take_while(|other| *other != c).collect();
                word.get_or_insert_default().push_str(&quoted);
            }
            '\\' if chars.peek() == Some(&'\n') => {
                chars.next();
            }
            '#' if word.is_none() => while chars.next_if(|c| *c != '\n').is_some() {},
            '\n' | ';' | '&' | '|' => {
                // `>&1` and `2>&1` go on.
                if c == '&' && word.as_deref().is_some_and(|word| word.ends_with('>')) {
                    word.get_or_insert_default().push(c);
                    continue;
                }
                end_word(&mut word, &mut words);
                all.push(core::mem::take(&mut words));
            }
            c if c.is_whitespace() => end_word(&mut word, &mut words),
            c => word.get_or_insert_default().push(c),
        }
    }
    end_word(&mut word, &mut words);
    all.push(words);
    for words in &mut all {
        let mut skip_next = false;
        words.retain(|word| {
            let nowhere = word.starts_with("2>") || word.contains(">/dev/null") || word.contains(">&");
            let keep = !(nowhere || skip_next && word == "/dev/null");
            skip_next = matches!(word.as_str(), ">" | "2>" | "&>");
            keep
        });
        if words.last().is_some_and(|word| word == ">" || word == "&>") {
            words.pop();
        }
    }
    all.retain(|words| !words.is_empty());
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> Result<Settings, String> {
        let mut settings = Settings::default();
        settings.apply(text, false).map(|()| settings)
    }

    #[test]
    fn sysctls_become_configuration_however_they_are_written() {
        for text in [
            "sysctl -q net.ipv4.tcp_timestamps=0 net.ipv4.tcp_syn_retries=3",
            "../common/set_sysctls.py /proc/sys/net/ipv4/tcp_timestamps=0 \\\n /proc/sys/net/ipv4/tcp_syn_retries=3",
            "echo 0 > /proc/sys/net/ipv4/tcp_timestamps; sysctl -w net/ipv4/tcp_syn_retries=3 > /dev/null 2>&1",
        ] {
            let tcp = set(text).unwrap().stack.tcp;
            assert_eq!((tcp.timestamps, tcp.syn_retries), (false, 3), "{text}");
        }
        let tcp = set("sysctl -q net.ipv4.tcp_rmem=\"4096 131072 6291456\"").unwrap().stack.tcp;
        assert_eq!((tcp.recv_buffer_bytes, tcp.recv_buffer_max_bytes), (65_536, 6_291_456));
    }

    #[test]
    fn routes_say_what_the_link_is_like() {
        let stack =
            set("ip route replace default via 10.0.0.1 dev tun0 initcwnd 4 mtu lock 1400 congctl reno")
                .unwrap()
                .stack;
        assert_eq!((stack.tcp.initial_window_segments, stack.mtu), (4, Some(1400)));
        assert_eq!(stack.tcp.congestion, CongestionControl::NewReno);
        assert!(set("ip tcp_metrics flush all > /dev/null 2>&1").is_ok());
    }

    #[test]
    fn what_is_unknown_or_not_there_is_named() {
        for (text, word) in [
            ("sysctl -q net.ipv4.tcp_nonsense=1", "net.ipv4.tcp_nonsense=1"),
            ("sysctl -q net.ipv4.tcp_rfc1337=1", "behaves as with [0]"),
            ("iptables -F", "iptables -F"),
            ("ip route add default hoplimit 3", "hoplimit"),
            ("true && rm -rf /x", "rm -rf /x"),
        ] {
            let error = set(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
        let late = Settings::default().apply("sysctl -q net.ipv4.tcp_sack=0", true).unwrap_err();
        assert!(late.contains("before the first event"), "{late}");
    }
}
