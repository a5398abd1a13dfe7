//! Device strings: what `device` may name, parsed. Opening what they name is `transports::open`'s.

use std::fmt;
use std::str::FromStr;

use super::kinds::Idle;

/// What carries a runtime's sockets.
///
/// ```
/// use demi::config::DeviceSpec;
/// let device: DeviceSpec = "tap:demi0".parse().unwrap();
/// assert_eq!(device, DeviceSpec::Tap { name: "demi0".into() });
/// assert_eq!(device.to_string(), "tap:demi0");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeviceSpec {
    /// `auto`: [`Uring`](Self::Uring) where the kernel allows it, else [`Posix`](Self::Posix).
    Auto,
    /// `uring`: kernel sockets through io_uring.
    Uring,
    /// `posix`: kernel sockets through epoll.
    Posix,
    /// `tap:NAME`: our stack on a TAP interface, created if need be.
    Tap {
        /// The interface.
        name: String,
    },
    /// `packet:IF`: our stack on an existing interface, through AF_PACKET rings.
    Packet {
        /// The interface.
        interface: String,
    },
    /// `xdp:IF[@QUEUE][,busy]`: our stack on a queue of an existing interface, through AF_XDP.
    Xdp {
        /// The interface.
        interface: String,
        /// Its receive queue; with several cores, that of the first.
        queue: u32,
        /// The driver looks for frames only when the loop asks it to (`SO_PREFER_BUSY_POLL`).
        busy: bool,
    },
    /// `dpdk:EAL ARGS`: our stack on a DPDK port.
    Dpdk {
        /// Arguments of DPDK's environment abstraction layer, separated by blanks.
        arguments: String,
    },
    /// `rdma:DEV`: reliable connections over an RDMA device.
    Rdma {
        /// The verbs device.
        device: String,
    },
    /// `wire`: our stack on a link in memory with nobody at its other end: programs that only talk to themselves.
    Wire,
}

/// The longest name Linux gives an interface (`IFNAMSIZ` less the zero).
const MAX_INTERFACE_NAME: usize = 15;

impl DeviceSpec {
    /// Every form of a device string, for messages.
    pub const FORMS: &'static str =
        "auto, uring, posix, tap:NAME, packet:IF, xdp:IF[@QUEUE][,busy], dpdk:EAL ARGS, rdma:DEV, wire";

    /// Whether the kernel's own sockets carry the traffic.
    pub fn is_kernel(&self) -> bool {
        matches!(self, DeviceSpec::Auto | DeviceSpec::Uring | DeviceSpec::Posix)
    }

    /// What the loop does when idle, unless `idle` says otherwise: spin where the kernel is bypassed.
    pub fn default_idle(&self) -> Idle {
        match self {
            DeviceSpec::Xdp { .. } | DeviceSpec::Dpdk { .. } | DeviceSpec::Rdma { .. } => Idle::Spin,
            _ => Idle::Adaptive,
        }
    }
}

impl FromStr for DeviceSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let (kind, rest) = match text.split_once(':') {
            Some((kind, rest)) => (kind, Some(rest.trim())),
            None => (text, None),
        };
        let lacks = |what| format!("`{text}` lacks its {what}: write {kind}:{what}");
        let operand =
            |what| rest.filter(|rest| !rest.is_empty()).map(str::to_owned).ok_or_else(|| lacks(what));
        let interface = |what| operand(what).and_then(interface_name);
        let spec = match kind {
            "auto" => DeviceSpec::Auto,
            "uring" => DeviceSpec::Uring,
            "posix" => DeviceSpec::Posix,
            "wire" => DeviceSpec::Wire,
            "tap" => return Ok(DeviceSpec::Tap { name: interface("NAME")? }),
            "packet" => return Ok(DeviceSpec::Packet { interface: interface("IF")? }),
            "xdp" => return xdp(&operand("IF")?),
            "dpdk" => return Ok(DeviceSpec::Dpdk { arguments: operand("EAL ARGS")? }),
            "rdma" => return Ok(DeviceSpec::Rdma { device: operand("DEV")? }),
            _ => return Err(format!("no such device `{text}`: write one of {}", Self::FORMS)),
        };
        match rest {
            None => Ok(spec),
            Some(_) => Err(format!("`{kind}` takes nothing behind a colon: write {kind}")),
        }
    }
}

fn xdp(operand: &str) -> Result<DeviceSpec, String> {
    let (operand, busy) = match operand.split_once(',') {
        None => (operand, false),
        Some((operand, "busy")) => (operand, true),
        Some((operand, other)) => {
            return Err(format!("`{other}` is nothing xdp knows: write xdp:{operand} or xdp:{operand},busy"));
        }
    };
    let (interface, queue) = operand.split_once('@').unwrap_or((operand, "0"));
    let queue = queue.parse().map_err(|_| format!("`{queue}` is no queue: write xdp:{interface}@0"))?;
    Ok(DeviceSpec::Xdp { interface: interface_name(interface.to_owned())?, queue, busy })
}

/// Holds an interface's name to Linux's rules (`dev_valid_name`).
fn interface_name(name: String) -> Result<String, String> {
    let fits = !name.is_empty() && name.len() <= MAX_INTERFACE_NAME && name != "." && name != "..";
    if fits && !name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control()) {
        Ok(name)
    } else {
        Err(format!(
            "`{name}` cannot name an interface: 1 to {MAX_INTERFACE_NAME} bytes, no blank, `/` or `:`"
        ))
    }
}

impl fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceSpec::Auto => f.write_str("auto"),
            DeviceSpec::Uring => f.write_str("uring"),
            DeviceSpec::Posix => f.write_str("posix"),
            DeviceSpec::Tap { name } => write!(f, "tap:{name}"),
            DeviceSpec::Packet { interface } => write!(f, "packet:{interface}"),
            DeviceSpec::Xdp { interface, queue, busy } => {
                write!(f, "xdp:{interface}")?;
                if *queue > 0 {
                    write!(f, "@{queue}")?;
                }
                f.write_str(if *busy { ",busy" } else { "" })
            }
            DeviceSpec::Dpdk { arguments } => write!(f, "dpdk:{arguments}"),
            DeviceSpec::Rdma { device } => write!(f, "rdma:{device}"),
            DeviceSpec::Wire => f.write_str("wire"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read_and_written_alike() {
        for text in [
            "auto",
            "uring",
            "posix",
            "wire",
            "tap:demi0",
            "packet:eth1",
            "xdp:eth1",
            "xdp:eth1@3",
            "xdp:eth1@3,busy",
            "xdp:eth1,busy",
            "dpdk:--no-huge -m 64 --vdev=net_ring0",
            "dpdk:-a 0000:00:04.0",
            "rdma:rxe0",
        ] {
            assert_eq!(text.parse::<DeviceSpec>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_wrong_one_is_answered_with_what_to_write() {
        for (text, says) in [
            ("tun0", "write one of auto, uring"),
            ("", "write one of"),
            ("tap", "write tap:NAME"),
            ("tap:", "write tap:NAME"),
            ("tap:a-name-that-is-too-long", "15 bytes"),
            ("packet:a/b", "cannot name"),
            ("xdp:eth0@x", "no queue"),
            ("xdp:eth0,lazy", "write xdp:eth0 or xdp:eth0,busy"),
            ("uring:0", "write uring"),
        ] {
            let error = text.parse::<DeviceSpec>().unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
